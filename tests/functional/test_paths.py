"""Hostile ids, texts and paths against a traced daemon: a sample of the campaign, and that the trace is read right."""

import pytest

from tests.campaigns import paths, paths_values
from tests.support import tracing

LINES = """\
77 execve("/usr/bin/qemu-img", ["qemu-img", "info", "--", "/etc/passwd"], 0x7ffc /* 5 vars */) = 0
77 openat(AT_FDCWD</home>, "a/../../etc/x\\n\\303\\251", O_RDONLY|O_CLOEXEC) = 3</etc/x\\n\\303\\251>
78 openat(5</mnt/images>, "link", O_RDONLY <unfinished ...>
78 <... openat resumed>) = 4</outside/canary>
77 symlink("/nowhere", "/mnt/link") = 0
77 rename("/a", "/b") = -1 ENOENT (No such file or directory)
77 --- SIGCHLD {si_signo=SIGCHLD, si_code="/no/path"} ---
77 +++ exited with 0 +++
"""


def test_paths_of_a_trace() -> None:
    found = list(tracing.touches(LINES.splitlines(keepends=True)))
    assert found == [
        tracing.Touch("execve", "/usr/bin/qemu-img"),
        tracing.Touch("openat", "/etc/x\n\u00e9"),
        tracing.Touch("openat", "/etc/x\n\u00e9", opened=True),
        tracing.Touch("openat", "/mnt/images/link"),
        tracing.Touch("openat", "/outside/canary", opened=True),
        tracing.Touch("symlink", "/mnt/link"),
        tracing.Touch("rename", "/a"),
        tracing.Touch("rename", "/b"),
    ]
    assert list(tracing.programs(LINES.splitlines())) == [("qemu-img", "info", "--", "/etc/passwd")]


def test_every_id_of_the_schema_has_its_place() -> None:
    """A parameter of the type of ids that the campaign does not reach would be a hole in it."""
    real = dict.fromkeys(("pool", "domain", "image", "volume", "base", "task"), "47bd7538-c48b-4b94-ba94-def922151d49")
    reached = {(call.verb.name, call.where.partition("|")[0]) for call, _ in paths_values.calls(real)}
    typed = {
        (verb.name, param.name)
        for verb in paths_values.VERBS.verbs.values()
        for param in verb.params
        if "UUID" in str(param.schema)
    }
    assert typed <= reached
    call, value = next((call, value) for call, value in paths_values.calls(real) if call.where.startswith("imgDict|"))
    assert value not in paths_values.put(call, "x")["imgDict"] and "x" in paths_values.put(call, "x")["imgDict"]


@pytest.mark.qemu
@pytest.mark.skipif(tracing.missing(), reason="needs strace")
def test_nothing_that_a_caller_says_leads_out_of_the_storage() -> None:
    found = paths.run(stride=151, seed=5)
    assert not found.failures
    assert found.counts["hostile values"] > 50 and found.counts["planted links"] > 3
