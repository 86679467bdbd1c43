"""The picture that `chain` draws: golden outputs, colour and width, hostile replies, JSON."""

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from client import output, picture, style, tree
from tests.support import clienting, fakeserver
from tests.support.fakeserver import ok

SP, SD, IMG, OTHER_IMG = (f"{char * 8}-0000-4000-8000-{char * 12}" for char in "abcd")
ROOT, ONE, TWO, THREE, LEAF = (f"{number:08d}-0000-4000-8000-{number:012d}" for number in range(1, 6))
BLANK = output.BLANK_ID

SUBJECT = picture.Subject(SP, SD, IMG, "", ("vdsClient", "0"))
PLAIN = style.Style(width=100)


def entry(
    volume: str, parent: str, verdict: str, *evidence: str, header: str | None = None, **more: Any
) -> dict[str, Any]:
    """What the server says about a volume; a header that agrees with the metadata unless said otherwise."""
    named = parent if header is None else header
    return {
        "volumeID": volume,
        "imageID": IMG,
        "metadataParent": parent,
        "headerParent": named,
        "headerText": "" if named == BLANK else f"../{IMG}/{named}",
        "legality": "LEGAL",
        "voltype": "INTERNAL",
        "format": "COW",
        "capacity": str(10 << 30),
        "apparentsize": str(1 << 30),
        "truesize": str(3 << 19),
        "verdict": verdict,
        "evidence": list(evidence),
        **more,
    }


def reply(state: str, volumes: list[str], chain: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"state": state, "volumes": volumes, "chain": chain, "changes": [], "problems": [], "inUse": False, **more}


def drawn(answer: dict[str, Any], how: style.Style = PLAIN) -> str:
    return "\n".join(picture.lines(answer, SUBJECT, how)) + "\n"


MERGED = reply(
    "repairable",
    [ROOT, ONE, LEAF],
    [
        entry(ROOT, BLANK, "template", imageID=OTHER_IMG, format="RAW", voltype="SHARED"),
        entry(ONE, ROOT, "in chain"),
        entry(
            TWO, ONE, "merged", f"all 1.5 MiB that it holds are held by {ONE} too, so the merge into it was finished"
        ),
        entry(THREE, TWO, "merged", "it holds nothing"),
        entry(LEAF, THREE, "in chain", header=ONE, voltype="LEAF"),
    ],
    changes=[
        {"volumeID": LEAF, "field": "parent", "before": THREE, "after": ONE, "why": "the volumes between are merged"},
    ],
)

MERGED_DRAWN = f"""\
image   {IMG}
domain  {SD}
state   REPAIRABLE: reconcileVolumeChain would make 1 change; nothing has been changed yet
in use  no

# {ROOT}  template
|   RAW  LEGAL  SHARED  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
|   of image {OTHER_IMG}
|   parent  none  (metadata only: RAW has no header)
|
o {ONE}  in the chain
|   COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
|   parent  {ROOT}  (metadata and header agree)
|
+-x {TWO}  MERGED away, safe to delete
| |   COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
| |   parent  {ONE}  (metadata and header agree)
| |   - all 1.5 MiB that it holds are held by {ONE} too, so the merge
| |     into it was finished
| |
| x {THREE}  MERGED away, safe to delete
|     COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
|     parent  {TWO}  (metadata and header agree)
|     - it holds nothing
|
o {LEAF}  in the chain, leaf
    COW  LEGAL  LEAF  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
    metadata parent  {THREE}  <- wrong
    header parent    {ONE}

reconcileVolumeChain would change
  1. volume {LEAF}
     metadata parent: {THREE} -> {ONE}
     the volumes between are merged

next
  Repair the records as listed:
    vdsClient 0 reconcileVolumeChain {SP} {SD} {IMG} {LEAF}
  After that, delete what is out of the chain, if the engine does not:
    vdsClient 0 deleteVolume {SD} {SP} {IMG} {THREE},{TWO}
"""


def test_an_interrupted_merge_in_plain_text() -> None:
    assert drawn(MERGED) == MERGED_DRAWN


UNDECIDED_DRAWN = f"""\
image   {IMG}
domain  {SD}
state   UNDECIDED: the records do not tell which candidate is the leaf; reconcileVolumeChain refuses
        (262)
in use  no

problems
  ! leaf-undecided (262), volume {LEAF}: last written within a second
    of each other

● {ROOT}  base
│   COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
│   parent  none  (metadata and header agree)
│
? {ONE}  CANDIDATE for the leaf, undecided
│   COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
│   parent  {ROOT}  (metadata and header agree)
│
? {LEAF}  CANDIDATE for the leaf, undecided
    COW  ILLEGAL  LEAF  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
    parent  {ONE}  (metadata and header agree)
    ! leaf-undecided: see problems
    · 3 clusters differ

next
  Compare the bytes (a task; look again when it has finished):
    vdsClient 0 proveVolumeChain {SP} {SD} {IMG} {LEAF}
  Or decide that {ONE} is the leaf:
    vdsClient 0 reconcileVolumeChain {SP} {SD} {IMG} {LEAF} leaf={ONE}
  Or decide that {LEAF} is the leaf:
    vdsClient 0 reconcileVolumeChain {SP} {SD} {IMG} {LEAF} leaf={LEAF}
"""


def test_an_undecided_leaf_with_line_drawing() -> None:
    answer = reply(
        "undecided",
        [],
        [
            entry(ROOT, BLANK, "base"),
            entry(ONE, ROOT, "candidate"),
            entry(LEAF, ONE, "candidate", "3 clusters differ", voltype="LEAF", legality="ILLEGAL"),
        ],
        problems=[
            {
                "name": "leaf-undecided",
                "volumeID": LEAF,
                "code": 262,
                "message": "last written within a second of each other",
            }
        ],
    )
    assert drawn(answer, style.Style(unicode=True)) == UNDECIDED_DRAWN


BROKEN_DRAWN = f"""\
image   {IMG}
domain  {SD}
state   BROKEN: reconcileVolumeChain refuses and changes nothing; see the problems
in use  no

problems
  ! foreign-backing (262), volume {LEAF}: it names something outside
    the image
  ! image-without-chain (262): no root

% {THREE}  TORN MERGE: must stay in the chain
|   COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
|   parent  {TWO}  (metadata and header agree)
|
x {TWO}  STALE LEAF: out of the chain
    COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
    parent  {THREE}  (metadata and header agree)

@ {LEAF}  UNREACHABLE from the chain
    COW  LEGAL  INTERNAL  capacity 10 GiB, file 1 GiB, on disk 1.5 MiB
    metadata parent  none
    header parent    none  (written: "json:{{"driver": "nbd"}}\\x9b")
    ! foreign-backing: see problems

! {ONE}  DAMAGED
    format unknown  legality unknown  type unknown  capacity ?, file 1 GiB, on disk 1.5 MiB
    metadata parent  none  (or unreadable)
    header parent    none  (or unreadable)
"""


def test_a_broken_chain_with_a_loop_and_a_damaged_volume() -> None:
    answer = reply(
        "broken",
        [],
        [
            entry(TWO, THREE, "stale leaf"),
            entry(THREE, TWO, "torn merge"),
            entry(LEAF, "", "unreachable", header="", headerText='json:{"driver": "nbd"}\x9b'),
            entry(ONE, "", "damaged", header="", headerText="", format="", legality="", voltype="", capacity=""),
        ],
        problems=[
            {
                "name": "foreign-backing",
                "volumeID": LEAF,
                "code": 262,
                "message": "it names something outside the image",
            },
            {"name": "image-without-chain", "volumeID": "", "code": 262, "message": "no root"},
        ],
    )
    assert drawn(answer) == BROKEN_DRAWN


def test_a_healthy_chain_has_nothing_to_do() -> None:
    answer = reply("consistent", [ROOT, LEAF], [entry(ROOT, BLANK, "base"), entry(LEAF, ROOT, "in chain")])
    lines = drawn(answer).splitlines()
    assert "state   CONSISTENT: all records agree; there is nothing to repair" in lines
    assert f"o {LEAF}  in the chain, leaf" in lines
    assert "next" not in lines and "problems" not in lines


def test_an_image_in_use_is_looked_at_again() -> None:
    text = drawn({**MERGED, "inUse": True})
    assert "in use  yes: a process has the image open; reconcileVolumeChain refuses (203) until it is closed\n" in text
    assert f"vdsClient 0 chain {SP} {SD} {IMG}\n" in text
    assert "deleteVolume" not in text and f"reconcileVolumeChain {SP}" not in text


def test_a_torn_merge_is_not_offered_for_deletion() -> None:
    answer = reply(
        "repairable",
        [ROOT, ONE, LEAF],
        [
            entry(ROOT, BLANK, "base"),
            entry(ONE, ROOT, "torn merge", "64 KiB are held here only"),
            entry(LEAF, ONE, "in chain", header=ROOT),
        ],
        changes=[{"volumeID": LEAF, "field": "backing", "before": ROOT, "after": ONE, "why": "merge is undone"}],
    )
    text = drawn(answer)
    assert f"% {ONE}  TORN MERGE: must stay in the chain" in text
    assert f"header parent    {ROOT}  <- wrong" in text
    assert f"header parent: {ROOT} -> {ONE}" in text
    assert "deleteVolume" not in text


def test_branches_leave_the_line_to_the_side() -> None:
    answer = reply(
        "consistent",
        [ROOT, LEAF],
        [
            entry(ROOT, BLANK, "base"),
            entry(ONE, ROOT, "merged"),
            entry(TWO, ONE, "merged"),
            entry(THREE, ONE, "merged"),
            entry(LEAF, ROOT, "in chain"),
        ],
    )
    marks = [line.partition("  ")[0] for line in drawn(answer).splitlines() if re.search("[ox] 0", line)]
    assert marks == [f"o {ROOT}", f"+-x {ONE}", f"| +-x {THREE}", f"| x {TWO}", f"o {LEAF}"]


def test_a_volume_of_the_chain_without_details_is_drawn() -> None:
    assert f"o {LEAF}  no verdict, leaf\n" in drawn(reply("consistent", [LEAF], []))


def test_the_leaf_that_was_named_is_the_one_of_the_next_command() -> None:
    with fakeserver.serving({"getVolumeChain": ok(**MERGED)}) as fake:
        code, shown, notes = clienting.run(fake, "chain", SP, SD, IMG, ONE)
    assert (code, notes) == (0, "")
    assert f"reconcileVolumeChain {SP} {SD} {IMG} {ONE}\n" in shown
    assert fake.calls == [("getVolumeChain", [SP, SD, IMG, ONE])]


def test_the_stale_leaf_is_the_leaf_that_the_engine_knows() -> None:
    answer = reply(
        "repairable",
        [ROOT],
        [
            entry(ROOT, BLANK, "base"),
            entry(LEAF, ROOT, "stale leaf", legality="ILLEGAL"),
            entry(ONE, "", "damaged", header=""),
        ],
    )
    assert f"reconcileVolumeChain {SP} {SD} {IMG} {LEAF}\n" in drawn(answer)


# ---------------------------------------------------------------- colour, width


def test_colour_adds_nothing_but_escape_sequences() -> None:
    coloured = drawn(MERGED, style.Style(colour=True, width=100))
    assert "\x1b[" in coloured
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == MERGED_DRAWN
    assert all(line.count("\x1b[0m") * 2 == line.count("\x1b[") for line in coloured.splitlines())


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_lines_of_text_fit_the_width(width: int) -> None:
    text = "word " * 60
    answer = reply("consistent", [ROOT], [entry(ROOT, BLANK, "base", text), entry(ONE, ROOT, "merged", text)])
    lines = drawn(answer, style.Style(width=width)).splitlines()
    words = [line for line in lines if "word" in line]
    assert max(map(len, words)) <= width
    assert sum(line.count("word") for line in words) == 120


class Screen(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, terminal: bool, encoding: str) -> None:
        super().__init__()
        self._terminal = terminal
        self._encoding = encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


@pytest.mark.parametrize(
    ("terminal", "encoding", "environment", "expected"),
    [
        (True, "utf-8", {"TERM": "xterm", "COLUMNS": "120"}, style.Style(True, True, 120)),
        (True, "UTF8", {"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}, style.Style(False, True, 120)),
        (True, "utf-8", {"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": ""}, style.Style(True, True, 120)),
        (True, "utf-8", {"TERM": "dumb", "COLUMNS": "120"}, style.Style(False, True, 120)),
        (True, "ascii", {"TERM": "xterm", "COLUMNS": "10"}, style.Style(True, False, 60)),
        (True, "ascii", {"TERM": "xterm"}, style.Style(True, False, 80)),
        (False, "utf-8", {"TERM": "xterm"}, style.Style(False, True, 100)),
        (False, "ascii", {"COLUMNS": "x"}, style.Style(False, False, 100)),
    ],
)
def test_style_of_a_stream(terminal: bool, encoding: str, environment: dict[str, str], expected: style.Style) -> None:
    assert style.detect(Screen(terminal, encoding), environment) == expected


# ---------------------------------------------------------------- hostile replies


def test_no_control_character_gets_through() -> None:
    evil = "x\x9b31m\u202e\n\r\x7f y"
    answer = reply(
        evil,
        [evil],
        [entry(evil, evil, evil, evil, header=evil, headerText=evil, legality=evil, voltype=evil, format=evil)],
        changes=[dict.fromkeys(("volumeID", "field", "before", "after", "why"), evil)],
        problems=[dict.fromkeys(("name", "volumeID", "code", "message"), evil)],
    )
    answer["chain"][0]["imageID"] = evil
    text = drawn(answer, style.Style(unicode=True))
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert r"x\x9b31m\u202e\n\r\x7f" in text


@pytest.mark.parametrize(
    "broken", [{"chain": "x"}, {"changes": None}, {"problems": [1]}, {"chain": [{}]}, {"state": 7}]
)
def test_members_of_a_wrong_type_do_not_stop_the_picture(broken: dict[str, Any]) -> None:
    assert LEAF in drawn({**MERGED, **broken})


def test_a_suggested_command_is_quoted() -> None:
    answer = reply("repairable", ["$(reboot)"], [])
    assert drawn(answer).splitlines()[-1].endswith(f" {IMG} '$(reboot)'")


IDS = [f"v{number}" for number in range(7)]


@settings(deadline=None)
@given(
    volumes=st.lists(st.sampled_from(IDS)),
    parents=st.lists(
        st.tuples(st.sampled_from(IDS), st.sampled_from([*IDS, "", BLANK]), st.sampled_from([*IDS, ""])), max_size=9
    ),
)
def test_every_volume_is_drawn_once(volumes: list[str], parents: list[tuple[str, str, str]]) -> None:
    entries = [dict(zip(("volumeID", "metadataParent", "headerParent"), row, strict=True)) for row in parents]
    arranged = tree.arrange(volumes, entries)
    found = [node.volume for node in arranged.nodes()]
    assert sorted(found) == sorted({*volumes, *(row[0] for row in parents)})
    assert [node.volume for node in arranged.chain] == list(dict.fromkeys(volumes))
    lines = tree.draw(arranged, PLAIN, lambda node, _: [node.volume], lambda _: "*")
    assert sum("*" in line for line in lines) == len(found)


def test_a_chain_of_50_dropped_volumes_is_no_staircase() -> None:
    ids = clienting.ids(52)
    entries = [entry(volume, ids[place - 1] if place else BLANK, "merged") for place, volume in enumerate(ids)]
    answer = reply("consistent", [ids[0], ids[-1]], entries)
    assert max(len(line) for line in drawn(answer).splitlines() if " o " in line or " x " in line) < 100


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("words", [("--json", SP, SD, IMG), (SP, SD, IMG, "--json")])
def test_json_is_the_reply(words: tuple[str, ...]) -> None:
    with fakeserver.serving({"getVolumeChain": ok(**MERGED)}) as fake:
        code, shown, _ = clienting.run(fake, "chain", *words)
    assert code == 0
    assert json.loads(shown) == MERGED
    assert fake.calls == [("getVolumeChain", [SP, SD, IMG])]


def test_json_of_a_failure_has_its_status() -> None:
    with fakeserver.serving({"getVolumeChain": fakeserver.failure(358, "no\x9b")}) as fake:
        code, shown, _ = clienting.run(fake, "chain", "--json", SP, SD, IMG)
    assert (code, json.loads(shown)) == (1, {"status": {"code": 358, "message": "no\x9b"}})
    assert shown.isascii()


def test_a_failure_is_its_message() -> None:
    with fakeserver.serving({"getVolumeChain": fakeserver.failure(268, "no such image")}) as fake:
        assert clienting.run(fake, "chain", SP, SD, IMG) == (1, "no such image\n", "")


def test_a_reply_without_volumes_is_an_error() -> None:
    with fakeserver.serving({"getVolumeChain": ok()}) as fake:
        assert clienting.run(fake, "chain", SP, SD, IMG)[0] == 255
