"""The volume record: both generations of it, hostile text, and bytes that mean nothing."""

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings, strategies as st

from storage import errors, ids
from storage.volumes import volume_metadata

SD, IMG, PARENT = (f"{n}0000000-0000-4000-8000-000000000000" for n in "abc")

OLD_RECORD = f"""\
DOMAIN={SD}
VOLTYPE=INTERNAL
CTIME=1416787200
FORMAT=COW
IMAGE={IMG}
DISKTYPE=2
PUUID={PARENT}
LEGALITY=ILLEGAL
MTIME=0
POOL_UUID=
DESCRIPTION={{"DiskAlias":"a","DiskDescription":"x=y"}}
TYPE=SPARSE
SIZE=2097152
EOF
""".encode()

NEW_RECORD = f"""\
CAP=1073741824
CTIME=1600000000
DESCRIPTION=root
DISKTYPE=DATA
DOMAIN={SD}
FORMAT=RAW
GEN=7
IMAGE={IMG}
LEGALITY=LEGAL
PUUID={ids.BLANK}
SEQ=3
TYPE=PREALLOCATED
VOLTYPE=LEAF
EOF
""".encode()


def sample(**changes):
    values = {
        "domain": ids.DomainId(SD),
        "image": ids.ImageId(IMG),
        "parent": ids.VolumeId(ids.BLANK),
        "capacity": 1024**3,
        "format": "RAW",
        "type": "SPARSE",
        "voltype": "LEAF",
        "disktype": "2",
        "description": "",
        "legality": "LEGAL",
        "ctime": 1416787200,
    }
    return volume_metadata.VolumeMetadata(**values | changes)


def without(record, key):
    return b"".join(line for line in record.splitlines(keepends=True) if not line.startswith(key + b"="))


def test_old_record_is_read():
    found = volume_metadata.parse(OLD_RECORD)
    assert found == sample(
        parent=ids.VolumeId(PARENT),
        format="COW",
        voltype="INTERNAL",
        legality="ILLEGAL",
        description='{"DiskAlias":"a","DiskDescription":"x=y"}',
    )


def test_new_record_is_read():
    found = volume_metadata.parse(NEW_RECORD)
    assert (found.capacity, found.generation, found.sequence) == (1024**3, 7, 3)
    assert (found.disktype, found.type, found.description) == ("DATA", "PREALLOCATED", "root")


@pytest.mark.parametrize("version", [0, 2, 3, 4])
def test_old_versions_write_sectors_sorted(version):
    data = volume_metadata.encode(sample(description="x"), version)
    assert (
        data
        == (
            f"CTIME=1416787200\nDESCRIPTION=x\nDISKTYPE=2\nDOMAIN={SD}\nFORMAT=RAW\nGEN=0\nIMAGE={IMG}\nLEGALITY=LEGAL\n"
            f"MTIME=0\nPUUID={ids.BLANK}\nSIZE=2097152\nTYPE=SPARSE\nVOLTYPE=LEAF\nEOF\n"
        ).encode()
    )


def test_version_5_writes_bytes_and_sequence():
    lines = volume_metadata.encode(sample(sequence=4), 5).decode().splitlines()
    assert "CAP=1073741824" in lines and "SEQ=4" in lines
    assert not any(line.startswith(("SIZE=", "MTIME=", "POOL_UUID=")) for line in lines)


def test_capacity_in_bytes_is_preferred_during_an_upgrade():
    assert volume_metadata.parse(OLD_RECORD).capacity == 2097152 * 512
    assert volume_metadata.parse(b"CAP=4096\n" + OLD_RECORD).capacity == 4096


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r.replace(b"EOF\n", b""), id="no end line"),
        pytest.param(lambda r: r + b"\0" * 400, id="padding"),
        pytest.param(lambda r: r.replace(b"EOF\n", b"") + b"\0" * 400, id="padding for an end line"),
        pytest.param(lambda r: r + b"CTIME=nonsense\n", id="text behind the end"),
        pytest.param(lambda r: b"a line without a separator\n" + r, id="no separator"),
        pytest.param(lambda r: r.replace(b"\n", b" \r\n"), id="trailing blanks"),
        pytest.param(lambda r: r.replace(b"EOF", b"EOF of record"), id="longer end line"),
    ],
)
def test_tolerated(change):
    assert volume_metadata.parse(change(NEW_RECORD)) == volume_metadata.parse(NEW_RECORD)


def test_defaults_of_missing_keys():
    assert volume_metadata.parse(without(OLD_RECORD, b"LEGALITY")).legality == "LEGAL"
    assert volume_metadata.parse(without(NEW_RECORD, b"GEN")).generation == 0
    assert volume_metadata.parse(without(NEW_RECORD, b"SEQ")).sequence == 0


def test_unsettled_size_of_3_5():
    assert volume_metadata.parse(OLD_RECORD.replace(b"2097152", b"-1")).capacity == -512


def test_tab_in_an_old_description_does_not_make_the_record_unwritable():
    found = volume_metadata.parse(NEW_RECORD.replace(b"root", b"\x01a\tb\x0b"))
    assert found.description == "a b"
    assert volume_metadata.parse(volume_metadata.encode(found, 5)) == found


@pytest.mark.parametrize(
    ("record", "said"),
    [
        pytest.param(b"", "is missing", id="empty"),
        pytest.param(b"NONE=" + b"#" * 502 + b"\nEOF\n", "cleared", id="cleared"),
        pytest.param(without(NEW_RECORD, b"CAP"), "CAP and SIZE", id="no size"),
        pytest.param(without(NEW_RECORD, b"PUUID"), "PUUID is missing", id="no parent"),
        pytest.param(NEW_RECORD.replace(b"FORMAT=RAW", b"FORMAT=qcow2"), "FORMAT", id="format"),
        pytest.param(NEW_RECORD.replace(b"GEN=7", b"GEN=1000"), "GEN", id="generation"),
        pytest.param(NEW_RECORD.replace(b"CAP=1073741824", b"CAP=1_0"), "CAP", id="underscore number"),
        pytest.param(NEW_RECORD.replace(b"CAP=1073741824", "CAP=\uff11".encode()), "CAP", id="full-width digit"),
        pytest.param(NEW_RECORD.replace(b"CAP=1073741824", b"CAP=" + b"9" * 5000), "CAP", id="huge number"),
        pytest.param(NEW_RECORD.replace(SD.encode(), b"../../etc"), "DOMAIN", id="path for an id"),
        pytest.param(NEW_RECORD.replace(b"root", b"\xff"), "not UTF-8", id="not utf-8"),
        pytest.param(b"CAP=1\n" + NEW_RECORD, "twice", id="doubled key"),
        pytest.param(b"X=" + b"x" * 70000 + b"\n" + NEW_RECORD, "longer", id="endless"),
    ],
)
def test_refused(record, said):
    with pytest.raises(errors.MetaDataValidationError, match=said):
        volume_metadata.parse(record)


def test_inspect_tells_what_is_there_all_the_same():
    values, problems = volume_metadata.inspect(NEW_RECORD.replace(b"CTIME=1600000000", b"CTIME=yesterday"))
    assert values["PUUID"] == ids.BLANK and values["CTIME"] == "yesterday"
    assert len(problems) == 1 and "CTIME" in problems[0]


def test_unknown_keys_survive_a_rewrite():
    found = volume_metadata.parse(b"COLOUR=blue = green\n" + OLD_RECORD)
    assert found.extra == {"COLOUR": "blue = green"}
    assert b"COLOUR=blue = green\n" in volume_metadata.encode(found, 3)


INJECTIONS = ["x\nCAP=1", "x\nEOF", "a\rb", "a\x0bb", "a\x85b", "a\u2028b", "a\u2029b", "a\0b", "tab\there", "a\ud800b"]


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_injection_is_refused(text):
    with pytest.raises(errors.MetaDataValidationError):
        volume_metadata.encode(sample(description=text), 5)
    with pytest.raises(errors.MetaDataValidationError):
        volume_metadata.encode(sample(disktype=text), 3)
    with pytest.raises(errors.MetaDataValidationError):
        volume_metadata.encode(sample(extra={"KEY": text}), 3)


@pytest.mark.parametrize("key", ["CAP", "EOFX", "NONE", "", " A", "A\nCAP", "A=B"], ids=ascii)
def test_unknown_key_cannot_pose_as_a_known_one(key):
    with pytest.raises(errors.MetaDataValidationError):
        volume_metadata.encode(sample(extra={key: "1"}), 3)


@pytest.mark.parametrize(
    "changes",
    [{"format": "qcow2"}, {"legality": "LEGAL "}, {"generation": 1000}, {"capacity": 2**63}, {"ctime": -1}],
)
def test_values_out_of_range_are_not_written(changes):
    with pytest.raises(errors.MetaDataValidationError):
        volume_metadata.encode(sample(**changes), 5)


def test_half_a_sector_is_not_written_as_a_whole_one():
    with pytest.raises(errors.MetaDataValidationError, match="multiple"):
        volume_metadata.encode(sample(capacity=1000), 3)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_longest_values_leave_room_for_the_description(version):
    full = sample(
        capacity=2**54 * 512 if version < 5 else 2**63 - 1,
        type="PREALLOCATED",
        voltype="INTERNAL",
        disktype="DATA",
        legality="ILLEGAL",
        ctime=9999999999,
        generation=999,
        sequence=2**32 - 1,
        description="d" * volume_metadata.DESCRIPTION_LIMIT,
    )
    assert len(volume_metadata.encode(full, version)) <= 512


def test_limit_counts_bytes_not_characters():
    text = "\u00e9" * volume_metadata.DESCRIPTION_LIMIT
    with pytest.raises(errors.MetadataOverflowError) as caught:
        volume_metadata.encode(sample(description=text), 5)
    assert caught.value.fields["size"] > 512


def test_fitted_keeps_what_fits():
    long = sample(description="\u00e9" * 400)
    short = volume_metadata.fitted(long, 3)
    assert 505 <= len(volume_metadata.encode(short, 3)) <= 512
    assert long.description.startswith(short.description)
    assert volume_metadata.fitted(sample(description="x"), 3) == sample(description="x")


def test_fitted_does_not_drop_unknown_keys():
    with pytest.raises(errors.MetadataOverflowError):
        volume_metadata.fitted(sample(extra={"X": "x" * 500}), 3)


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60)
RECORDS = st.builds(
    sample,
    parent=st.uuids().map(lambda u: ids.VolumeId(str(u))),
    capacity=st.integers(0, 2**40).map(lambda n: n * 512),
    format=st.sampled_from(["RAW", "COW"]),
    type=st.sampled_from(["SPARSE", "PREALLOCATED"]),
    voltype=st.sampled_from(["LEAF", "INTERNAL", "SHARED"]),
    legality=st.sampled_from(["LEGAL", "ILLEGAL", "FAKE"]),
    ctime=st.integers(0, 2**33),
    generation=st.integers(0, 999),
    description=TEXT.map(lambda text: volume_metadata.cut(text, 100)),
)


@settings(deadline=None)
@given(RECORDS, st.sampled_from([0, 3, 4, 5]), st.integers(0, 2**32 - 1))
def test_round_trip(record, version, sequence):
    record = dataclasses.replace(record, sequence=sequence if version >= 5 else 0)
    data = volume_metadata.encode(record, version)
    assert volume_metadata.parse(data) == record
    assert len(data) <= 512 and data.endswith(b"\nEOF\n")
    keys = [line.split(b"=")[0] for line in data.split(b"\n")[:-2]]
    assert keys == sorted(keys)


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from([3, 5]))
def test_any_description_is_refused_or_comes_back(text, version):
    try:
        data = volume_metadata.encode(sample(description=text), version)
    except (errors.MetaDataValidationError, errors.MetadataOverflowError):
        return
    assert volume_metadata.parse(data) == sample(description=text.strip())


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_any_bytes_raise_only_metadata_errors(data):
    with contextlib.suppress(errors.MetaDataValidationError):
        volume_metadata.parse(data)


@settings(deadline=None)
@given(st.integers(0, len(NEW_RECORD)), st.binary(max_size=8), st.integers(0, 8))
def test_damaged_record_raises_only_metadata_errors_and_stays_writable(position, inserted, dropped):
    data = NEW_RECORD[:position] + inserted + NEW_RECORD[position + dropped :]
    try:
        found = volume_metadata.parse(data)
    except errors.MetaDataValidationError:
        return
    assert volume_metadata.parse(volume_metadata.encode(found, 5)) == found
