"""Fence agents: what they read, what their exit status means, and what is refused. The agents are small scripts."""

import dataclasses
import types
from pathlib import Path
from typing import Any

import pytest

from storage import errors, fencing, ids
from storage.domains import clusterlock
from storage.hsm import fence

REQUEST = fencing.Request("test", "10.0.0.9", "", "admin", "secret word", "status", False, "")
DOMAIN = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")


def agent(directory: Path, body: str, name: str = "test") -> tuple[Path]:
    program = directory / f"fence_{name}"
    program.write_text(f"#!/bin/sh\ncat > {directory}/input\necho $# > {directory}/count\n{body}\n")
    program.chmod(0o755)
    return (directory,)


def ask(directories: tuple[Path, ...], **changes: Any) -> str:
    return fencing.run(dataclasses.replace(REQUEST, **changes), directories)


def test_an_agent_reads_lines_and_no_arguments(tmp_path: Path) -> None:
    where = agent(tmp_path, "exit 0")
    ask(where, port="A7", secure=True, options="lanplus=1\nslot=2, delay=3")
    assert (tmp_path / "input").read_text().splitlines() == [
        "agent=fence_test",
        "ipaddr=10.0.0.9",
        "login=admin",
        "action=status",
        "passwd=secret word",
        "port=A7",
        "secure=yes",
        "lanplus=1",
        "slot=2",
        "delay=3",
    ]
    assert (tmp_path / "count").read_text() == "0\n"
    assert "secret" not in repr(REQUEST)


@pytest.mark.parametrize(("code", "power"), [(0, "on"), (1, "unknown"), (2, "off")])
def test_the_status(tmp_path: Path, code: int, power: str) -> None:
    assert ask(agent(tmp_path, f"exit {code}")) == power


@pytest.mark.parametrize("action", ["on", "off", "reboot"])
def test_changes_of_power(tmp_path: Path, action: str) -> None:
    assert ask(agent(tmp_path, "exit 0"), action=action) == "unknown"
    for code in (1, 2):
        with pytest.raises(errors.StorageError, match="no such plug") as caught:
            ask(agent(tmp_path, f"echo no such plug >&2; exit {code}"), action=action)
        assert caught.value.code == code


@pytest.mark.parametrize("body", ["exit 3", "kill -9 $$", "exit 127"])
def test_an_agent_that_dies(tmp_path: Path, body: str) -> None:
    with pytest.raises(errors.FenceError) as caught:
        ask(agent(tmp_path, body))
    assert caught.value.code == 1


def test_an_agent_that_does_not_read(tmp_path: Path) -> None:
    program = tmp_path / "fence_test"
    program.write_text("#!/bin/sh\nexec <&-\nexit 0\n")
    program.chmod(0o755)
    assert ask((tmp_path,), options=",".join(f"a{i}={'x' * 50}" for i in range(100))) == "on"


def test_the_password_is_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(errors.FenceError) as caught:
        ask(agent(tmp_path, 'echo "login failed for secret word" >&2; exit 1'), action="off")
    assert "secret" not in str(caught.value) and "login failed for ***" in str(caught.value)


@pytest.mark.parametrize("name", ["none", "", "../test", "test\n", "/bin/sh", "TEST", "test;id", "t" * 65])
def test_unknown_agents(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.FenceAgentError) as caught:
        ask(agent(tmp_path, "exit 0"), agent=name)
    assert caught.value.code == 43
    assert not (tmp_path / "input").exists()


@pytest.mark.parametrize("action", ["", "ON", "list", "monitor", "status\noff", "metadata"])
def test_unknown_actions(tmp_path: Path, action: str) -> None:
    with pytest.raises(errors.UnexpectedError) as caught:
        ask(agent(tmp_path, "exit 0"), action=action)
    assert caught.value.code == 16
    assert not (tmp_path / "input").exists()


@pytest.mark.parametrize(
    "options",
    ["action=off", "slot=1,action=reboot", "agent=x", "passwd_script=/tmp/x", "ssh_path=/tmp/x", "a b=c", "=x"],
)
def test_options_that_would_ask_for_something_else_or_run_a_program(tmp_path: Path, options: str) -> None:
    with pytest.raises(errors.InvalidParameterException):
        ask(agent(tmp_path, "exit 0"), options=options)
    assert not (tmp_path / "input").exists()


# ---------------------------------------------------------------- the verb


class Lock:
    def __init__(self, holder: clusterlock.Holder | errors.StorageError | None) -> None:
        self.holder = holder

    def inquire(self) -> clusterlock.Holder | None:
        if isinstance(self.holder, errors.StorageError):
            raise self.holder
        return self.holder


def services(holder: Any) -> Any:
    domain = types.SimpleNamespace(cluster_lock=Lock(holder))
    return types.SimpleNamespace(domains=types.SimpleNamespace(find=lambda domain_id: domain))


def run_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, holder: Any
) -> tuple[dict[str, Any], list[str]]:
    asked: list[str] = []
    monkeypatch.setattr(fencing, "run", lambda request: asked.append(request.action) or "on")
    request = dataclasses.replace(REQUEST, action=action)
    return fence.fence(services(holder), request, {DOMAIN: 7}), asked


@pytest.mark.parametrize(
    ("holder", "skipped"),
    [
        (None, False),
        (clusterlock.Holder(7, 0), True),
        (clusterlock.Holder(8, 0), False),
        (clusterlock.Holder(None, 0), False),
        (errors.AcquireLockFailure(domain=DOMAIN, reason="unknown"), False),
    ],
)
def test_a_host_that_is_alive_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: Any, skipped: bool
) -> None:
    answer, asked = run_verb(tmp_path, monkeypatch, "off", holder)
    assert answer == ({"operationStatus": "skipped"} if skipped else {"power": "on", "operationStatus": "initiated"})
    assert asked == ([] if skipped else ["off"])
    assert run_verb(tmp_path, monkeypatch, "status", holder) == ({"power": "on"}, ["status"])
