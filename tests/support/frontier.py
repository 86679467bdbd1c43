"""A client of XML-RPC in another language: Debian's for Perl, in a process of its own."""

import functools
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SCRIPT = Path(__file__).with_name("frontier.pl")


class Fault(Exception):
    """What each client makes of a fault, or of an error of JSON-RPC.

    Attributes:
        code: its number; None where the client gives only a text.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code


@functools.cache
def missing() -> bool:
    """Whether Perl, or its client, is not there."""
    if not shutil.which("perl"):
        return True
    modules = ["-MFrontier::Client", "-MJSON::PP"]
    return bool(subprocess.run(["perl", *modules, "-e", "1"], capture_output=True, check=False).returncode)


class Client:
    """The client. A context manager."""

    def __init__(self, url: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(["perl", str(_SCRIPT), url], stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, name: str, *values: Any) -> Any:
        """Call a method, and give its answer.

        Raises:
            Fault: it is a fault; only its text is known.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([name, [_typed(value) for value in values]]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the client has ended"
        answer = json.loads(line)
        if "fault" in answer:
            raise Fault(None, answer["fault"])
        return answer["value"]


def _typed(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return ["b", value]
    if isinstance(value, int):
        return ["i", value]
    if isinstance(value, Mapping):
        return ["d", {name: _typed(member) for name, member in value.items()}]
    if isinstance(value, list):
        return ["a", [_typed(member) for member in value]]
    return ["s", value]
