"""The client's command line: options, help, addresses, and what it does when no reply comes."""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from client import commands, errors, main, options, transport
from rpc import catalogue
from tests.support import clienting, fakeserver
from tests.support.fakeserver import ok

SD = clienting.ids(1)[0]
NAMES = list(commands.table(catalogue.load()))


# ---------------------------------------------------------------- options and help


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["--hel"], ["-s", "-h", "0", "spmStop"]])
def test_full_help(argv: list[str]) -> None:
    outcome = main.run(argv)
    lines = list(outcome.lines)
    assert outcome.code == 0
    assert lines[0].startswith("Usage: vdsClient ")
    assert (
        [line for line in lines[lines.index("Commands:") + 1 :] if not line.startswith("\t")] == NAMES == sorted(NAMES)
    )
    place = lines.index("reconcileVolumeChain")
    assert lines[place + 1] == "\t<spUUID> <sdUUID> <imgUUID> <leafVolUUID> [leaf=<volUUID>]"
    for option in ("-h", "--help", "-m", "--methods", "-s", "--SSL", "--truststore", "-o", "--oneliner"):
        assert any(option in line for line in lines[: lines.index("Commands:")])


@pytest.mark.parametrize("argv", [["-m"], ["--methods"]])
def test_short_help_is_what_completion_reads(argv: list[str]) -> None:
    outcome = main.run(argv)
    assert outcome.code == 0
    assert [line.split("\t")[0] for line in outcome.lines] == NAMES
    assert all(line.split("\t")[1] for line in outcome.lines)
    assert "getImagesList\t<sdUUID>" in outcome.lines


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "a server and a command are needed"),
        (["0"], "a server and a command are needed"),
        (["0", "getNothing"], "unknown command 'getNothing'"),
        (["0", "ping"], "unknown command 'ping'"),
        (["0", "x\x1b[31m"], "unknown command 'x\\x1b[31m'"),
        (["-x", "0", "spmStop"], "option -x not recognized"),
        (["--truststore"], "option --truststore requires argument"),
    ],
)
def test_unusable_command_lines(argv: list[str], reason: str) -> None:
    outcome = main.run(argv)
    assert (outcome.code, outcome.lines[0]) == (255, f"ERROR: {reason}")
    assert list(outcome.lines[2:]) == list(main.run(["-h"]).lines)


def test_options_end_at_the_server() -> None:
    assert options.parse(["-o", "0", "spmStart", "-1", "-s"]) == options.Options(
        ("0", "spmStart", "-1", "-s"), oneliner=True
    )
    found = options.parse(["-s", "--trust", "/a", "0", "x"])
    assert found == options.Options(("0", "x"), tls=True, truststore="/a")


def test_an_abbreviation_that_was_unique_stays_it() -> None:
    assert options.parse(["--m"]) == options.Options((), methods=True)
    assert options.parse(["--me"]) == options.parse(["-m"]) == options.parse(["--m"])
    assert options.parse(["--ma", "--w"]) == options.Options((), man=True, wait=True)


@pytest.mark.parametrize("option", options.TABLE, ids=lambda option: option.long)
def test_help_has_every_option(option: options.Option) -> None:
    text = "\n".join(main.run(["-h"]).lines)
    assert all(name in text for name in option.names) and option.words in text


@pytest.mark.parametrize(("option", "shown"), [((), "\ta = ['x']\n\tb = '4'\n"), (("-o",), "\ta = ['x']\n\tb = 4\n")])
def test_oneliner(option: tuple[str, ...], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with fakeserver.serving({"getVdsCapabilities": ok(info={"b": "4", "a": ["x"]})}) as fake:
        assert clienting.run_main(monkeypatch, capsys, *option, fake.address, "getVdsCaps") == (0, shown, "")


@pytest.mark.parametrize(
    ("words", "replies", "code", "shown"),
    [
        (("getVdsCaps",), {"getVdsCapabilities": ok(info={"a": ["\x9b\x7f"]})}, 0, ok(info={"a": ["\x9b\x7f"]})),
        (("spmStop", SD), {"spmStop": fakeserver.failure(654, "no")}, 1, fakeserver.failure(654, "no")),
        (("getVdsStats",), {"getVdsStats": fakeserver.failure(99, "no")}, 99, fakeserver.failure(99, "no")),
        (
            ("getVolumesList", SD, SD),
            {"getImagesList": ok(imageslist=[SD]), "getVolumesList": ok(uuidlist=[])},
            0,
            [ok(imageslist=[SD]), ok(uuidlist=[])],
        ),
    ],
)
@pytest.mark.parametrize("option", [(), ("-o",)])
def test_json_is_the_reply_with_the_same_exit_code(
    option: tuple[str, ...], words: tuple[str, ...], replies: Any, code: int, shown: Any
) -> None:
    with fakeserver.serving(replies) as fake:
        outcome = main.run(["--json", *option, fake.address, *words])
    assert (outcome.code, json.loads("\n".join(outcome.lines))) == (code, shown)
    assert all(line.isascii() and line.isprintable() for line in outcome.lines)
    assert len(outcome.lines) == 1 or not option


def test_json_without_a_reply_tells_the_reason_as_ever() -> None:
    plain, asked = main.run(["0", "spmStop"]), main.run(["--json", "0", "spmStop"])
    assert asked == plain and asked.code == 255


def test_exit_codes_through_main(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    replies = {"spmStop": fakeserver.failure(654, "no"), "getVdsStats": fakeserver.failure(99, "starting")}
    with fakeserver.serving(replies) as fake:
        assert clienting.run_main(monkeypatch, capsys, fake.address, "spmStop", SD) == (1, "no\n", "")
        assert clienting.run_main(monkeypatch, capsys, fake.address, "getVdsStats") == (99, "starting\n", "")


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0", "127.0.0.1", 54321),
        ("0:7", "127.0.0.1", 7),
        ("host.example", "host.example", 54321),
        ("host_1:80", "host_1", 80),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("[::1]", "::1", 54321),
        ("[fe80::1%eth0]:99", "fe80::1%eth0", 99),
        ("::1", "::1", 54321),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert transport.parse_address(text) == transport.Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "h:", "h:0", "h:65536", "h:x", "a b", "a/b", "u@h", "h\r\nX: y", "[::1", "[x]", "h:1:2", "\u0661"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(errors.BadAddress):
        transport.parse_address(text)


def test_a_bad_address_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, out, err = clienting.run_main(monkeypatch, capsys, "h:0", "spmStop", SD)
    assert (code, out, err) == (255, "", "ERROR: port 0 is outside 1..65535\n")


def test_ipv6() -> None:
    address = transport.Address("::1", 5)
    assert str(address) == "[::1]:5"


# ---------------------------------------------------------------- no reply


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_connection_refused_is_one_line(free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    result = clienting.run_main(monkeypatch, capsys, f"127.0.0.1:{free_port}", "spmStop", SD)
    assert result == (255, f"Connection to 127.0.0.1:{free_port} refused\n", "")


@pytest.fixture
def raw_server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with the first of the given replies, then closes it."""
    replies: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    request = chunk = connection.recv(65536)
                    while chunk and b"</methodCall>" not in request:
                        chunk = connection.recv(65536)
                        request += chunk
                    if replies:
                        connection.sendall(replies.pop(0))

        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*server.getsockname()), replies
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "connection was closed before a reply came"),
        (b"\x15\x03\x01\x00\x02", "reply cannot be understood"),
        (http(b"", "404 Not Found"), "HTTP status 404 Not Found"),
        (http(b"<html>"), "reply cannot be understood"),
        (http(b"<methodResponse>\x1b</methodResponse>"), "reply cannot be understood"),
        (http(b"<methodResponse><params></params></methodResponse>"), "no struct with a status"),
        (
            http(b"<methodResponse><params><param><value>x</value></param></params></methodResponse>"),
            "no struct with a status",
        ),
        (
            http(b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>"),
            "reply",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "reply cannot be understood"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_replies_that_are_none(reply: bytes, reason: str, raw_server: tuple[str, list[bytes]]) -> None:
    address, replies = raw_server
    replies += [reply, http(b"a second attempt would see this")]
    outcome = main.run([address, "spmStop", SD])
    assert (outcome.code, list(outcome.lines)) == (255, [])
    assert len(outcome.notes) == 1 and outcome.notes[0].startswith("ERROR: ") and reason in outcome.notes[0]
    # A verb is never sent twice: nobody knows whether the first one did its work.
    assert len(replies) == 1


def test_a_fault_is_told() -> None:
    with fakeserver.serving({"spmStop": fakeserver.fault(4, "no\x9b")}) as fake:
        assert clienting.run(fake, "spmStop", SD) == (255, "", "ERROR: spmStop: fault 4: no\\x9b\n")


def test_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    outcome = main.run(["nowhere.example", "spmStop", SD])
    assert outcome.code == 255
    assert outcome.notes == ["ERROR: nowhere.example:54321: Name or service not known"]


# ---------------------------------------------------------------- headers, TLS


def test_flow_id_is_one_for_all_calls_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VDSM_FLOW_ID", raising=False)
    image = clienting.ids(2)[1]
    replies = {"getImagesList": ok(imageslist=[image]), "getVolumesList": ok(uuidlist=[])}
    with fakeserver.serving(replies) as fake:
        clienting.run(fake, "getVolumesList", SD, SD)
        clienting.run(fake, "getVolumesList", SD, SD)
    flows = [headers["FlowID"] for headers in fake.headers]
    assert flows[0] == flows[1] != flows[2] == flows[3]
    assert flows[0].startswith("vdsClient-")


def test_flow_id_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDSM_FLOW_ID", "a1\r\nX: y")
    with fakeserver.serving({"spmStop": ok()}) as fake:
        clienting.run(fake, "spmStop", SD)
    assert fake.headers[0]["FlowID"] == "a1X: y"


def write_store(path: pathlib.Path, certificate: trustme.LeafCert, authority: trustme.CA) -> pathlib.Path:
    (path / "keys").mkdir(parents=True)
    (path / "certs").mkdir()
    certificate.private_key_pem.write_to_path(str(path / "keys" / "vdsmkey.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(path / "certs" / "vdsmcert.pem"))
    authority.cert_pem.write_to_path(str(path / "certs" / "cacert.pem"))
    return path


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A name that is not the address we connect to: the client does not check it.
    authority.issue_cert("other.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_tls(
    tmp_path: pathlib.Path,
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    store = write_store(tmp_path / "pki", authority.issue_cert("client.example"), authority)
    with fakeserver.serving({"spmStop": ok()}, server_context) as fake:
        result = clienting.run_main(monkeypatch, capsys, "-s", "--truststore", str(store), fake.address, "spmStop", SD)
    assert result == (0, "\n", "")


def test_tls_refuses_a_server_of_another_authority(
    tmp_path: pathlib.Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    other = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.issue_cert("127.0.0.1").configure_cert(context)
    store = write_store(tmp_path / "pki", authority.issue_cert("client.example"), authority)
    with fakeserver.serving({"spmStop": ok()}, context) as fake:
        code, out, err = clienting.run_main(
            monkeypatch, capsys, "-s", "--truststore", str(store), fake.address, "spmStop", SD
        )
    assert (code, out) == (255, "")
    assert "CERTIFICATE_VERIFY_FAILED" in err
    assert fake.calls == []


@pytest.mark.parametrize("missing", ["keys/vdsmkey.pem", "certs/vdsmcert.pem", "certs/cacert.pem"])
def test_tls_names_the_file_that_is_missing(
    missing: str, tmp_path: pathlib.Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    store = write_store(tmp_path / "pki", authority.issue_cert("client.example"), authority)
    (store / missing).unlink()
    code, out, err = clienting.run_main(monkeypatch, capsys, "-s", "--truststore", str(store), "0", "spmStop", SD)
    assert (code, out, err) == (255, "", f"ERROR: TLS needs {store / missing}: No such file or directory\n")


# ---------------------------------------------------------------- as a process


def start(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    root = pathlib.Path(main.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "client.main", *argv], capture_output=True, cwd=root, check=False, **options
    )


def test_as_a_process_in_a_locale_without_unicode() -> None:
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    with fakeserver.serving({"getVolumePath": ok(path="/ä")}) as fake:
        done = start(fake.address, "getVolumePath", SD, SD, SD, SD, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"/\\xe4\n", b"")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    root = pathlib.Path(main.__file__).parents[1]
    command = [sys.executable, "-m", "client.main", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=root, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (255, b"")


def test_help_needs_no_network_modules() -> None:
    code = (
        "import sys; sys.argv = ['vdsClient', '-m']; from client import main; main.main(); print(sorted(sys.modules))"
    )
    root = pathlib.Path(main.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root, check=True, text=True)
    loaded = done.stdout.splitlines()[-1]
    assert "'client.main'" in loaded
    assert "'client.waiting'" not in loaded and "'client.manual'" not in loaded
    for module in ("xmlrpc", "http", "ssl", "pprint", "storage", "vdsmlite", "fastjsonschema", "defusedxml", "yaml"):
        assert f"'{module}'" not in loaded
