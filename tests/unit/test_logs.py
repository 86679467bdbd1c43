"""Log and audit: one record a line whatever is in it, and files that can be opened anew."""

import contextlib
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rpc import bridge
from vdsmlite import audit, config, logs, yamlfile

ROOT = Path(__file__).resolve().parents[2]
WORD = re.compile(r'([A-Za-z_]+)=([A-Za-z0-9_.:/@+\[\]-]+|"(?:[ -!#-\[\]-~]|\\[ -~])*")')


def record(**changes):
    values = dict(time=0.0, client="127.0.0.1:1", flow_id="", transport="xml-rpc", verb="ping", ids={}, code=0)
    return bridge.Record(**{**values, "milliseconds": 1.25, **changes})


def words(line):
    """The words of an audit line; fails where the line is anything but words."""
    parts = WORD.findall(line)
    assert " ".join(f"{name}={value}" for name, value in parts) == line
    return dict(parts)


def test_an_audit_line():
    ids = {"imageID": "11111111-2222-3333-4444-555555555555"}
    assert audit.line(record(ids=ids, flow_id="abc-1", code=262)) == (
        "time=1970-01-01T00:00:00.000Z client=127.0.0.1:1 flow=abc-1 via=xml-rpc verb=ping"
        " imageID=11111111-2222-3333-4444-555555555555 code=262 ms=1.2"
    )


@given(st.text(), st.text())
def test_nobody_forges_a_word_or_a_line(flow, value):
    found = words(audit.line(record(flow_id=flow, ids={"imageID": value})))
    assert list(found) == ["time", "client", "flow", "via", "verb", "imageID", "code", "ms"]
    assert found["code"] == "0"


@pytest.mark.parametrize("value", ["a b", 'a"b', "a\\", "a\nb", "\x7f", "é", "\u2028", "\ud800", "a=b", ""])
def test_quoting(value):
    quoted = audit.quote(value)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted.isascii() and quoted.isprintable()
    assert quoted[1:-1].replace('\\"', '"').encode().decode("unicode_escape") == value


def test_long_values_are_cut():
    assert len(audit.quote("x" * 100_000)) == audit.VALUE_LIMIT + 3


@contextlib.contextmanager
def logging_as(wanted):
    """Logging as configured, and as before afterwards."""
    root, audits = logging.getLogger(), logging.getLogger(logs.AUDIT)
    before = root.handlers[:], root.level, audits.propagate, audits.level
    root.handlers.clear()
    try:
        logs.start(wanted)
        yield
    finally:
        for handler in {*root.handlers, *audits.handlers} - {*before[0]}:
            handler.close()
        root.handlers[:], root.level, audits.propagate, audits.level = before
        audits.handlers.clear()
        root.setLevel(before[1])


def test_records_are_lines(tmp_path):
    file = tmp_path / "log"
    with logging_as(config.Log(file=file)):
        logging.getLogger("a").warning("one\ntwo %s", "\x1b[31m\u2028\ud800")
        try:
            raise ValueError("bad\n2026-01-01T00:00:00.000Z INFO forged")
        except ValueError:
            logging.getLogger("a").exception("failed")
        logging.getLogger("a").debug("not written")
    lines = file.read_text().splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING MainThread a: one\\x0atwo \\x1b\[31m\\u2028\\ud800", lines[0]
    )
    assert lines[1].endswith("ERROR MainThread a: failed")
    assert len(lines) > 3
    assert all(line.startswith("    ") for line in lines[2:])


def test_audit_lines_are_part_of_the_log_or_have_a_file(tmp_path):
    log, own = tmp_path / "log", tmp_path / "audit"
    with logging_as(config.Log(level="ERROR", file=log)):
        audit.write(record())
    assert log.read_text().count(" INFO MainThread vdsmlite.audit: time=1970") == 1  # whatever the level
    with logging_as(config.Log(file=log, audit_file=own)):
        audit.write(record())
    assert own.read_text() == audit.line(record()) + "\n"
    assert log.read_text().count("time=1970") == 1


def test_files_are_opened_anew(tmp_path):
    log, own = tmp_path / "log", tmp_path / "audit"
    with logging_as(config.Log(file=log, audit_file=own)):
        audit.write(record(verb="first"))
        logging.getLogger("a").info("first")
        log.rename(tmp_path / "log.1")
        own.rename(tmp_path / "audit.1")
        logs.reopen()
        audit.write(record(verb="second"))
        logging.getLogger("a").info("second")
    assert "first" not in log.read_text() + own.read_text()
    assert "second" in log.read_text() and "second" in own.read_text()
    assert "second" not in (tmp_path / "log.1").read_text() + (tmp_path / "audit.1").read_text()


def test_a_file_that_cannot_be_opened_anew_stays(tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    with logging_as(config.Log(file=directory / "log")):
        directory.rename(tmp_path / "e")
        logs.reopen()
        logging.getLogger("a").info("later")
    text = (tmp_path / "e" / "log").read_text()
    assert "cannot reopen" in text and "later" in text


def test_logging_by_file(tmp_path):
    text = (ROOT / "etc" / "logging.yaml").read_text().replace("/var/log/vdsmlite", str(tmp_path))
    file = tmp_path / "logging.yaml"
    file.write_text(text)
    with logging_as(config.Log(config=file)):
        logging.getLogger("storage.pool").info("one\ntwo")
        audit.write(record())
    assert (tmp_path / "vdsmlite.log").read_text().endswith(" storage.pool: one\\x0atwo\n")
    assert (tmp_path / "audit.log").read_text() == audit.line(record()) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "[]",
        "version: 2",
        "version: 1\nhandlers: {a: {class: nothing.There}}",
        "version: 1\nroot: {handlers: [b]}",
        "version: 1\nversion: 1",
        "version: 1\nformatters: {a: {(): vdsmlite.logs.Formatter, colour: red}}",
    ],
)
def test_bad_logging_files_are_refused(tmp_path, text):
    file = tmp_path / "logging.yaml"
    file.write_text(text)
    with pytest.raises(config.Refused, match=r"log\.config .*logging\.yaml"), logging_as(config.Log(config=file)):
        pass


def test_dump_and_parse():
    content = {"b": {"text": "no", "number": 1.5, "nothing": None, "list": ["a: b", "\x01é\u2028"]}, "a": True}
    assert yamlfile.parse(yamlfile.dump(content)) == content
    assert list(yamlfile.parse(yamlfile.dump(content))) == ["b", "a"]
