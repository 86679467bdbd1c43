"""Configuration: what is accepted, what is refused and named, and that the example is true."""

import dataclasses
from pathlib import Path

import pytest

from rpc import connection
from storage import settings
from vdsmlite import config, listen, yamlfile

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = {"storage": {"repository": "/r"}}


def load(tmp_path, text, overrides=None):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return config.load(file, REPOSITORY if overrides is None else overrides)


def test_defaults_are_those_of_the_floors():
    made = config.load(None, REPOSITORY)
    assert made.storage == settings.Settings(Path("/r"))
    limits = {field.name: getattr(made.server, field.name) for field in dataclasses.fields(connection.Settings)}
    assert connection.Settings(**limits) == connection.Settings()
    assert made.server.listen == "127.0.0.1:54321"
    assert not made.server.insecure


def test_file_is_stronger_than_defaults_and_the_command_line_than_the_file(tmp_path):
    text = "server: {stop_seconds: 7, listen: '127.0.0.1:1'}\nstorage: {repository: /file, workers: 3}\n"
    made = load(tmp_path, text, {"server": {"listen": "127.0.0.1:2"}})
    assert made.server.stop_seconds == 7.0
    assert made.server.listen == "127.0.0.1:2"
    assert made.storage.repository == Path("/file")
    assert made.storage.workers == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\n", "{}"])
def test_a_file_may_say_nothing(tmp_path, text):
    assert load(tmp_path, text) == config.load(None, REPOSITORY)


def test_example_has_every_key_with_its_default():
    example = yamlfile.load(ROOT / "etc" / "vdsmlite.yaml")
    made = config.load(ROOT / "etc" / "vdsmlite.yaml", {})
    default = config.plain(config.load(None, {"storage": {"repository": example["storage"]["repository"]}}))
    assert config.plain(made) == default
    assert {section: list(keys) for section, keys in example.items()} == {
        section: sorted(keys, key=list(example[section]).index) for section, keys in default.items()
    }


def test_example_explains_every_key():
    """A comment stands above each key, or above the key that it belongs to."""
    lines = (ROOT / "etc" / "vdsmlite.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line.startswith("  ") and line.strip()[:1] not in ("#", "")]
    assert all(lines[number - 1].lstrip().startswith("#") or number - 1 in keys for number in keys)


def test_show_config_can_be_loaded_again(tmp_path):
    text = (
        "server: {insecure: true}\nlog: {level: DEBUG, file: '/log with space: #'}\n"
        "tls: {certificate: /c, key: /k, authorities: /a, clients: ['1', 'no']}\n"
    )
    made = load(tmp_path, text)
    assert load(tmp_path, yamlfile.dump(config.plain(made)), {}) == made
    assert made.tls.clients == ("1", "no")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("serfer: {}", "serfer"),
        ("server: {lissen: x}", "server.lissen"),
        ("server: [1]", "server"),
        ("- 1", "sections"),
        ("server: {listen: 5}", "server.listen"),
        ("server: {insecure: 'yes'}", "server.insecure"),
        ("server: {insecure: 1}", "server.insecure"),
        ("server: {connections: 1.5}", "server.connections"),
        ("server: {connections: true}", "server.connections"),
        ("server: {connections: 0}", "server.connections"),
        ("server: {connections: '10'}", "server.connections"),
        ("server: {connections: null}", "server.connections"),
        ("server: {request_seconds: 0}", "server.request_seconds"),
        ("server: {request_seconds: -1}", "server.request_seconds"),
        ("server: {request_seconds: .inf}", "server.request_seconds"),
        ("server: {request_seconds: .nan}", "server.request_seconds"),
        ("storage: {repository: here}", "storage.repository"),
        ("storage: {repository: null}", "storage.repository"),
        ('storage: {repository: "/a\\0b"}', "storage.repository"),
        ("storage: {workers: 0}", "storage.workers"),
        ("tls: {clients: engine}", "tls.clients"),
        ("tls: {clients: [1]}", "tls.clients"),
        ("tls: {key: /k}", "tls.key"),
        ("tls: {certificate: /c}", "tls.key"),
        ("tls: {certificate: /c, key: /k, clients: [a]}", "tls.authorities"),
        ("tls: {authorities: /a}", "tls.authorities"),
        ("log: {level: LOUD}", "log.level"),
        ("log: {config: /c, file: /f}", "log.config"),
        ("server: {listen: a, listen: b}", "server.listen is given twice"),
        ("server: {}\nserver: {}", "server is given twice"),
        ("tls: {clients: [{a: 1, a: 2}]}", "tls.clients.a is given twice"),
        ("server: &x {}\nlog: *x", "aliases"),
        ("server: {<<: {listen: a}}", "server"),
        ("server: {1: a}", "no text"),
        ("server: {no: a}", "no text"),
        ("server: !!python/object/apply:os.system ['true']", "python"),
        ("server: {", "line 2"),
        ("a: 1\n---\nb: 2", "document"),
        ("server: '\x01'", "control"),
        ("[" * 3000, "flow"),
        ("storage: {chain_limit: 513}", "storage.chain_limit must be 512 or less"),
    ],
)
def test_refused_and_named(tmp_path, text, named):
    with pytest.raises(config.Refused) as caught:
        load(tmp_path, text, {} if "repository" in text else REPOSITORY)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zero_is_fine_where_it_means_something(tmp_path):
    made = load(tmp_path, "server: {stop_seconds: 0}\nstorage: {time_margin: 0, prove_seconds: 0}")
    assert (made.server.stop_seconds, made.storage.time_margin, made.storage.prove_seconds) == (0, 0, 0)


def test_repository_has_no_default():
    with pytest.raises(config.Refused, match=r"storage\.repository .*--repository"):
        config.load(None, {})


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(config.Refused, match=r"missing\.yaml: No such file"):
        config.load(tmp_path / "missing.yaml", REPOSITORY)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (yamlfile.LIMIT + 1))
    with pytest.raises(config.Refused, match="larger"):
        config.load(large, REPOSITORY)


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(config.Refused, match="aliases"):
        load(tmp_path, "a0: &a0 [x]\n" + "\n".join(levels))


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0, True),
        ("127.1.2.3:65535", "127.1.2.3", 65535, True),
        ("[::1]:54321", "::1", 54321, True),
        ("0.0.0.0:54321", "0.0.0.0", 54321, False),
        ("[::]:54321", "::", 54321, False),
        ("192.0.2.1:1", "192.0.2.1", 1, False),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1", 1, False),
    ],
)
def test_addresses(text, host, port, loopback):
    assert listen.resolve(text) == listen.Address(host, port, loopback)
    if port:
        assert listen.show(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":54321", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536"),
        *("127.0.0.1:٣", "127.0.0.1: 1", "::1:54321", "::1", "[::1]", "[]:1", "a\0b:1", "\ud800:1", "a" * 70 + ":1"),
    ],
)
def test_no_addresses(text):
    with pytest.raises(config.Refused, match=r"server\.listen"):
        listen.resolve(text)


def test_only_whom_we_know_beyond_loopback():
    world, home = listen.resolve("0.0.0.0:1"), listen.resolve("127.0.0.1:1")
    tls = {"certificate": "/c", "key": "/k"}
    nobody = config.build(REPOSITORY)
    listen.check_safe(home, nobody)
    for refused in (nobody, config.build({**REPOSITORY, "tls": tls})):
        with pytest.raises(config.Refused, match="--insecure"):
            listen.check_safe(world, refused)
    listen.check_safe(world, config.build({**REPOSITORY, "tls": {**tls, "authorities": "/a"}}))
    listen.check_safe(world, config.build({**REPOSITORY, "server": {"insecure": True}}))
