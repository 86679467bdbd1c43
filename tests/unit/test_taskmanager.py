"""The task machine with real records on disk: ends of a job, stop, revert, clear."""

import os
import threading
from pathlib import Path

import pytest

from storage import errors, ids, locks
from storage.jobs import tasks
from tests.support import taskmachine

S = tasks.State
SECONDS = taskmachine.SECONDS
Machine, machine = taskmachine.Machine, taskmachine.machine
step, Gate = taskmachine.step, taskmachine.Gate


# ---------------------------------------------------------------- ends


def test_success(machine: Machine) -> None:
    task = machine.run(lambda task: {"uuid": "v"})
    status = tasks.status(task)
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "success", 0)
    assert "1" in str(status["message"])
    assert tasks.details(task)["result"] == {"uuid": "v"}
    record = machine.on_disk(task)
    assert record and (record.state, record.result) == (S.FINISHED, "{'uuid': 'v'}")


def test_nothing_is_an_empty_text(machine: Machine) -> None:
    assert machine.run(lambda task: None).record.result == ""


def test_each_phase_is_on_record_before_it_begins(machine: Machine) -> None:
    seen: list[tasks.State] = []

    def job(task: tasks.Task) -> None:
        record = machine.on_disk(task)
        assert record
        seen.append(record.state)
        task.push(step("a"))
        record = machine.on_disk(task)
        assert record and record.recoveries == (step("a"),)

    machine.run(job)
    assert seen == [S.RUNNING]


def test_failure_rolls_back_last_in_first_out(machine: Machine) -> None:
    def job(task: tasks.Task) -> None:
        for name in "abc":
            task.push(step(name))
        raise errors.VolumeImageHasChildren(volume="v", children="c")

    task = machine.run(job)
    assert machine.undone == ["c", "b", "a"]
    status = tasks.status(task)
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "cleanSuccess", 204)
    assert "children" in str(status["message"])
    record = machine.on_disk(task)
    assert record and (record.state, record.recoveries, record.code) == (S.RECOVERED, (), 204)


def test_an_unexpected_failure_is_code_100(machine: Machine) -> None:
    def job(task: tasks.Task) -> None:
        raise RuntimeError("secret")

    status = tasks.status(machine.run(job))
    assert status["code"] == 100 and "secret" not in str(status["message"])


def test_a_failed_recovery_ends_the_rollback_and_keeps_what_is_left(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    def job(task: tasks.Task) -> None:
        task.push(step("a"))
        task.push(step("b", "broken"))
        task.push(step("c"))
        raise errors.ImagePathError(image="i", reason="gone")

    task = machine.run(job)
    assert machine.undone == ["c"]
    status = tasks.status(task)
    assert (status["taskResult"], status["code"]) == ("cleanFailure", 254)
    assert "still there" in str(status["message"])
    record = machine.on_disk(task)
    assert record and record.state is S.FAILED
    assert [kept.name for kept in record.recoveries] == ["a", "b"]
    [logged] = [entry for entry in caplog.records if entry.levelname == "ERROR"]
    assert "still there" in logged.getMessage()
    assert not logged.exc_info, "a failure that was foreseen is no bug, and needs no traceback"


def test_success_that_cannot_be_recorded_is_undone(machine: Machine) -> None:
    def job(task: tasks.Task) -> None:
        task.push(step("a"))
        # From here on the store cannot be written.
        os.rename(machine.store, machine.store.with_name("away"))

    task = machine.run(job)
    assert machine.undone == ["a"]
    assert task.record.code == 407
    assert tasks.status(task)["taskResult"] == "cleanSuccess"


def test_a_task_without_a_store_leaves_no_trace(machine: Machine) -> None:
    task = machine.run(lambda task: None, store=None, tag=tasks.HSM)
    assert os.listdir(machine.store) == []
    assert machine.manager.all(tasks.SPM) == [] and machine.manager.all() == [task]


def test_locks_are_kept_until_the_end(machine: Machine) -> None:
    gate = Gate()
    held = machine.locks.take([locks.exclusive("image")], "verb")
    task = machine.schedule(gate, held=held)
    assert gate.inside.wait(SECONDS)
    with pytest.raises(errors.ResourceTimeout):
        machine.locks.take([locks.shared("image")], "other")
    gate.open.set()
    assert machine.manager.wait(task.id, SECONDS)
    machine.locks.take([locks.exclusive("image")], "other").release()


def test_locks_are_given_back_when_the_task_cannot_be_made(machine: Machine) -> None:
    held = machine.locks.take([locks.exclusive("image")], "verb")
    with pytest.raises(errors.TaskMetaDataSaveError):
        machine.schedule(lambda task: None, held=held, store=machine.store / "missing")
    machine.locks.take([locks.exclusive("image")], "other").release()
    assert machine.manager.all() == []


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "tasks", workers=1, limit=1)
    gate = Gate()
    machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    second = machine.schedule(lambda task: None)
    with pytest.raises(errors.AddTaskError):
        machine.schedule(lambda task: None)
    gate.open.set()
    assert machine.manager.wait(second.id, SECONDS)
    assert second.state is S.FINISHED


# ---------------------------------------------------------------- stop


def test_stop_while_running(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    machine.manager.stop(task.id)
    assert machine.manager.wait(task.id, SECONDS)
    status = tasks.status(task)
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "cleanSuccess", 411)
    assert str(task.id) in str(status["message"])
    assert machine.undone == ["a"]
    machine.manager.stop(task.id)


def test_a_second_stop_is_refused_while_the_first_is_at_work(machine: Machine) -> None:
    gate = Gate(polls=False)
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    machine.manager.stop(task.id)
    with pytest.raises(errors.TaskAborted):
        machine.manager.stop(task.id)
    gate.open.set()
    assert machine.manager.wait(task.id, SECONDS)


def test_a_job_that_ends_well_in_spite_of_a_stop_is_undone(machine: Machine) -> None:
    gate = Gate(polls=False)
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    machine.manager.stop(task.id)
    gate.open.set()
    assert machine.manager.wait(task.id, SECONDS)
    assert (tasks.status(task)["taskResult"], task.record.code) == ("cleanSuccess", 0)
    assert machine.undone == ["a"]


def test_stop_while_queued_acts_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "tasks", workers=1)
    gate = Gate()
    machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    ran = threading.Event()
    held = machine.locks.take([locks.exclusive("image")], "verb")
    waiting = machine.schedule(lambda task: ran.set(), held=held)
    machine.manager.stop(waiting.id)
    assert (tasks.status(waiting)["taskResult"], waiting.record.code) == ("cleanSuccess", 0)
    machine.locks.take([locks.exclusive("image")], "other").release()
    gate.open.set()
    assert machine.manager.shutdown(SECONDS) == []
    assert not ran.is_set()


# ---------------------------------------------------------------- clear and revert


def test_unknown_ids(machine: Machine) -> None:
    for verb in (machine.manager.stop, machine.manager.clear, machine.manager.revert, machine.manager.get):
        with pytest.raises(errors.UnknownTask):
            verb(ids.TaskId.new())


def test_clear_removes_the_record_and_the_id(machine: Machine) -> None:
    task = machine.run(lambda task: None)
    machine.manager.clear(task.id)
    assert os.listdir(machine.store) == []
    with pytest.raises(errors.UnknownTask):
        machine.manager.clear(task.id)


def test_clear_refuses_what_still_runs(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    with pytest.raises(errors.TaskStateError):
        machine.manager.clear(task.id)
    assert machine.on_disk(task)
    gate.open.set()


def test_clear_forgets_a_task_without_record_even_while_it_runs(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate, store=None)
    assert gate.inside.wait(SECONDS)
    machine.manager.clear(task.id)
    with pytest.raises(errors.UnknownTask):
        machine.manager.get(task.id)
    gate.open.set()


class SlowLocks:
    """Locks that take their time to be given back."""

    locks = ()

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()

    def release(self) -> None:
        self.asked.set()
        assert self.go.wait(SECONDS)


def test_a_task_can_be_cleared_as_soon_as_it_shows_as_finished(machine: Machine) -> None:
    """Its worker may still be busy giving locks back: whoever saw the end must not be told that there is none yet."""
    held = SlowLocks()
    task = machine.schedule(lambda task: None, held=held)
    assert held.asked.wait(SECONDS)
    assert tasks.status(task)["taskState"] == "finished"
    threading.Timer(0.05, held.go.set).start()
    machine.manager.clear(task.id)
    assert os.listdir(machine.store) == []


def test_revert_undoes_a_finished_task_once(machine: Machine) -> None:
    task = machine.run(lambda task: task.push(step("delete it")))
    assert machine.undone == []
    machine.manager.revert(task.id)
    assert machine.undone == ["delete it"]
    assert tasks.status(task)["taskResult"] == "cleanSuccess"
    record = machine.on_disk(task)
    assert record and record.state is S.RECOVERED
    with pytest.raises(errors.TaskStateTransitionError):
        machine.manager.revert(task.id)


def test_revert_takes_the_locks_of_the_task(machine: Machine) -> None:
    held = machine.locks.take([locks.exclusive("image")], "verb")
    task = machine.run(lambda task: task.push(step("a")), held=held)
    with machine.locks.hold(locks.shared("image"), title="other"), pytest.raises(errors.ResourceTimeout):
        machine.manager.revert(task.id)
    assert task.state is S.FINISHED and machine.undone == []
    machine.manager.revert(task.id)
    assert machine.undone == ["a"]


def test_revert_of_a_running_task_is_refused(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    with pytest.raises(errors.TaskNotFinished):
        machine.manager.revert(task.id)
    gate.open.set()


def test_a_revert_that_fails_says_so_in_the_status(machine: Machine) -> None:
    task = machine.run(lambda task: task.push(step("a", "broken")))
    machine.manager.revert(task.id)
    assert tasks.status(task)["taskResult"] == "cleanFailure"
