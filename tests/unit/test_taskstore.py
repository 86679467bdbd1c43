"""Task records on disk: the format in both directions, which copy counts, and every crash window of a save."""

import contextlib
import dataclasses
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from storage import errors, files, ids, locks
from storage.jobs import recovery, taskformat, tasks, taskstore
from tests.support import faults

TASK = ids.TaskId("0d1f2e3c-1111-2222-3333-444455556666")
STEP = recovery.Recovery("Create volume rollback", "volume", "Volume", "createVolumeRollback", ("a", "/srv/x", "b"))
RUNNING = tasks.Record(TASK, "createVolume", state=tasks.State.RUNNING, jobs=("createVolume",), recoveries=(STEP,))
FINISHED = dataclasses.replace(RUNNING, state=tasks.State.FINISHED, message="1 job done", result="{'uuid': 'x'}")

TEXT = st.text(max_size=40)
WORD = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
STEPS = st.builds(
    recovery.Recovery, st.text(min_size=1, max_size=20), WORD, WORD, WORD, st.lists(TEXT, max_size=4).map(tuple)
)
LOCKS = st.builds(locks.Lock, st.from_regex(r"[0-9a-f_-]{1,20}", fullmatch=True), st.booleans())
RECORDS = st.builds(
    tasks.Record,
    id=st.just(TASK),
    verb=TEXT,
    tag=st.sampled_from(["spm", "hsm", ""]),
    state=st.sampled_from(list(tasks.State)),
    jobs=st.lists(TEXT, max_size=2).map(tuple),
    recoveries=st.lists(STEPS, max_size=4).map(tuple),
    locked=st.lists(LOCKS, max_size=3).map(tuple),
    code=st.integers(0, 9999),
    message=TEXT,
    result=st.just(""),
)


def write(store: Path, name: str, contents: dict[str, str]) -> Path:
    directory = store / name
    directory.mkdir(parents=True)
    for file, text in contents.items():
        (directory / file).write_text(text)
    return directory


def reference(state: str, **more: str) -> dict[str, str]:
    """Files as the reference writes them: its field order, no fields of ours."""
    head = (
        f"priority = low\nstore = /rhev/data-center/p/mastersd/master/tasks\nrecoveryPolicy = auto\nstate = {state}\n"
        f"metadataVersion = 1\nnrecoveries = 2\nid = {TASK}\nname = createVolume\ncleanPolicy = manual\n"
        "njobs = 1\ntag = spm\npersistPolicy = auto\n"
    )
    return {
        f"{TASK}.task": head,
        f"{TASK}.job.0": "name = create_volume\nruncmd = <bound method of 0x7f> (a_eq_1)\n",
        f"{TASK}.recover.0": (
            "function = createImageRollback\nobject = Image\nname = create image rollback: i\n"
            "params = /rhev/data-center/p/d/images/i\nmoduleName = image\n"
        ),
        f"{TASK}.recover.1": (
            "function = halfbakedVolumeRollback\nobject = Volume\nname = Halfbaked volume rollback\n"
            "params = sd,vol,/path/a_eq_b\nmoduleName = volume\n"
        ),
        **more,
    }


def loaded(store: Path) -> list[tasks.Record]:
    records, _ = taskstore.load(store)
    return records


@given(record=RECORDS)
@settings(deadline=None)
def test_every_record_comes_back(record: tasks.Record) -> None:
    assert taskformat.decode(TASK, taskformat.encode(record, Path("/x"))) == record


@given(data=st.binary(max_size=200), name=st.sampled_from([f"{TASK}.task", f"{TASK}.recover.0", f"{TASK}.result"]))
@settings(deadline=None)
def test_any_bytes_are_a_record_or_a_named_problem(data: bytes, name: str) -> None:
    contents = {**taskformat.encode(FINISHED, Path("/x")), name: data}
    with contextlib.suppress(errors.TaskMetaDataLoadError):
        taskformat.decode(TASK, contents)


@given(cut=st.integers(0, 10**6), name=st.sampled_from(sorted(taskformat.encode(FINISHED, Path("/x")))))
@settings(deadline=None)
def test_a_cut_file_never_gives_another_rollback(cut: int, name: str) -> None:
    contents = taskformat.encode(FINISHED, Path("/x"))
    contents[name] = contents[name][: cut % len(contents[name])]
    try:
        record = taskformat.decode(TASK, contents)
    except errors.TaskMetaDataLoadError:
        return
    assert record.recoveries == FINISHED.recoveries
    assert (record.state, record.verb) == (FINISHED.state, FINISHED.verb)


def test_a_record_of_the_reference_is_read(tmp_path: Path) -> None:
    write(tmp_path, TASK, reference("running"))
    [record] = loaded(tmp_path)
    assert (record.verb, record.tag, record.state) == ("createVolume", "spm", tasks.State.RUNNING)
    assert record.jobs == ("create_volume",)
    assert [step.triple for step in record.recoveries] == [
        ("image", "Image", "createImageRollback"),
        ("volume", "Volume", "halfbakedVolumeRollback"),
    ]
    assert record.recoveries[1].params == ("sd", "vol", "/path/a=b")
    assert (record.code, record.message) == (0, tasks.INITIAL_MESSAGE)


def test_the_outcome_of_a_finished_task_is_in_its_result_file(tmp_path: Path) -> None:
    result = {f"{TASK}.result": "code = 0\nmessage = 1 jobs completed\nresult = {'uuid': 'v'}\n"}
    write(tmp_path, TASK, reference("finished", **result))
    [record] = loaded(tmp_path)
    assert (record.code, record.message, record.result) == (0, "1 jobs completed", "{'uuid': 'v'}")


def test_our_files_are_lines_the_reference_can_split(tmp_path: Path) -> None:
    step = dataclasses.replace(STEP, params=("a=b", "c"))
    taskstore.save(tmp_path, dataclasses.replace(FINISHED, recoveries=(step,)))
    names = {path.name for path in (tmp_path / TASK).iterdir()}
    assert names == {f"{TASK}.task", f"{TASK}.job.0", f"{TASK}.recover.0", f"{TASK}.result"}
    for path in (tmp_path / TASK).iterdir():
        for line in path.read_text().splitlines():
            assert len(line.split("=")) == 2 and " = " in f"{line} "
    assert "params = a_eq_b,c" in (tmp_path / TASK / f"{TASK}.recover.0").read_text()


@pytest.mark.parametrize("param", ["/srv/eq/x_eq_y", "a,b", "a\nb", " a", "", "\u2028"])
def test_a_parameter_that_a_line_cannot_carry_is_not_lost(tmp_path: Path, param: str) -> None:
    record = dataclasses.replace(RUNNING, recoveries=(dataclasses.replace(STEP, params=("x", param)),))
    taskstore.save(tmp_path, record)
    assert loaded(tmp_path) == [record]


@pytest.mark.parametrize("suffix", [taskstore.TEMP, taskstore.BACKUP])
def test_a_lone_copy_counts(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, TASK + suffix, reference("running"))
    assert [record.state for record in loaded(tmp_path)] == [tasks.State.RUNNING]


def test_an_empty_plain_directory_does_not_hide_a_good_backup(tmp_path: Path) -> None:
    (tmp_path / TASK).mkdir()
    write(tmp_path, TASK + taskstore.BACKUP, reference("running"))
    [record] = loaded(tmp_path)
    assert len(record.recoveries) == 2
    taskstore.save(tmp_path, dataclasses.replace(record, state=tasks.State.RECOVERING))
    assert os.listdir(tmp_path) == [TASK]
    assert loaded(tmp_path)[0].state is tasks.State.RECOVERING


def test_a_torn_temp_does_not_hide_the_plain_copy(tmp_path: Path) -> None:
    write(tmp_path, TASK, reference("running"))
    torn = reference("finished")
    del torn[f"{TASK}.recover.1"]
    write(tmp_path, TASK + taskstore.TEMP, torn)
    assert [record.state for record in loaded(tmp_path)] == [tasks.State.RUNNING]


def test_a_complete_temp_is_newer_than_the_others(tmp_path: Path) -> None:
    write(tmp_path, TASK + taskstore.TEMP, reference("recovering"))
    write(tmp_path, TASK, reference("running"))
    write(tmp_path, TASK + taskstore.BACKUP, reference("queued"))
    assert [record.state for record in loaded(tmp_path)] == [tasks.State.RECOVERING]
    taskstore.settle(tmp_path, TASK)
    assert os.listdir(tmp_path) == [TASK]
    assert loaded(tmp_path)[0].state is tasks.State.RECOVERING


def test_unreadable_records_are_named_and_hide_no_other(tmp_path: Path) -> None:
    other = ids.TaskId.new()
    taskstore.save(tmp_path, dataclasses.replace(RUNNING, id=other))
    write(tmp_path, TASK, {f"{TASK}.task": "id = other\n"})
    write(tmp_path, "lost+found", {})
    records, problems = taskstore.load(tmp_path)
    assert [record.id for record in records] == [other]
    assert len(problems) == 2 and any(TASK in problem for problem in problems)


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", TASK, reference("running"))
    store = tmp_path / "store"
    store.mkdir()
    (store / TASK).symlink_to(tmp_path / "elsewhere" / TASK)
    records, problems = taskstore.load(store)
    assert not records and len(problems) == 1


def test_a_missing_store_is_empty_and_an_unreadable_one_is_not(tmp_path: Path) -> None:
    assert taskstore.load(tmp_path / "none") == ([], [])
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        taskstore.load(tmp_path / "file")


def test_a_failed_save_keeps_the_old_record(tmp_path: Path) -> None:
    taskstore.save(tmp_path, RUNNING)
    full = faults.Faults(3, OSError(errno.ENOSPC, "No space left on device"))
    with full.strike(), pytest.raises(errors.TaskMetaDataSaveError, match="No space"):
        taskstore.save(tmp_path, FINISHED)
    assert loaded(tmp_path) == [RUNNING]
    taskstore.save(tmp_path, FINISHED)
    assert loaded(tmp_path) == [FINISHED]
    assert os.listdir(tmp_path) == [TASK]


def test_window_first_save(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        store = tmp_path / str(number)
        store.mkdir()
        with fault.strike():
            taskstore.save(store, RUNNING)
        assert loaded(store) in ([], [RUNNING])
        taskstore.sweep(store)
        assert loaded(store) == taskstore.load(store)[0] and not taskstore.load(store)[1]
    assert loaded(store) == [RUNNING]


@pytest.mark.parametrize("start", ["plain", "temp", "backup", "backup beside an empty plain", "plain beside torn temp"])
def test_window_save_over_an_older_record(tmp_path: Path, start: str) -> None:
    for number, fault in enumerate(faults.crash_points()):
        store = tmp_path / str(number)
        store.mkdir()
        taskstore.save(store, RUNNING)
        if start != "plain" and not start.startswith("plain"):
            os.rename(store / TASK, store / f"{TASK}.{start.split()[0]}")
        if start == "backup beside an empty plain":
            (store / TASK).mkdir()
        if start == "plain beside torn temp":
            write(store, TASK + taskstore.TEMP, {f"{TASK}.task": f"id = {TASK}\n"})
        with fault.strike():
            taskstore.save(store, FINISHED)
        assert loaded(store) in ([RUNNING], [FINISHED])
        taskstore.save(store, FINISHED)
        assert sorted(name for name in os.listdir(store) if not name.endswith(files.TEMPORARY_SUFFIX)) == [TASK]
    assert loaded(store) == [FINISHED]


def test_window_remove_never_brings_an_older_record_back(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        store = tmp_path / str(number)
        store.mkdir()
        for suffix, record in ((taskstore.BACKUP, RUNNING), ("", RUNNING), (taskstore.TEMP, FINISHED)):
            files.create_directory(store / f"{TASK}{suffix}", taskformat.encode(record, store))
        with fault.strike():
            taskstore.remove(store, TASK)
        assert loaded(store) in ([FINISHED], [])
        taskstore.remove(store, TASK)
        taskstore.sweep(store)
        assert os.listdir(store) == []
