"""Waiting for a task: against a scripted server, in a time that passes only when the client sleeps."""

import dataclasses
import io
import json
import os
import pathlib
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from client import errors, main, output, session, style, waiting
from rpc import catalogue
from tests.support import clienting, fakeserver
from tests.support.fakeserver import failure, ok

TASK, SD, SP, IMG = clienting.ids(4)
GONE = errors.CallFailed("h:1: connection was closed")
UNKNOWN = failure(401, "no such task")


def status(message: str = "copying", state: str = "running", result: str = "", code: int = 0, **extra: Any) -> Any:
    found = {"taskID": TASK, "taskState": state, "taskResult": result, "code": code, "message": message, **extra}
    return ok(taskStatus=found)


def copied(percent: int) -> Any:
    return status(f"copying, {percent} %", percent=str(percent), done=str(percent << 20), total=str(100 << 20))


DONE = status("1 of 1 jobs done", "finished", "success")
UNDONE = status("no space", "finished", "cleanSuccess", 604)
STUCK = status("no space; undoing failed", "finished", "cleanFailure", 604)


@dataclasses.dataclass
class Scene:
    """A server that gives answers from a list, and the time.

    Attributes:
        answers: to getTaskStatus; the last one for ever. An exception is raised.
        others: answers to other verbs.
        now: seconds.
        asked: verbs in the order of the calls.
    """

    answers: list[Any]
    others: dict[str, Any]
    terminal: bool = False
    now: float = 100.0
    asked: list[str] = dataclasses.field(default_factory=list)
    stream: io.StringIO = dataclasses.field(default_factory=io.StringIO)

    def poll(self, verb: str, values: Sequence[Any]) -> dict[str, Any]:
        self.asked.append(verb)
        if verb == "getTaskStatus":
            assert values == [TASK]
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        else:
            answer = self.others[verb]
        if isinstance(answer, BaseException):
            raise answer
        found: dict[str, Any] = answer
        return found

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def follow(self, group: str = "storage") -> output.Outcome:
        place = waiting.Place(lambda: self.now, self.sleep, self.stream, style.Style(width=80), self.terminal)
        opened = session.Session(
            catalogue=SCHEMA,
            call=self.poll,
            invocation=("vdsClient", "-s", "h:1"),
            oneliner=False,
            wait=True,
            poll=self.poll,
        )
        return waiting.follow(opened, group, TASK, place)

    @property
    def told(self) -> list[str]:
        return self.stream.getvalue().splitlines()


SCHEMA = catalogue.load()


def scene(*answers: Any, result: Any = "", terminal: bool = False, **others: Any) -> Scene:
    known = {"getAllTasks": ok(tasks={TASK: {"result": result}}), "clearTask": ok()}
    return Scene(list(answers), {**known, **others}, terminal)


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("", [""]),
        (None, [""]),
        (True, [""]),
        ("True", [""]),
        (SD, [SD]),
        ({"uuid": SD}, [f"\tuuid = {SD}", ""]),
        ([SD, SP], [SD, SP, ""]),
        ("a\x1b", ["a\\x1b"]),
        (3, ["3"]),
    ],
)
def test_success_shows_the_result_and_then_clears_the_task(result: Any, shown: list[str]) -> None:
    found = scene(status(), DONE, result=result)
    outcome = found.follow()
    assert (list(outcome.lines), outcome.code, list(outcome.notes)) == (shown, 0, [])
    assert found.asked == ["getTaskStatus", "getTaskStatus", "getAllTasks", "clearTask"]


@pytest.mark.parametrize(("group", "code"), [("storage", 1), ("host", 604 % 256)])
def test_the_outcome_of_the_task_is_that_of_the_command(group: str, code: int) -> None:
    found = scene(UNDONE)
    outcome = found.follow(group)
    assert (list(outcome.lines), outcome.code) == (["no space"], code)
    assert outcome.notes == ["the task did not come to its end; what it had done was undone"]
    assert found.asked == ["getTaskStatus", "clearTask"]


def test_a_task_that_could_not_be_undone_is_kept() -> None:
    found = scene(STUCK)
    outcome = found.follow()
    assert (list(outcome.lines), outcome.code) == (["no space; undoing failed"], 1)
    assert f"task {TASK} failed, could not be undone, and is kept" in outcome.notes
    assert found.asked == ["getTaskStatus"]


def test_a_task_that_was_stopped_is_no_success_although_its_code_is_0() -> None:
    outcome = scene(status("stopped", "finished", "cleanSuccess")).follow()
    assert (list(outcome.lines), outcome.code) == (["stopped"], 1)
    assert outcome.document["status"] == {"code": 100, "message": "stopped"}


@pytest.mark.parametrize("answer", [GONE, failure(654, "no\x1b"), ok(tasks={}), ok()])
def test_a_task_whose_result_cannot_be_read_is_kept(answer: Any) -> None:
    found = scene(DONE, getAllTasks=answer)
    outcome = found.follow()
    assert (list(outcome.lines), outcome.code) == ([""], 0)
    assert len(outcome.notes) == 1 and "is kept" in outcome.notes[0] and outcome.notes[0].isprintable()
    assert "clearTask" not in found.asked


@pytest.mark.parametrize("answer", [GONE, failure(410, "busy")])
def test_a_task_that_cannot_be_cleared_is_a_note_only(answer: Any) -> None:
    outcome = scene(DONE, result=SD, clearTask=answer).follow()
    assert (list(outcome.lines), outcome.code) == ([SD], 0)
    assert len(outcome.notes) == 1 and "was not cleared" in outcome.notes[0]


def test_json_is_one_document_with_the_final_status() -> None:
    outcome = scene(status(), DONE, result={"uuid": SD}).follow()
    assert outcome.document == {
        "status": {"code": 0, "message": "1 of 1 jobs done"},
        "uuid": TASK,
        "taskStatus": DONE["taskStatus"],
        "result": {"uuid": SD},
    }


def test_a_task_that_somebody_else_cleared() -> None:
    outcome = scene(status(), UNKNOWN).follow()
    assert (list(outcome.lines), outcome.code) == (["no such task"], 1)
    assert outcome.notes == [f"task {TASK} cannot be followed any further"]


def test_ctrl_c_ends_the_waiting_only() -> None:
    found = scene(status(), KeyboardInterrupt())
    outcome = found.follow()
    assert (list(outcome.lines), outcome.code) == ([], 130)
    assert list(outcome.notes) == [
        f"task {TASK} goes on; to stop it:",
        f"    vdsClient -s h:1 stopTask {TASK}",
    ]
    assert found.asked == ["getTaskStatus"] * 2


# ---------------------------------------------------------------- a server that does not answer


def test_a_broken_connection_is_borne() -> None:
    found = scene(status(), GONE, GONE, errors.Refused("Connection to h:1 refused"), failure(99, "starting"), DONE)
    assert found.follow().code == 0
    assert found.told == [
        f"task {TASK}",
        "h:1: connection was closed; asking again for 60 seconds",
        "Connection to h:1 refused; asking again for 58 seconds",
        "starting; asking again for 57 seconds",
        "the server answers again",
    ]


def test_a_server_that_was_started_anew_may_learn_of_the_task_later() -> None:
    found = scene(status(), GONE, *[UNKNOWN] * 20, UNDONE)
    assert found.follow().lines == ["no space"]


@pytest.mark.parametrize("answer", [GONE, failure(99, "starting")])
def test_the_patience_is_bounded(answer: Any) -> None:
    found = scene(status(), answer)
    outcome = found.follow()
    assert (list(outcome.lines), outcome.code, outcome.usable) == ([], 255, False)
    assert outcome.notes[0].startswith(f"ERROR: nothing was heard of task {TASK} for 60 seconds: ")
    assert outcome.notes[-1] == f"    vdsClient -s h:1 getTaskStatus {TASK}"
    assert waiting.PATIENCE <= found.now - 100 < waiting.PATIENCE + 5


def test_the_patience_begins_anew_with_every_break() -> None:
    breaks = [answer for _ in range(5) for answer in (*[GONE] * 50, status())]
    assert scene(*breaks, DONE).follow().code == 0


@pytest.mark.parametrize("reply", [ok(), ok(taskStatus="x")])
def test_a_reply_without_a_status_is_an_error(reply: Any) -> None:
    with pytest.raises(errors.BadReply):
        scene(reply).follow()


# ---------------------------------------------------------------- what is told meanwhile


def test_lines_elsewhere_come_when_there_is_news() -> None:
    found = scene(*[status("waiting for a worker")] * 30, *[copied(percent) for percent in range(100)], DONE)
    found.follow()
    assert found.told[:2] == [f"task {TASK}", "waiting for a worker"]
    assert [line.split(" %")[0] for line in found.told[2:]] == [f"copying, {percent}" for percent in range(0, 100, 10)]
    assert "\r" not in found.stream.getvalue()


def test_a_short_task_is_not_commented() -> None:
    found = scene(status("a"), status("b"), DONE)
    found.follow()
    assert found.told == [f"task {TASK}"]


def test_a_terminal_has_one_line_that_is_wiped_in_the_end() -> None:
    found = scene(*[copied(percent) for percent in range(100)], GONE, DONE, terminal=True)
    found.follow()
    text = found.stream.getvalue()
    assert text.startswith(f"task {TASK}\n") and text.endswith("the server answers again\n")
    assert text.count("\n") == 3
    assert text.count("\r\033[K") == 1
    frames = [part for part in text.split("\r") if "###" in part]
    assert len(frames) > 20 and all(part.count("\033[K") == 1 for part in frames)


@pytest.mark.parametrize("answer", [KeyboardInterrupt(), ok(), UNDONE])
def test_no_half_line_stays_whatever_happens(answer: Any) -> None:
    found = scene(*[copied(percent) for percent in range(50)], answer, terminal=True)
    if answer == ok():
        with pytest.raises(errors.BadReply):
            found.follow()
    else:
        found.follow()
    assert found.stream.getvalue().endswith("\r\033[K")


def test_a_long_task_is_asked_for_ever_less_often() -> None:
    found = scene(*[status()] * 200, DONE)
    found.follow()
    times = len(found.asked)
    assert found.now - 100 > times / 2


# ---------------------------------------------------------------- through the command line


@pytest.fixture
def fake() -> Iterator[fakeserver.Fake]:
    replies = {
        "deleteImage": ok(uuid=TASK),
        "getTaskStatus": DONE,
        "getAllTasks": ok(tasks={TASK: {"result": {"uuid": SD}}}),
        "clearTask": ok(),
        "spmStop": ok(),
    }
    with fakeserver.serving(replies) as found:
        yield found


def test_wait(fake: fakeserver.Fake, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    done = clienting.run_main(monkeypatch, capsys, "--wait", fake.address, "deleteImage", SD, SP, IMG)
    assert done == (0, f"\tuuid = {SD}\n\n", f"task {TASK}\n")
    assert [verb for verb, _ in fake.calls] == ["deleteImage", "getTaskStatus", "getAllTasks", "clearTask"]
    assert fake.connections == 1


def test_wait_with_json(fake: fakeserver.Fake, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    argv = ["--json", "--wait", fake.address, "deleteImage", SD, SP, IMG]
    code, out, err = clienting.run_main(monkeypatch, capsys, *argv)
    found = json.loads(out)
    assert (code, err) == (0, f"task {TASK}\n")
    assert (found["uuid"], found["status"]["code"], found["result"]) == (TASK, 0, {"uuid": SD})


def test_without_wait_the_id_of_the_task_is_the_answer(fake: fakeserver.Fake) -> None:
    assert clienting.run(fake, "deleteImage", SD, SP, IMG) == (0, f"{TASK}\n", "")
    assert len(fake.calls) == 1


def test_wait_changes_nothing_for_a_verb_that_makes_no_task(fake: fakeserver.Fake) -> None:
    plain = main.run([fake.address, "spmStop", SP])
    assert main.run(["--wait", fake.address, "spmStop", SP]) == plain


def test_a_verb_that_is_refused_makes_no_task(fake: fakeserver.Fake) -> None:
    fake.replies["deleteImage"] = failure(654, "not SPM")
    outcome = main.run(["--wait", fake.address, "deleteImage", SD, SP, IMG])
    assert (list(outcome.lines), outcome.code) == (["not SPM"], 1)


def test_a_reply_without_an_id_is_an_error(fake: fakeserver.Fake) -> None:
    fake.replies["deleteImage"] = ok()
    outcome = main.run(["--wait", fake.address, "deleteImage", SD, SP, IMG])
    assert (outcome.code, outcome.notes) == (255, ["ERROR: the server's reply has no usable uuid"])


def test_a_connection_that_breaks_is_opened_again(fake: fakeserver.Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    answers = iter([fakeserver.fault(1, "no"), failure(99, "starting"), DONE])
    fake.replies["getTaskStatus"] = lambda *_: next(answers)
    assert main.run(["--wait", fake.address, "deleteImage", SD, SP, IMG]).code == 0


def test_on_a_real_terminal_the_bar_is_drawn_and_ctrl_c_ends_it(fake: fakeserver.Fake) -> None:
    fake.replies["getTaskStatus"] = lambda *_: copied(40)
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "PYTHONIOENCODING": "utf-8"}
    root = pathlib.Path(main.__file__).parents[1]
    command = [sys.executable, "-m", "client.main", "--wait", fake.address, "deleteImage", SD, SP, IMG]
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment,
        cwd=root,
        start_new_session=True,
    ) as client:
        os.close(terminal)
        seen = b""
        while "███".encode() not in seen:
            seen += os.read(controller, 4096)
        client.send_signal(2)
        while b"stopTask" not in seen:
            seen += os.read(controller, 4096)
        assert client.wait() == 130
        assert client.stdout is not None and client.stdout.read() == b""
    os.close(controller)
    assert "copying  ██".encode() in seen and b"40 %" in seen and b"40 MiB of 100 MiB" in seen
