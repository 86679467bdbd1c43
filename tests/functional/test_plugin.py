"""The pytest fixture, as other projects use it: in a pytest of its own, with the test that the README shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import house

pytestmark = pytest.mark.qemu

SECTION = re.compile(r"## Test your engine with it\n.*?```python\n(.*?)```", re.DOTALL)


def run(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-I", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(directory), "--basetemp", str(directory / "temporary"), "test_it.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_test_in_the_readme_passes(tmp_path: Path) -> None:
    found = SECTION.search((house.ROOT / "README.md").read_text())
    assert found and len(found[1].splitlines()) <= 10
    done = run(tmp_path, found[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


EVERYTHING = """
import os, pytest
from vdsmlite import testserver

def test_pools_images_and_chains(vdsmlite):
    with open("pid", "w") as file:
        file.write(str(vdsmlite.pid))
    assert vdsmlite.xmlrpc.ping()["status"]["code"] == 0
    for version in (0, 3):
        pool = vdsmlite.make_pool(domain_version=version) if not version else pool
    info = vdsmlite.jsonrpc("StorageDomain.getInfo", storagedomainID=pool.domain_id)
    assert info["version"] == "0"
    image = vdsmlite.make_image(capacity=5 << 20)
    assert image.pool_id == pool.id
    where = (image.domain_id, image.pool_id, image.id, image.leaf)
    assert vdsmlite.xmlrpc.getVolumeInfo(*where)["info"]["capacity"] == str(5 << 20)
    chain = vdsmlite.make_chain(3)
    assert sorted(p.name for p in chain.directory.iterdir() if "." not in p.name) == sorted(chain.volumes)
    task = vdsmlite.call("deleteImage", image.domain_id, image.pool_id, image.id)["uuid"]
    assert vdsmlite.wait(task)["taskResult"] == "success"
    assert vdsmlite.wait(task)["taskState"] == "finished"

def test_failures_are_told(vdsmlite):
    with pytest.raises(testserver.Failed) as failed:
        vdsmlite.wait("aaaaaaaa-0000-4000-8000-000000000001")
    assert failed.value.code == 401
    with pytest.raises(testserver.Failed) as failed:
        vdsmlite.jsonrpc("Task.getStatus", taskID="aaaaaaaa-0000-4000-8000-000000000001")
    assert failed.value.code == 401
    pool = vdsmlite.make_pool()
    volume = (pool.domain_id, pool.id, pool.id, "1048576", 4, 2, 2, pool.id, "", pool.id, pool.domain_id)
    with pytest.raises(testserver.Failed):
        vdsmlite.wait(vdsmlite.call("createVolume", *volume)["uuid"])
"""


def test_everything_the_fixture_offers(tmp_path: Path) -> None:
    done = run(tmp_path, EVERYTHING)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_who_does_not_use_it_does_not_pay_for_it(tmp_path: Path) -> None:
    loaded = """
import sys

def test_nothing_is_loaded():
    assert "vdsmlite.pytest_plugin" in sys.modules
    for module in ("vdsmlite.testserver", "vdsmlite.daemon", "storage", "rpc", "xmlrpc.client"):
        assert module not in sys.modules
"""
    done = run(tmp_path, loaded)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_daemon_knows_nothing_of_pytest() -> None:
    code = "import sys; from vdsmlite import daemon, testserver; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0
