"""Requests and bodies that are meant to harm: named, each to be refused at once, and cheaply."""

from tests.support import wire

MIB = 1024 * 1024

XML_HEAD = "<methodCall><methodName>m</methodName><params>"
XML_TAIL = "</params></methodCall>"


def with_value(inner: str) -> bytes:
    """A call of a method that does not exist, with one argument, written by hand."""
    return f"{XML_HEAD}<param><value>{inner}</value></param>{XML_TAIL}".encode()


def laughs(levels: int) -> bytes:
    """A short body whose argument, once its entities are resolved, has 3 * 10 ** `levels` characters."""
    entities = '<!ENTITY l0 "lol">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, levels + 1))
    return f"<?xml version='1.0'?><!DOCTYPE l [{entities}]>".encode() + with_value(f"&l{levels};")


XML_DOCUMENT_TYPES = {
    "10^9 laughs": laughs(9),
    "10^6 laughs": laughs(6),
    "utf-16 laughs": laughs(6).decode().encode("utf-16"),
    "quadratic": f'<!DOCTYPE q [<!ENTITY a "{"a" * 50000}">]>'.encode() + with_value("&a;" * 1000),
    "external entity": b'<!DOCTYPE e [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + with_value("&e;"),
    "parameter entity": b'<!DOCTYPE e [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x">%p;]>' + with_value(""),
    "external subset": b'<!DOCTYPE e SYSTEM "http://127.0.0.1:1/x.dtd">' + with_value(""),
    "empty document type": b"<!DOCTYPE e>" + with_value(""),
}

XML_TOO_MUCH = {
    "deep arrays": (XML_HEAD + "<param>" + "<value><array><data>" * 100_000).encode()[:MIB],
    "deep structs": (XML_HEAD + "<param>" + "<value><struct><member><name>a</name>" * 100_000).encode()[:MIB],
    "33 deep": with_value("<array><data><value>" * 33 + "</value></data></array>" * 33),
    "many arguments": (XML_HEAD + "<param><value/></param>" * 500_000).encode()[:MIB],
    "65 arguments": (XML_HEAD + "<param><value/></param>" * 65 + XML_TAIL).encode(),
    "many values": (XML_HEAD + "<param><value><array><data>" + "<value/>" * 500_000).encode()[:MIB],
    "many attributes": ("<methodCall " + " ".join(f'a{n}=""' for n in range(100_000))).encode()[:MIB] + b"/>",
    "long int": with_value(f"<int>{'9' * 1_000_000}</int>"),
    "long double": with_value(f"<double>{'9' * 1_000_000}</double>"),
}

XML_NO_CALLS = {
    "two names": b"<methodCall><methodName>a</methodName><methodName>b</methodName></methodCall>",
    "no name": b"<methodCall><params/></methodCall>",
    "empty call": b"<methodCall/>",
    "a response": b"<methodResponse><params/></methodResponse>",
    "html": b"<html><body/></html>",
    "value outside": f"{XML_HEAD}<value>x</value>{XML_TAIL}".encode(),
    "empty param": f"{XML_HEAD}<param/>{XML_TAIL}".encode(),
    "two values": f"{XML_HEAD}<param><value/><value/></param>{XML_TAIL}".encode(),
    "two types": with_value("<int>1</int><int>2</int>"),
    "mixed content": with_value("x<int>1</int>"),
    "unknown type": with_value("<float>1</float>"),
    "base64": with_value("<base64>AAAA</base64>"),
    "date": with_value("<dateTime.iso8601>20261101T00:00:00</dateTime.iso8601>"),
    "element in text": with_value("<string><b>x</b></string>"),
    "int with spaces": with_value("<int> 1</int>"),
    "int with underscore": with_value("<int>1_0</int>"),
    "full-width int": with_value("<int>\uff11</int>"),
    "empty int": with_value("<int/>"),
    "int of 65 bits": with_value(f"<i8>{2**63}</i8>"),
    "true": with_value("<boolean>true</boolean>"),
    "nan": with_value("<double>nan</double>"),
    "infinite": with_value("<double>1e999</double>"),
    "full nil": with_value("<nil>x</nil>"),
    "member without value": with_value("<struct><member><name>a</name></member></struct>"),
    "member without name": with_value("<struct><member><value/></member></struct>"),
    "member twice": with_value("<struct>" + "<member><name>a</name><value/></member>" * 2 + "</struct>"),
    "array without data": with_value("<array/>"),
    "array with two": with_value("<array><data/><data/></array>"),
}

XML_NOT_WELL_FORMED = {
    "nothing": b"",
    "text": b"hello",
    "json": b'{"jsonrpc": "2.0"}',
    "cut": XML_HEAD.encode(),
    "two roots": with_value("") * 2,
    "bad utf-8": XML_HEAD.encode() + b"\xff",
    "nul": with_value("\0"),
    "unknown entity": with_value("&nbsp;"),
    "unknown encoding": b"<?xml version='1.0' encoding='rot13'?><a/>",
    "odd encoding": b"<?xml version='1.0' encoding='utf-7'?><a/>",
    "one long tag": b"<" + b"a" * 1_000_000,
}

JSON_NOT_ACCEPTED = {
    "nothing": b"",
    "text": b"hello",
    "xml": b"<methodCall/>",
    "cut": b'{"jsonrpc": "2.0", "meth',
    "two values": b"1 2",
    "nan": b"[NaN]",
    "infinity": b"[-Infinity]",
    "1e999": b"[1e999]",
    "huge int": b"[" + b"9" * 20 + b"]",
    "endless int": b"[" + b"9" * 1_000_000 + b"]",
    "endless fraction": b"[1." + b"9" * 1_000_000 + b"]",
    "key twice": b'{"a": 1, "a": 1}',
    "inner key twice": b'[{"b": {"a": 1, "a": 1}}]',
    "half a surrogate pair": b'["\\ud800"]',
    "half a pair in a key": b'{"\\udfff": 1}',
    "bad utf-8": b'["\xff"]',
    "utf-16": '["a"]'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf[]",
    "control character": b'["\x01"]',
    "single quotes": b"{'a': 1}",
    "trailing comma": b"[1,]",
    "comment": b"[] // x",
    "endless depth": b"[" * MIB,
    "endless objects": (b'{"a":' * MIB)[:MIB],
    "33 deep": b"[" * 33 + b"]" * 33,
    "many elements": b"[" + b"1," * 500_000 + b"1]",
}

_BODY = wire.ping()
_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
_LENGTH = b"Content-Length: %d\r\n" % len(_BODY)

HTTP_BROKEN = {
    "negative length": _HEAD + b"Content-Length: -1\r\n\r\n" + _BODY,
    "underscores in length": _HEAD + b"Content-Length: 1_0_4\r\n\r\n" + _BODY,
    "sign in length": _HEAD + b"Content-Length: +%d\r\n\r\n" % len(_BODY) + _BODY,
    "endless length": _HEAD + b"Content-Length: 1000000000000\r\n\r\n" + _BODY,
    "body over the cap": _HEAD + b"Content-Length: 1048577\r\n\r\n" + b"a" * 1048577,
    "two lengths": _HEAD + _LENGTH + b"Content-Length: 5\r\n\r\n" + _BODY,
    "same length twice": _HEAD + _LENGTH + _LENGTH + b"\r\n" + _BODY,
    "no length": _HEAD + b"\r\n" + _BODY,
    "chunked": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked with length": _HEAD + _LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + _BODY,
    "version 9.9": _HEAD.replace(b"1.1", b"9.9") + _LENGTH + b"\r\n" + _BODY,
    "version 0.9": b"GET /\r\n\r\n",
    "bare line feeds": (_HEAD + _LENGTH + b"\r\n").replace(b"\r\n", b"\n") + _BODY,
    "one bare line feed": _HEAD + b"A: b\n" + _LENGTH + b"\r\n" + _BODY,
    "bare carriage return": _HEAD + b"A: b\rc\r\n" + _LENGTH + b"\r\n" + _BODY,
    "space before colon": _HEAD + _LENGTH.replace(b":", b" :") + b"\r\n" + _BODY,
    "folded header": _HEAD + b"A: b\r\n c\r\n" + _LENGTH + b"\r\n" + _BODY,
    "nul in header": _HEAD + b"A: \0\r\n" + _LENGTH + b"\r\n" + _BODY,
    "binary junk": bytes(range(256)) * 20,
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,
    "long target": b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + _LENGTH + b"\r\n" + _BODY,
    "200 headers": _HEAD + b"A: b\r\n" * 200 + _LENGTH + b"\r\n" + _BODY,
    "header of 1 MiB": _HEAD + b"A: " + b"a" * 1048576 + b"\r\n" + _LENGTH + b"\r\n" + _BODY,
    "gzip": _HEAD + _LENGTH + b"Content-Encoding: gzip\r\n\r\n" + _BODY,
    "get": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "put": wire.post(_BODY).replace(b"POST", b"PUT"),
    "delete": wire.post(_BODY).replace(b"POST", b"DELETE"),
    "lower-case method": wire.post(_BODY).replace(b"POST", b"post"),
    "get json": b"GET /jsonrpc HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown path": wire.post(_BODY, "/nonsense"),
    "path that climbs": wire.post(_BODY, "/../../etc/passwd"),
    "encoded path": wire.post(_BODY, "/%52PC2"),
    "web page": wire.post(_BODY, Origin="http://evil.example"),
}
