"""Changes of a domain's record: nothing is lost, whatever fails; and which pools it may belong to."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from storage import errors, ids
from storage.domains import filedomain
from tests.support import faults, filedomains

DOMAIN = filedomains.DOMAIN
POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
OTHER_POOL = ids.PoolId("7e4d6a96-1234-1234-8905-b5eec55c1535")
umask, mount, domain, make = filedomains.umask, filedomains.mount, filedomains.domain, filedomains.make


# ---------------------------------------------------------------- changing


def test_update_keeps_other_keys_and_the_mode(domain: filedomain.FileDomain) -> None:
    domain.metadata_path.chmod(0o640)
    before = dict(domain.metadata().raw)
    after = domain.update({"ROLE": "Master", "NEW": " x ", "LOCKPOLICY": None})
    del before["LOCKPOLICY"]
    assert after.raw == domain.metadata().raw == before | {"ROLE": "Master", "NEW": "x"}
    assert stat.S_IMODE(domain.metadata_path.stat().st_mode) == 0o640
    assert sorted(os.listdir(domain.path / "dom_md")) == ["ids", "inbox", "leases", "metadata", "outbox"]


def test_an_update_without_change_writes_nothing(domain: filedomain.FileDomain) -> None:
    inode = domain.metadata_path.stat().st_ino
    domain.update({"ROLE": "Regular "})
    assert domain.metadata_path.stat().st_ino == inode


def test_an_update_that_cannot_be_stored_changes_nothing(domain: filedomain.FileDomain) -> None:
    before = domain.metadata_path.read_bytes()
    with pytest.raises(errors.MetaDataValidationError):
        domain.update({"ROLE": "Master", "DESCRIPTION": "a\x85ROLE=Regular"})
    assert domain.metadata_path.read_bytes() == before


def test_crash_at_any_step_of_an_update_leaves_the_old_record_or_the_new(domain: filedomain.FileDomain) -> None:
    old = domain.metadata().raw
    new = {**old, "DESCRIPTION": "new", "ROLE": "Master"}
    seen = []
    for fault in faults.crash_points():
        with fault.strike():
            domain.update({"DESCRIPTION": "new", "ROLE": "Master"})
        found = domain.metadata().raw
        assert found in (old, new)
        seen.append(found == new)
        domain.update(old)
    assert seen == sorted(seen) and not seen[0] and seen[-1], "old up to the commit, new from there on"


def test_failure_at_any_step_of_an_update_is_told_and_leaves_no_temporary_file(domain: filedomain.FileDomain) -> None:
    before = sorted(os.listdir(domain.path / "dom_md"))
    for at in range(100):
        fault = faults.Faults(at, OSError(errno.EIO, "Input/output error"))
        with fault.strike():
            try:
                domain.update({"DESCRIPTION": str(at)})
            except errors.StorageDomainAccessError:
                assert fault.fired
            else:
                assert not fault.fired
        domain.metadata()
        assert sorted(os.listdir(domain.path / "dom_md")) == before
        if not fault.fired:
            return
    pytest.fail("no update ever succeeded")


def test_concurrent_updates_lose_nothing(mount: Path, domain: filedomain.FileDomain) -> None:
    def work(number: int) -> None:
        for step in range(10):
            filedomain.FileDomain(DOMAIN, mount).update({f"K{number}": str(step)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key: value for key, value in domain.metadata().raw.items() if key.startswith("K")} == {
        f"K{number}": "9" for number in range(4)
    }


def test_a_data_domain_belongs_to_one_pool(domain: filedomain.FileDomain) -> None:
    domain.set_pool(POOL)
    domain.set_pool(POOL)
    assert domain.pools == [POOL]
    with pytest.raises(errors.StorageDomainAlreadyAttached):
        domain.set_pool(OTHER_POOL)
    with pytest.raises(errors.StorageDomainNotInPool):
        domain.clear_pool(OTHER_POOL)
    domain.update({"ROLE": "Master"})
    domain.clear_pool(POOL)
    assert domain.pools == [] and not domain.metadata().is_master
    assert domain.metadata().raw["POOL_UUID"] == ""
    domain.clear_pool()


def test_an_iso_domain_may_belong_to_several(mount: Path) -> None:
    domain = make(mount, domain_class="Iso")
    domain.set_pool(POOL)
    domain.set_pool(OTHER_POOL)
    assert domain.pools == [POOL, OTHER_POOL]
    domain.clear_pool(POOL)
    assert domain.pools == [OTHER_POOL]
    domain.set_pool(POOL)
    domain.clear_pool()
    assert domain.pools == []
