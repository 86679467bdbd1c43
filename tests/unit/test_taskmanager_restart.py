"""The task machine with real records on disk: the restart after a crash, the end of the role, and the shutdown."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from storage import errors, ids, locks
from storage.jobs import recovery, tasks, taskstore
from tests.support import faults, taskmachine

S = tasks.State
SECONDS = taskmachine.SECONDS
Machine, machine = taskmachine.Machine, taskmachine.machine
step, Gate = taskmachine.step, taskmachine.Gate


# ---------------------------------------------------------------- restart


def cut_off(store: Path, state: tasks.State, *steps: recovery.Recovery, **more) -> ids.TaskId:
    """A record as a process left it that is gone."""
    store.mkdir(exist_ok=True)
    record = tasks.Record(ids.TaskId.new(), "createVolume", state=state, jobs=("createVolume",), recoveries=steps)
    record = dataclasses.replace(record, **more)
    taskstore.save(store, record)
    return record.id


def restarted(machine: Machine) -> list[ids.TaskId]:
    loaded = machine.manager.load(machine.store)
    machine.manager.recover(loaded)
    for task_id in loaded:
        assert machine.manager.wait(task_id, SECONDS)
    return loaded


@pytest.mark.parametrize(
    "state", [S.PREPARING, S.ACQUIRING, S.QUEUED, S.RUNNING, S.ABORTING, S.RACQUIRING, S.RECOVERING, S.WAITRECOVER]
)
def test_what_was_cut_off_is_rolled_back(machine: Machine, state: tasks.State) -> None:
    task_id = cut_off(machine.store, state, step("a"), step("b"))
    assert restarted(machine) == [task_id]
    task = machine.manager.get(task_id)
    assert machine.undone == ["b", "a"]
    assert (tasks.status(task)["taskResult"], task.record.code) == ("cleanSuccess", 0)


@pytest.mark.parametrize("state", [S.FINISHED, S.RECOVERED, S.FAILED, S.RABORTING])
def test_what_was_done_stays_and_is_visible(machine: Machine, state: tasks.State) -> None:
    task_id = cut_off(machine.store, state, step("a"), code=7, message="as it was")
    restarted(machine)
    record = machine.manager.get(task_id).record
    assert machine.undone == []
    assert (record.code, record.message) == (7, "as it was")
    assert record.state is (S.FAILED if state is S.RABORTING else state)
    machine.manager.clear(task_id)
    assert os.listdir(machine.store) == []


def test_load_runs_nothing(machine: Machine) -> None:
    task_id = cut_off(machine.store, S.RUNNING, step("a"))
    machine.manager.load(machine.store)
    assert machine.manager.get(task_id).state is S.RUNNING
    assert machine.undone == []
    machine.manager.unload([task_id])
    assert machine.manager.all() == []


def test_a_finished_task_can_be_reverted_after_a_restart(machine: Machine) -> None:
    task_id = cut_off(machine.store, S.FINISHED, step("a"))
    restarted(machine)
    machine.manager.revert(task_id)
    assert machine.undone == ["a"]


def test_locks_are_taken_again_before_anything_else_can_run(machine: Machine) -> None:
    locked = (locks.exclusive("image"),)
    task_id = cut_off(machine.store, S.RUNNING, step("a"), locked=locked)
    machine.manager.load(machine.store)
    with pytest.raises(errors.ResourceTimeout):
        machine.locks.take([locks.shared("image")], "other")
    machine.manager.recover([task_id])
    assert machine.manager.wait(task_id, SECONDS)
    machine.locks.take([locks.exclusive("image")], "other").release()


def test_load_with_a_lock_that_is_not_to_be_had_loads_nothing(machine: Machine) -> None:
    cut_off(machine.store, S.RUNNING, step("a"), locked=(locks.exclusive("free"),))
    cut_off(machine.store, S.RUNNING, step("a"), locked=(locks.exclusive("taken"),))
    with machine.locks.hold(locks.shared("taken"), title="other"), pytest.raises(errors.ResourceTimeout):
        machine.manager.load(machine.store)
    assert machine.manager.all() == []
    machine.locks.take([locks.exclusive("free"), locks.exclusive("taken")], "other").release()


def test_an_unknown_recovery_parks_the_task_and_nothing_of_it_runs(machine: Machine) -> None:
    task_id = cut_off(machine.store, S.RUNNING, step("bottom"), step("odd", "system"), step("top"))
    restarted(machine)
    task = machine.manager.get(task_id)
    assert machine.undone == []
    status = tasks.status(task)
    assert (status["taskState"], status["code"]) == ("cleaning", 430)
    assert "m.O.system" in str(status["message"])
    with pytest.raises(errors.TaskStateError):
        machine.manager.clear(task_id)
    record = machine.on_disk(task)
    assert record and record.state is S.WAITRECOVER and len(record.recoveries) == 3


def test_a_parked_task_is_rolled_back_once_its_recovery_is_known(tmp_path: Path) -> None:
    cut_off(tmp_path / "tasks", S.RUNNING, step("odd", "system"))
    restarted(Machine(tmp_path / "tasks"))
    wiser = Machine(tmp_path / "tasks", known=("undo", "system"))
    [task_id] = restarted(wiser)
    assert wiser.undone == ["odd"]
    assert wiser.manager.get(task_id).state is S.RECOVERED


def test_a_parked_task_can_be_given_up(machine: Machine) -> None:
    task_id = cut_off(machine.store, S.RUNNING, step("odd", "system"))
    restarted(machine)
    machine.manager.stop(task_id)
    assert tasks.status(machine.manager.get(task_id))["taskResult"] == "cleanFailure"
    machine.manager.clear(task_id)
    assert os.listdir(machine.store) == []


def test_loading_again_what_is_done_is_fine(machine: Machine) -> None:
    kept = machine.run(lambda task: None)
    gone = machine.run(lambda task: None)
    assert machine.manager.close(machine.store) is None
    # Another host had the role meanwhile, and cleared one of the two.
    taskstore.remove(machine.store, gone.id)
    assert restarted(machine) == [kept.id]
    assert [task.id for task in machine.manager.all()] == [kept.id]


def test_loading_a_task_that_is_at_work_is_refused(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    with pytest.raises(errors.AddTaskError):
        machine.manager.load(machine.store)
    assert machine.manager.get(task.id) is task
    gate.open.set()


# ---------------------------------------------------------------- the role ends


def test_close_names_what_is_at_work(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    assert machine.manager.close(machine.store) == task.id
    gate.open.set()
    assert machine.manager.wait(task.id, SECONDS)
    assert machine.manager.close(machine.store) is None


def test_a_closed_store_takes_no_task_and_changes_no_record(machine: Machine) -> None:
    task = machine.run(lambda task: task.push(step("a")))
    machine.manager.close(machine.store)
    with pytest.raises(errors.AddTaskError):
        machine.schedule(lambda task: None)
    with pytest.raises(errors.TaskStateTransitionError):
        machine.manager.revert(task.id)
    machine.manager.clear(task.id)
    assert machine.on_disk(task)
    assert machine.manager.load(machine.store) == [task.id]
    machine.run(lambda task: None)


def test_a_task_of_the_host_does_not_hold_up_the_role(machine: Machine) -> None:
    gate = Gate()
    machine.schedule(gate, store=None, tag=tasks.HSM)
    assert gate.inside.wait(SECONDS)
    assert machine.manager.close(machine.store) is None
    gate.open.set()


# ---------------------------------------------------------------- shutdown


def test_shutdown_waits_for_the_job(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    threading.Timer(0.05, gate.open.set).start()
    assert machine.manager.shutdown(SECONDS) == []
    assert task.state is S.FINISHED
    with pytest.raises(errors.AddTaskError):
        machine.schedule(lambda task: None)


def test_shutdown_stops_what_takes_too_long(machine: Machine) -> None:
    gate = Gate()
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    machine.manager.shutdown(1.0)
    assert machine.manager.wait(task.id, SECONDS)
    assert task.state is S.RECOVERED and machine.undone == ["a"]


def test_shutdown_names_what_does_not_stop(machine: Machine) -> None:
    gate = Gate(polls=False)
    task = machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    assert machine.manager.shutdown(0.1) == [task.id]
    gate.open.set()


def test_what_waits_at_shutdown_is_rolled_back_by_the_next(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "tasks", workers=1)
    gate = Gate()
    machine.schedule(gate)
    assert gate.inside.wait(SECONDS)
    waiting = machine.schedule(lambda task: None)
    gate.open.set()
    machine.manager.shutdown(SECONDS)
    fresh = Machine(tmp_path / "tasks")
    if waiting.state is S.QUEUED:
        restarted(fresh)
        assert fresh.manager.get(waiting.id).state is S.RECOVERED


# ---------------------------------------------------------------- crash windows


def two_files(made: list[Path], fault: faults.Faults):
    """A job that makes two files, each after its recovery, and then answers for both at once."""

    def job(task: tasks.Task) -> None:
        task.begin()
        for path in made:
            task.push(recovery.Recovery(path.name, "m", "O", "undo", (path.name,)))
            if fault.fired:
                raise faults.Crash
            path.write_text("x")
        task.commit(recovery.Recovery("both", "m", "O", "undo", ("a/b",)))

    return job


def test_window_anywhere_in_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any crash both files are there and the task is finished, or neither is."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    for number, fault in enumerate(faults.crash_points()):
        place = tmp_path / str(number)
        place.mkdir()
        made = [place / "a", place / "b"]
        machine = Machine(place / "tasks")
        with fault.strike():
            task = machine.schedule(two_files(made, fault))
            while not (task.resting or (fault.fired and not task.owned)):
                time.sleep(0.001)
        machine.manager.shutdown(SECONDS)
        fresh = Machine(place / "tasks")
        done = [record for record in taskstore.load(fresh.store)[0] if record.state is S.FINISHED]
        restarted(fresh)
        fresh.manager.shutdown(SECONDS)
        for name in (name for names in fresh.undone for name in names.split("/")):
            (place / name).unlink(missing_ok=True)
        assert [path.exists() for path in made] == [bool(done)] * 2
        assert all(tasks.status(task)["taskState"] == "finished" for task in fresh.manager.all())
