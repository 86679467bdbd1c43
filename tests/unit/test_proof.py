"""Answers about real merges on real images, and the store that keeps them."""

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.chains import evidence, inspection, proof, record, verdicts
from storage.volumes import volume_metadata
from tests.support import chains, images

pytestmark = pytest.mark.qemu

L2_LIMIT = 16 << 20
v = chains.volume_id


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where possible: much is made here, and flushed by qemu."""
    with chains.scratch() as directory:
        yield directory


@pytest.fixture
def image(tmp_path: Path) -> chains.Image:
    return chains.Image(chains.make_domain(tmp_path / "mount", 4))


def ask(
    image: chains.Image,
    upper: list[int],
    child: int | None,
    below: list[int],
    effort: proof.Effort | None = None,
    l2_limit: int = L2_LIMIT,
) -> evidence.Answer:
    return proof.answer(
        question(upper, child, below), image.look().records, image.look().paths, effort or proof.Effort(), l2_limit
    )


def question(upper: list[int], child: int | None, below: list[int]) -> evidence.Question:
    return evidence.Question(tuple(map(v, upper)), None if child is None else v(child), tuple(map(v, below)))


def verdict(answer: evidence.Answer) -> tuple[bool | None, bool | None, bool | None]:
    return answer.covered, answer.same, answer.common


# ---------------------------------------------------------------- merges beneath a child


def test_a_complete_commit_is_the_same_and_counts_what_the_child_does_not_hide(image: chains.Image) -> None:
    image.chain(3)
    before = image.guest(3)
    image.commit(2, 1, 3)
    assert image.guest(3) == before
    answer = ask(image, [2], 3, [1])
    assert verdict(answer) == (True, True, True)
    assert answer.held == answer.compared == chains.BLOCK, "block 0 is hidden by volume 3"


def test_a_commit_whose_tables_did_not_reach_the_disk_is_torn(image: chains.Image) -> None:
    image.chain(3)
    image.write(2, (8, 4, 9))
    before = image.guest(3)
    image.commit(2, 1, 3)
    image.forget(1, 9)
    assert image.guest(3) != before
    answer = ask(image, [2], 3, [1])
    assert verdict(answer) == (False, False, True)
    assert f"guest byte {9 * chains.BLOCK}" in answer.note


def test_a_header_switched_before_anything_was_copied_is_torn(image: chains.Image) -> None:
    image.chain(3)
    image.switch(3, 1)
    answer = ask(image, [2], 3, [1])
    assert verdict(answer) == (False, False, True)


def test_one_byte_of_difference_is_found(image: chains.Image) -> None:
    image.chain(3)
    image.write(2, (8, 16, 9))
    image.commit(2, 1, 3)
    images.qemu_io(image.data(1), f"write -q -P 8 {20 * chains.BLOCK + 777} 1")
    answer = ask(image, [2], 3, [1])
    assert verdict(answer) == (True, False, False)
    assert f"guest byte {20 * chains.BLOCK + 777}" in answer.note


def test_what_the_child_hides_may_be_torn(image: chains.Image) -> None:
    image.chain(3)
    image.write(3, (2, 1, 7))
    image.commit(2, 1, 3)
    image.forget(1, 2)
    assert verdict(ask(image, [2], 3, [1])) == (True, True, True)


def test_several_volumes_at_once(image: chains.Image) -> None:
    image.chain(5)
    before = image.guest(5)
    image.copy_down(4, 1)
    image.switch(5, 1)
    assert image.guest(5) == before
    assert ask(image, [4, 3, 2], 5, [1]).same is True
    image.forget(1, 3)
    assert ask(image, [4, 3, 2], 5, [1]).same is False


def test_a_stack_beneath_that_its_headers_do_not_name_yet(image: chains.Image) -> None:
    """3 looks merged into 2 only because 2 stands on 1 again, which the repair will see to."""
    image.chain(4)
    image.write(2, (3, 1, 7))
    image.commit(3, 1, 4)
    assert ask(image, [3, 2], 4, [1]).same is True
    assert ask(image, [3], 4, [2, 1]).same is False, "2 hides block 3 of 1"


def test_zeros_and_discards_count_as_data(image: chains.Image) -> None:
    image.chain(3)
    image.write(1, (8, 4, 1))
    images.qemu_io(image.data(2), f"write -q -z {8 * chains.BLOCK} 64k", f"discard -q {9 * chains.BLOCK} 64k")
    image.switch(3, 1)
    answer = ask(image, [2], 3, [1])
    assert answer.same is False
    image.copy_down(2, 1)
    assert ask(image, [2], 3, [1]).same is True


def test_a_complete_and_a_torn_stream(image: chains.Image) -> None:
    image.chain(3)
    before = image.guest(3)
    image.switch(3, None)
    assert ask(image, [2, 1], 3, []).same is False
    images.qemu_io(image.data(3), "write -q -P 1 64k 64k", "write -q -P 2 128k 64k")
    assert image.guest(3) == before
    assert verdict(ask(image, [2, 1], 3, [])) == (True, True, True)


def test_a_raw_target_is_judged_by_bytes(image: chains.Image) -> None:
    image.chain(3, fmt=volume_metadata.RAW)
    image.switch(3, 1)
    assert verdict(ask(image, [2], 3, [1])) == (None, False, False)
    image.copy_down(2, 1)
    assert verdict(ask(image, [2], 3, [1])) == (None, True, True)


@pytest.mark.parametrize("sizes", [(4, 6, 6), (4, 6, 8), (4, 4, 6), (6, 4, 6), (6, 4, 4), (4, 6, 4)], ids=str)
@pytest.mark.parametrize("torn", [False, True])
def test_volumes_of_different_sizes(image: chains.Image, sizes: tuple[int, ...], torn: bool) -> None:
    """A short volume shows zeros behind its end, whatever lies beneath: the answer must say what qemu would read."""
    for number, size in enumerate(sizes, 1):
        image.add(number, number - 1 or None, size=size * chains.MIB)
        last = size * chains.MIB // chains.BLOCK
        image.write(number, (number, 1, number), (last - number, 1, number))
    before = image.guest(3)
    if not torn:
        image.copy_down(2, 1)
    image.switch(3, 1)
    assert ask(image, [2], 3, [1]).same is (image.guest(3) == before)


@pytest.mark.parametrize("seed", range(16))
def test_the_answer_is_what_a_guest_would_say(image: chains.Image, seed: int) -> None:
    """Random chains, sizes, clusters and merges, some of them torn: `same` against what qemu reads before and after."""
    import random

    rng = random.Random(seed)
    size = 0
    for number in range(1, 5):
        size = max(size, rng.randint(20, 60)) if rng.random() < 0.8 else rng.randint(20, 60)
        options = {"cluster_size": rng.choice([4096, 65536, 262144]), "compat": rng.choice(["0.10", "1.1"])}
        if number == 1 and rng.random() < 0.3:
            image.add(1, size=size * chains.BLOCK, fmt=volume_metadata.RAW)
        else:
            image.add(number, number - 1 or None, size=size * chains.BLOCK, **options)
        image.write(number, *((rng.randrange(size), 1, rng.randint(1, 9)) for _ in range(rng.randint(0, 4))))
    before = image.guest(4)
    base = rng.choice([1, 2])
    if rng.random() < 0.6:
        image.copy_down(3, base)
    image.switch(4, base)
    upper = [3, 2] if base == 1 else [3]
    same = image.guest(4) == before
    assert ask(image, upper, 4, list(range(base, 0, -1))).same is same


# ---------------------------------------------------------------- a leaf against its parent


def test_a_leaf_and_a_parent_that_took_everything(image: chains.Image) -> None:
    image.chain(2)
    image.copy_down(2, 1)
    assert verdict(ask(image, [2], None, [1])) == (True, True, True)
    image.write(1, (2, 1, 99))
    assert verdict(ask(image, [2], None, [1])) == (True, False, False)


def test_a_parent_that_lacks_clusters_but_reads_the_same_there(image: chains.Image) -> None:
    """A merge need not write zeros where the target reads zeros: lacking those proves nothing."""
    image.chain(2)
    image.copy_down(2, 1)
    images.qemu_io(image.data(2), f"write -q -z {20 * chains.BLOCK} 64k")
    image.write(1, (0, 1, 99))
    assert verdict(ask(image, [2], None, [1])) == (True, False, False)


def test_a_version_2_base_forgets_and_so_proves_nothing(image: chains.Image) -> None:
    """Writing zeros to it drops the cluster: after a pivot a guest makes it look as if it had never got the data."""
    image.chain(2, compat="0.10")
    image.copy_down(2, 1)
    images.qemu_io(image.data(1), f"write -q -z {2 * chains.BLOCK} 64k")
    answer = ask(image, [2], None, [1])
    assert verdict(answer) == (None, False, True)
    assert "keeps no account" in answer.told()


def test_a_parent_with_a_smaller_disk_never_took_a_merge(image: chains.Image) -> None:
    """Nothing differs where both have something, but a guest would find its disk cut off."""
    image.add(1)
    image.add(2, 1, size=2 * chains.SIZE)
    assert verdict(ask(image, [2], None, [1])) == (False, False, None)


def test_a_leaf_that_holds_nothing(image: chains.Image) -> None:
    image.add(1)
    image.add(2, 1)
    answer = ask(image, [2], None, [1])
    assert verdict(answer) == (True, True, True)
    assert answer.told() == "it holds nothing that counts"


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("copied", [False, True])
def test_out_of_time_nothing_is_known_but_what_the_tables_say(image: chains.Image, copied: bool) -> None:
    image.chain(2)
    if copied:
        image.copy_down(2, 1)
    answer = ask(image, [2], None, [1], proof.Effort.seconds(-1))
    assert (answer.covered, answer.same, answer.compared) == (copied, None, 0)
    assert "ran out" in answer.note


def test_out_of_time_lacking_zeros_say_nothing(image: chains.Image) -> None:
    image.chain(2)
    image.copy_down(2, 1)
    images.qemu_io(image.data(2), f"write -q -z {20 * chains.BLOCK} 64k")
    assert ask(image, [2], None, [1], proof.Effort.seconds(-1)).covered is None


def test_it_can_be_stopped_and_tells_how_far_it_is(image: chains.Image) -> None:
    image.chain(2)
    image.write(2, (8, 48, 5))
    image.copy_down(2, 1)
    stop, told = threading.Event(), []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if done > chains.MIB:
            stop.set()

    answer = ask(image, [2], None, [1], proof.Effort(stopping=stop, progress=progress))
    assert answer.same is None
    assert told[-1][0] == answer.compared < answer.held == told[-1][1]
    assert told == sorted(told)


@pytest.mark.parametrize("damage", ["table", "limit", "gone", "zstd", "metadata"])
@pytest.mark.parametrize("where", [1, 2, 3])
def test_what_cannot_be_read_is_not_known(image: chains.Image, damage: str, where: int) -> None:
    image.chain(3, **({"compression_type": "zstd"} if damage == "zstd" else {}))
    limit = L2_LIMIT
    if damage == "zstd":
        images.qemu_io(image.data(where), f"write -q -c -P 6 {(12 + where) * chains.BLOCK} 64k")
    image.commit(2, 1, 3)
    sight = image.look()
    if damage == "table":
        images.patch_number(image.data(where), chains.entry_place(image.data(where), 0), 0x7FFF_FFFF_0000, 8)
    elif damage == "limit":
        limit = 100
    elif damage == "gone":
        image.data(where).unlink()
    elif damage == "metadata":
        image.meta(where).write_text("rubbish")
        sight = image.look()
    answer = proof.answer(question([2], 3, [1]), sight.records, sight.paths, proof.Effort(), limit)
    if damage == "zstd" and where != 2:
        assert answer.same is True, "no byte that counts lies there"
    else:
        assert answer.same is None and answer.note


def test_a_volume_with_a_fault_is_not_relied_on(image: chains.Image) -> None:
    image.chain(3)
    image.commit(2, 1, 3)
    sight = image.look()
    fault = record.header_fault(v(1), "test")
    records = {**sight.records, v(1): dataclasses.replace(sight.records[v(1)], faults=(fault,))}
    answer = proof.answer(question([2], 3, [1]), records, sight.paths, proof.Effort(), L2_LIMIT)
    assert answer.same is None and "test" in answer.note


# ---------------------------------------------------------------- kept answers

QUESTION = question([2], 3, [1])
ANSWER = evidence.Answer(covered=True, same=True, common=True, held=5, compared=5)


@pytest.fixture
def kept(image: chains.Image) -> Path:
    image.chain(3)
    image.commit(2, 1, 3)
    path = verdicts.path_of(image.domain.path, image.id)
    verdicts.save(path, image.look(), {QUESTION: ANSWER})
    return path


def loaded(path: Path, sight: inspection.Sight) -> dict[evidence.Question, evidence.Answer]:
    found = verdicts.load(path, sight)
    assert all(answer.remembered for answer in found.values())
    return {asked: dataclasses.replace(answer, remembered=False) for asked, answer in found.items()}


def test_a_kept_answer_is_used_while_the_files_are_unchanged(image: chains.Image, kept: Path) -> None:
    assert loaded(kept, image.look()) == {QUESTION: ANSWER}
    image.change(3, parent=1)
    assert loaded(kept, image.look()) == {QUESTION: ANSWER}, "metadata is no data"


def test_answers_that_settle_nothing_are_not_kept(image: chains.Image, kept: Path) -> None:
    verdicts.save(kept, image.look(), {QUESTION: dataclasses.replace(ANSWER, same=None)})
    assert loaded(kept, image.look()) == {}


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("what", ["length", "time", "identity", "gone"])
def test_a_kept_answer_is_dropped_when_a_file_changed(image: chains.Image, kept: Path, number: int, what: str) -> None:
    path = image.data(number)
    info = path.stat()
    if what == "length":
        with path.open("ab") as stream:
            stream.write(bytes(512))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    elif what == "time":
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    elif what == "identity":
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
        copy.rename(path)
    else:
        path.unlink()
    assert loaded(kept, image.look()) == {}


def test_a_kept_answer_is_dropped_when_the_stack_beneath_changed(image: chains.Image, kept: Path) -> None:
    """Pointing a header back restores the file's time, so the stack itself is part of what an answer rests on."""
    times = image.data(2).stat()
    image.switch(2, None)
    os.utime(image.data(2), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert loaded(kept, image.look()) == {}


BAD = [
    b"", b"{", b"[]", b"null", b'{"answers": 5}', b'{"answers": [5]}', b'{"answers": [{}]}', b"[" * 100_000,
    b"\xff\xfe", b'{"answers": [{"question": {"upper": ["x"], "child": null, "below": []}}]}', b"x" * (2 << 20),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_an_unreadable_store_is_no_answer_and_no_error(image: chains.Image, kept: Path, number: int) -> None:
    kept.write_bytes(BAD[number])
    assert verdicts.load(kept, image.look()) == {}


@pytest.mark.parametrize("field", ["covered", "same", "common"])
def test_an_answer_that_is_neither_yes_nor_no_is_no_answer(image: chains.Image, kept: Path, field: str) -> None:
    found = json.loads(kept.read_bytes())
    found["answers"][0]["answer"][field] = "false"
    kept.write_text(json.dumps(found))
    assert verdicts.load(kept, image.look()) == {}


def test_a_store_behind_a_link_is_not_followed(image: chains.Image, kept: Path, tmp_path: Path) -> None:
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    assert verdicts.load(kept, image.look()) == {}
    kept.unlink()
    assert verdicts.load(kept, image.look()) == {}
