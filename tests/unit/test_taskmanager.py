"""The task machine with real records on disk: ends of a job, stop, revert, clear, and the restart after a crash."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors, ids, locks
from storage.jobs import recovery, taskmanager, tasks, taskstore
from tests.support import faults

S = tasks.State
SECONDS = 20.0


class Machine:
    """A manager over a store, with recoveries that note what ran."""

    def __init__(self, store: Path, *, workers: int = 2, limit: int = 10, known: tuple[str, ...] = ("undo",)) -> None:
        store.mkdir(exist_ok=True)
        self.store = store
        self.undone: list[str] = []
        actions: dict[recovery.Triple, recovery.Action] = {("m", "O", name): self.undo for name in known}
        actions["m", "O", "broken"] = self.fail
        self.locks = locks.LockTable(timeout=0.05)
        self.manager = taskmanager.Manager(recovery.Table(actions), self.locks, workers=workers, limit=limit)

    def undo(self, _context: object, _task: object, params: tuple[str, ...]) -> None:
        self.undone.append(params[0])

    def fail(self, _context: object, _task: object, params: tuple[str, ...]) -> None:
        raise errors.ImageDeleteError(image=params[0], reason="still there")

    def schedule(self, job, **options) -> tasks.Task:
        options.setdefault("store", self.store)
        return self.manager.get(self.manager.schedule("createVolume", job, **options))

    def run(self, job, **options) -> tasks.Task:
        task = self.schedule(job, **options)
        assert self.manager.wait(task.id, SECONDS)
        return task

    def on_disk(self, task: tasks.Task) -> tasks.Record | None:
        return next((record for record in taskstore.load(self.store)[0] if record.id == task.id), None)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "tasks")
    yield machine
    machine.manager.shutdown(SECONDS)


def step(name: str, function: str = "undo") -> recovery.Recovery:
    return recovery.Recovery(name, "m", "O", function, (name,))


class Gate:
    """A job that waits inside until the test lets it go on."""

    def __init__(self, *, polls: bool = True) -> None:
        self.inside = threading.Event()
        self.open = threading.Event()
        self._polls = polls

    def __call__(self, task: tasks.Task) -> str:
        task.push(step("a"))
        self.inside.set()
        while not self.open.wait(0.01):
            if self._polls:
                task.check()
        return "done"


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
