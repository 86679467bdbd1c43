"""States, ownership, the rollback stack, and what watchers see."""

import errno
import threading
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from storage import errors, ids
from storage.jobs import recovery, tasks

S = tasks.State
STORE = Path("/store")
KNOWN = ("image", "Image", "known")


def step(name: str, function: str = "known", *params: str) -> recovery.Recovery:
    return recovery.Recovery(name, "image", "Image", function, params)


class Store:
    """Keeps every record that was saved."""

    def __init__(self) -> None:
        self.saved: list[tasks.Record] = []
        self.broken = False

    def save(self, _store: Path, record: tasks.Record) -> None:
        if self.broken:
            raise errors.TaskMetaDataSaveError(task=record.id, reason="disk full")
        self.saved.append(record)


def make(store: Store | None = None, state: tasks.State = S.RUNNING) -> tasks.Task:
    store = store or Store()
    record = tasks.Record(ids.TaskId.new(), "createVolume", state=state)
    table = recovery.Table({KNOWN: lambda *_: None})
    task = tasks.Task(record, store=STORE, save=store.save, table=table)
    assert task.claim()
    return task


# The protocol's table, written down once more by predecessor, so that a slip in the code's table shows.
LEADS_TO = {
    "init": {"preparing"},
    "preparing": {"blocked", "acquiring", "finished", "aborting"},
    "blocked": {"preparing", "aborting"},
    "acquiring": {"acquiring", "queued", "aborting"},
    "queued": {"running", "aborting"},
    "running": {"finished", "queued", "aborting"},
    "finished": {"racquiring"},
    "aborting": {"waitrecover", "racquiring", "failed"},
    "waitrecover": {"racquiring", "raborting"},
    "racquiring": {"racquiring", "recovering", "raborting"},
    "recovering": {"raborting", "recovered", "failed"},
    "raborting": {"failed"},
    "recovered": set(),
    "failed": set(),
}


@pytest.mark.parametrize("source", list(S))
@pytest.mark.parametrize("target", list(S))
def test_transitions(source: tasks.State, target: tasks.State) -> None:
    task = make(state=source)
    if target in LEADS_TO[source]:
        task.enter(target)
        assert task.state is target
    else:
        with pytest.raises(errors.TaskStateTransitionError):
            task.enter(target)
        assert task.state is source


@pytest.mark.parametrize(
    ("state", "external", "result"),
    [
        (S.INIT, "init", ""),
        (S.QUEUED, "running", ""),
        (S.RUNNING, "running", ""),
        (S.ABORTING, "aborting", ""),
        (S.RABORTING, "aborting", ""),
        (S.WAITRECOVER, "cleaning", ""),
        (S.RECOVERING, "cleaning", ""),
        (S.FINISHED, "finished", "success"),
        (S.RECOVERED, "finished", "cleanSuccess"),
        (S.FAILED, "finished", "cleanFailure"),
    ],
)
def test_status_has_every_key_in_every_state(state: tasks.State, external: str, result: str) -> None:
    status = tasks.status(make(state=state))
    assert (status["taskState"], status["taskResult"]) == (external, result)
    assert set(status) == {"taskID", "taskState", "taskResult", "code", "message"}
    assert type(status["taskID"]) is str and type(status["code"]) is int and type(status["message"]) is str


def test_a_running_task_that_was_asked_to_stop_shows_as_aborting() -> None:
    task = make()
    task.stopping.set()
    assert tasks.status(task)["taskState"] == "aborting"
    assert tasks.details(task)["state"] == "aborting"


def test_progress_is_seen_and_not_written() -> None:
    store = Store()
    task = make(store)
    task.progress("half way", percent=50)
    assert tasks.status(task)["message"] == "half way"
    assert tasks.status(task)["percent"] == 50
    assert store.saved == []


def test_another_thread_cannot_change_a_task() -> None:
    task = make()
    raised: list[BaseException] = []

    def intrude() -> None:
        try:
            task.enter(S.FINISHED)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert raised and task.state is S.RUNNING
    assert not task.claim()


def test_only_states_that_others_read_rightly_are_written() -> None:
    store = Store()
    task = make(store, S.INIT)
    way = (S.PREPARING, S.ACQUIRING, S.QUEUED, S.RUNNING, S.ABORTING, S.RACQUIRING, S.RECOVERING, S.RECOVERED)
    for state in way:
        task.enter(state)
    assert [record.state for record in store.saved] == [S.QUEUED, S.RUNNING, S.RECOVERING, S.RECOVERED]


def test_what_cannot_be_saved_did_not_happen() -> None:
    store = Store()
    task = make(store)
    task.begin()
    store.broken = True
    before = task.record
    for change in (
        lambda: task.push(step("a")),
        lambda: task.commit(),
        lambda: task.clear_recoveries(),
        lambda: task.enter(S.FINISHED),
    ):
        with pytest.raises(errors.TaskMetaDataSaveError):
            change()
        assert task.record == before


def test_the_way_back_goes_on_without_a_record() -> None:
    store = Store()
    task = make(store)
    store.broken = True
    for state in (S.ABORTING, S.RACQUIRING, S.RECOVERING, S.RECOVERED):
        task.retreat(state)
    assert task.state is S.RECOVERED


def test_push_is_on_record_when_it_returns() -> None:
    store = Store()
    task = make(store)
    task.push(step("a", "known", "x"))
    assert store.saved[-1].recoveries == (step("a", "known", "x"),)


def test_push_refuses_what_nobody_could_run_and_a_name_twice() -> None:
    task = make()
    with pytest.raises(errors.InvalidRecovery):
        task.push(step("a", "system"))
    task.push(step("a"))
    with pytest.raises(ValueError, match="already"):
        task.push(step("a", "known", "other"))
    assert task.record.recoveries == (step("a"),)


def test_commit_replaces_the_scope_in_one_write() -> None:
    store = Store()
    task = make(store)
    task.push(step("outer"))
    task.begin("sd", "img", "vol")
    task.push(step("small"))
    written = len(store.saved)
    task.commit(step("whole"))
    assert len(store.saved) == written + 1
    assert store.saved[-1].recoveries == (step("outer"), step("whole"))


def test_commit_without_a_scope_is_refused() -> None:
    task = make()
    task.push(step("a"))
    with pytest.raises(ValueError, match="scope"):
        task.commit(step("b"))
    assert task.record.recoveries == (step("a"),)


def test_clear_recoveries_is_on_record() -> None:
    store = Store()
    task = make(store)
    task.push(step("a"))
    task.clear_recoveries()
    assert store.saved[-1].recoveries == ()


def test_check_stops_the_job_and_not_its_rollback() -> None:
    task = make()
    task.check()
    task.stopping.set()
    with pytest.raises(errors.TaskAborted, match=str(task.id)):
        task.check()
    task.enter(S.ABORTING)
    task.check()


@pytest.mark.parametrize("state", list(S))
def test_restart_leads_to_a_rollback_or_leaves_what_is_done(state: tasks.State) -> None:
    task = make(state=state)
    if state in tasks.DONE:
        with pytest.raises(errors.TaskStateTransitionError):
            task.restart()
    else:
        task.restart()
        assert task.state is (S.FAILED if state is S.RABORTING else S.ABORTING)
        was_forward = state in (S.PREPARING, S.BLOCKED, S.ACQUIRING, S.QUEUED, S.RUNNING)
        assert (task.record.message == "cut off when its process ended") is was_forward


def test_outcomes_keep_a_typed_code_and_hide_the_rest() -> None:
    children = errors.VolumeImageHasChildren(volume="v", children="c")
    assert tasks.outcome(children) == (204, str(children))
    code, message = tasks.outcome(OSError(errno.ENOSPC, "ignored", "/secret/path"))
    assert code == 100 and "No space left" in message and "/secret" not in message
    code, message = tasks.outcome(KeyError("internal detail"))
    assert code == 100 and "KeyError" in message and "internal detail" not in message


@given(name=st.text(min_size=1), word=st.text())
def test_names_of_a_recovery_are_plain_words(name: str, word: str) -> None:
    if word.isascii() and word.isidentifier():
        recovery.Recovery(name, word, word, word)
    else:
        with pytest.raises(ValueError):
            recovery.Recovery(name, word, "x", "y")


def test_the_table_runs_known_names_only() -> None:
    ran: list[object] = []
    table = recovery.Table({KNOWN: lambda *args: ran.append(args)}, context="services")
    assert table.unknown((step("a"), step("b", "system"))) == step("b", "system")
    assert table.unknown((step("a"), recovery.sentinel("x"))) is None
    table.run("task", step("a", "known", "p"))
    table.run("task", recovery.sentinel("x"))
    assert ran == [("services", "task", ("p",))]
    with pytest.raises(KeyError):
        table.run("task", step("b", "system"))
