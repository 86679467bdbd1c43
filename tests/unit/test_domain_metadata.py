"""The domain record: checksum, both readers' habits, and that nothing damaged is ever sealed again."""

import hashlib

import pytest
from hypothesis import given, settings, strategies as st

from storage import errors, ids
from storage.domains import domain_metadata

A = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
B = ids.DomainId("9af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")

LINE_ENDS = [
    "\n",
    "\r",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x85",
    "\u2028",
    "\u2029",
    "\0",
    "\x7f",
    "\t",
    "\ud800",
]

printable = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))
keys = printable.map(lambda text: text.replace("=", "").strip()).filter(lambda key: key != domain_metadata.CHECKSUM)


def sealed(*lines: str) -> bytes:
    """A record sealed by hand: the lines must come in key order."""
    seal = hashlib.sha1("".join(lines).encode("ascii", "xmlcharrefreplace")).hexdigest()
    return "".join(f"{line}\n" for line in [*lines, f"_SHA_CKSUM={seal}"]).encode()


def test_checksum_takes_other_than_ascii_as_xml_references() -> None:
    values = {"VERSION": "3", "DESCRIPTION": "é"}
    assert domain_metadata.checksum(values) == "842290aaf3c8b253ca078ca86b51fd863b1a14fb"
    assert domain_metadata.encode(values) == (
        "DESCRIPTION=é\nVERSION=3\n_SHA_CKSUM=842290aaf3c8b253ca078ca86b51fd863b1a14fb\n".encode()
    )


def test_keys_are_written_in_byte_order() -> None:
    lines = domain_metadata.encode(
        {"b": "", "a": "", "B": "", "_": "", "é": "", "\U0001f600": "", "\uffe0": ""}
    ).decode()
    assert [line.split("=")[0] for line in lines.splitlines()] == [
        "B", "_", "a", "b", "é", "\uffe0", "\U0001f600", "_SHA_CKSUM",
    ]  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(keys, printable, max_size=8))
def test_what_is_written_is_read(values: dict[str, str]) -> None:
    data = domain_metadata.encode(values)
    stripped = {key: value.strip() for key, value in values.items()}
    assert domain_metadata.parse(data).raw == stripped
    assert domain_metadata.parse(data + b"\0" * 100).raw == stripped
    assert domain_metadata.encode(domain_metadata.parse(data).raw) == data
    # The reader that splits at every line end of Unicode sees the same lines as the one that splits at "\n".
    assert data.decode().splitlines() == data.decode().split("\n")[:-1]
    assert domain_metadata.inspect(data) == (stripped, [])


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_parsing_anything_gives_values_or_one_of_two_errors(data: bytes) -> None:
    try:
        metadata = domain_metadata.parse(data)
    except (errors.MetaDataSealIsBroken, errors.MetaDataValidationError):
        assert domain_metadata.inspect(data)[1]
        return
    assert domain_metadata.CHECKSUM not in metadata.raw
    assert domain_metadata.inspect(data) == (metadata.raw, [])


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 255))
def test_one_changed_byte_breaks_the_seal_or_changes_no_value(position: int, change: int) -> None:
    data = domain_metadata.encode({"CLASS": "Data", "DESCRIPTION": "é x", "POOL_UUID": str(POOL), "VERSION": "3"})
    damaged = bytearray(data)
    damaged[position % len(data)] ^= change
    try:
        found = domain_metadata.parse(bytes(damaged)).raw
    except errors.StorageError:
        return
    # The only line whose damage leaves a readable record is the seal's own: no key of that name, no check.
    whole = domain_metadata.parse(data).raw
    assert {key: found.get(key) for key in whole} == whole


@pytest.mark.parametrize("character", LINE_ENDS)
def test_what_anybody_takes_for_a_line_end_is_refused(character: str) -> None:
    for values in ({"DESCRIPTION": f"a{character}CLASS=Iso"}, {"DESCRIPTION": character}, {f"K{character}": "x"}):
        with pytest.raises(errors.MetaDataValidationError):
            domain_metadata.encode(values)


@pytest.mark.parametrize("key", ["a=b", " a", "a "])
def test_impossible_keys_are_refused(key: str) -> None:
    with pytest.raises(errors.MetaDataValidationError):
        domain_metadata.encode({key: "x"})


def test_values_sealed_with_their_trailing_blanks_are_read_and_written_without() -> None:
    metadata = domain_metadata.parse(sealed("DESCRIPTION=name \t", "VERSION=4"))
    assert metadata.raw == {"DESCRIPTION": "name", "VERSION": "4"}
    assert domain_metadata.encode(metadata.raw) == sealed("DESCRIPTION=name", "VERSION=4")


def test_a_value_may_hold_equal_signs_and_a_line_without_one_is_skipped() -> None:
    assert domain_metadata.parse(b"nonsense\nDESCRIPTION=a=b==\n\n").raw == {"DESCRIPTION": "a=b=="}


def test_unknown_keys_are_kept_and_sealed() -> None:
    data = sealed("NEWKEY=x", "VERSION=3")
    assert domain_metadata.encode(domain_metadata.parse(data).raw) == data


def test_a_record_without_checksum_is_taken_as_it_is() -> None:
    assert domain_metadata.parse(b"VERSION=3\nCLASS=Data\n").raw == {"VERSION": "3", "CLASS": "Data"}
    assert domain_metadata.parse(b"").raw == {} == domain_metadata.parse(b"\0" * 512).raw


@pytest.mark.parametrize("data", [b"VERSION=3\n_SHA_CKSUM=\n", b"VERSION=3\n_SHA_CKSUM=" + b"0" * 40 + b"\n"])
def test_a_wrong_checksum_is_an_error(data: bytes) -> None:
    with pytest.raises(errors.MetaDataSealIsBroken):
        domain_metadata.parse(data)
    values, problems = domain_metadata.inspect(data)
    assert values == {"VERSION": "3"} and len(problems) == 1


def test_typed_values() -> None:
    metadata = domain_metadata.DomainMetadata(
        {
            "VERSION": "5",
            "SDUUID": A,
            "ROLE": "Master",
            "POOL_UUID": f"{ids.BLANK}, {POOL},",
            "ALIGNMENT": "8388608",
            "BLOCK_SIZE": "4096",
            "LEASETIMESEC": "",
            "LEASERETRIES": "7",
            "POOL_SPM_ID": "-1",
            "POOL_DOMAINS": f"{A}:Active",
        }
    )
    assert (metadata.version, metadata.domain_id, metadata.is_master, metadata.pools) == (5, A, True, [POOL])
    assert (metadata.alignment, metadata.block_size, metadata.spm_id) == (8388608, 4096, -1)
    assert metadata.lease_parameters == {
        "LOCKRENEWALINTERVALSEC": 5, "LEASETIMESEC": 60, "IOOPTIMEOUTSEC": 10, "LEASERETRIES": 7,
    }  # fmt: skip
    assert metadata.pool_domains == {A: "Active"}


def test_before_version_5_alignment_and_block_size_are_fixed() -> None:
    metadata = domain_metadata.DomainMetadata({"VERSION": "4", "ALIGNMENT": "8388608", "BLOCK_SIZE": "4096"})
    assert (metadata.alignment, metadata.block_size) == (1048576, 512)


def test_one_bad_value_spoils_only_itself() -> None:
    metadata = domain_metadata.DomainMetadata({"VERSION": "3", "POOL_UUID": "../x", "POOL_SPM_ID": "1\u0661"})
    assert metadata.version == 3
    for name in ("pools", "spm_id"):
        with pytest.raises(errors.MetaDataValidationError):
            getattr(metadata, name)
    for name in ("master_version", "type", "domain_class", "domain_id"):
        with pytest.raises(errors.MetaDataKeyNotFoundError):
            getattr(metadata, name)


def test_pool_domains_of_older_writers_are_read() -> None:
    assert domain_metadata.decode_pool_domains(f"'{A}':'active', {B}:Inactive,") == {A: "Active", B: "Attached"}
    assert domain_metadata.decode_pool_domains("") == {}


@pytest.mark.parametrize("text", [f"{A}", f"{A}:", "x:Active", f"{A}:Active:x", f"{A}:Gone", f"{A}x:Active"])
def test_malformed_pool_domains_are_an_error(text: str) -> None:
    with pytest.raises(errors.MetaDataValidationError):
        domain_metadata.decode_pool_domains(text)


@settings(deadline=None)
@given(st.dictionaries(st.uuids().map(str).map(ids.DomainId), st.sampled_from(domain_metadata.STATUSES)))
def test_pool_domains_round_trip(domains: dict[ids.DomainId, str]) -> None:
    text = domain_metadata.encode_pool_domains(domains)
    assert domain_metadata.decode_pool_domains(text) == domains


def test_an_unknown_status_is_not_written() -> None:
    with pytest.raises(errors.MetaDataValidationError):
        domain_metadata.encode_pool_domains({A: "Inactive"})
