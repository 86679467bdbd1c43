"""Legal requests damaged: single bytes, tokens, headers, lengths, trees, encodings. And rewritten without any harm."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

Rewrite = Callable[[bytes], bytes]

_TOKENS = re.compile(rb"<[^>]*>|[A-Za-z0-9_.-]+|\r\n|.", re.DOTALL)
_LENGTH = re.compile(rb"(Content-Length: )[0-9]+")

# What to put where it does not belong.
_PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\t",
        b" ",
        b":",
        b"\x85",
        b"\xff",
        b"\xef\xbb\xbf",
        "\uff11".encode(),
        b"\x1b[2J",
    ),
    *(b"<value>", b"</value>", b"<nil/>", b"<int>", b"<i8>", b"<array><data>", b"<struct>", b"<base64>AAAA</base64>"),
    *(b"&lt;", b"&#0;", b"&#x110000;", b"&bomb;", b"<![CDATA[", b"]]>", b"<!-- -->", b"<?a b?>", b"<!DOCTYPE a []>"),
    *(b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"null", b"-0", b"1.0"),
    *(b"9" * 30, b"2147483648", b"-1", b"../../../etc/passwd", b"%2e%2e%2f", b"__class__", b"system.multicall"),
)
_LENGTHS = (b"-1", b"+5", b"5_2", b"0x10", b"1e3", b"", b" ", b"5, 5", b"999999999999", b"9" * 40, b"\xb2", b"1.0")
_HEADERS = (
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"transfer-encoding: gzip, chunked"),
    *(b"Content-Encoding: gzip", b"Expect: 100-continue", b"Expect: x", b"Origin: http://evil", b"Connection: close"),
    *(b"Content-Length: 0", b"content-length: 5", b"Content-Length : 5", b" folded", b"Host: b", b": x", b"A", b"A:\0"),
    *(b"Range: bytes=0-", b"Range: bytes=5-1", b"Volume-Id: ../x", b"Image-Id:", b"A: " + b"a" * 5000, b"Upgrade: h2c"),
)
_LINES = (
    *(b"POST / HTTP/1.1", b"POST / HTTP/1.0", b"POST / HTTP/2.0", b"POST / HTTP/1.10", b"POST / http/1.1", b"POST /"),
    *(b"GET /jsonrpc HTTP/1.1", b"PUT /RPC2 HTTP/1.1", b"PATCH / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"* * *", b""),
    *(b"POST //jsonrpc HTTP/1.1", b"POST /../ HTTP/1.1", b"POST /%2e HTTP/1.1", b"POST http://a/jsonrpc HTTP/1.1"),
    *(b"POST  / HTTP/1.1", b"POST\t/ HTTP/1.1", b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 1.0, 2**31, 2**63, 1e300, "", "\n", "x" * 300, "00000000-0000-0000-0000-00000000000\uff10"),
    *([], {}, [[]], {"": None}, [None] * 70, "../../etc", "{7c5aa5a4-2b1d-4e6b-9d0c-6a1f0e1b2c3d}", "\0", "\u2028"),
)
_DEEP: list[Any] = [1]
for _ in range(34):
    _DEEP = [_DEEP]


class Mutator:
    """Damages requests.

    Args:
        rng: every choice comes from it.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ways = (self._bytes, self._tokens, self._tokens, self._headers, self._length, self._line, self._chunked)

    def mutate(self, request: bytes, other: bytes) -> bytes:
        """Do one to three things to a request, `other` lends it parts. It may be whole afterwards by chance."""
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            choice = self._rng.random()
            if choice < 0.1:
                request = self._splice(request, other)
            elif choice < 0.35 and b" /jsonrpc " in request:
                request = self._body(request, self._tree)
            elif choice < 0.55 and b"<methodCall>" in request:
                request = self._body(request, self._xml)
            else:
                request = self._rng.choice(self._ways)(request)
        return request

    def harmless(self, request: bytes) -> bytes:
        """The same in other words: whoever reads it strictly must still understand it."""
        head, separator, body = request.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        self._rng.shuffle(lines)
        changed = [self._rng.choice((bytes.lower, bytes.upper, bytes.title))(line.partition(b":")[0]) for line in lines]
        space = self._rng.choice((b"", b" ", b"\t", b"   "))
        lines = [
            name + b":" + space + line.partition(b": ")[2] + space for name, line in zip(changed, lines, strict=True)
        ]
        if body.startswith(b"<?xml"):
            body = self._reworded_xml(body)
        elif b" /jsonrpc " in first:
            indent = self._rng.choice((None, 1))
            body = json.dumps(json.loads(body), indent=indent, ensure_ascii=False).encode() + b"\n"
        lead = self._rng.choice((b"", b"\r\n"))
        return _measured(lead + b"\r\n".join([first, *lines]) + separator + body)

    def _reworded_xml(self, body: bytes) -> bytes:
        text = body.decode().removeprefix("<?xml version='1.0'?>\n")
        choice = self._rng.randrange(5)
        if choice == 0:
            text = text.replace("\n", "")
        elif choice == 1:
            text = text.replace("</value>\n", "</value>\n\t<!-- a comment -->\n")
        elif choice == 2:
            text = re.sub(r"<string>([^<&]+)</string>", r"<string><![CDATA[\1]]></string>", text)
        elif choice == 3:
            text = re.sub(r"<string>([^<&])", lambda found: f"<string>&#{ord(found[1])};", text)
        else:
            return f"<?xml version='1.0' encoding='UTF-16'?>{text}".encode("utf-16")
        return text.encode()

    # ---------------------------------------------------------------- damage

    def _place(self, data: bytes) -> int:
        return self._rng.randint(0, len(data))

    def _bytes(self, data: bytes) -> bytes:
        place = self._place(data)
        width = self._rng.choice((0, 0, 1, 2, 8))
        piece = self._rng.choice((b"", self._rng.randbytes(self._rng.randint(1, 4)), self._rng.choice(_PIECES)))
        if self._rng.random() < 0.3 and place < len(data):
            return data[:place] + bytes([data[place] ^ (1 << self._rng.randrange(8))]) + data[place + 1 :]
        return data[:place] + piece + data[place + width :]

    def _tokens(self, data: bytes) -> bytes:
        tokens = _TOKENS.findall(data)
        if not tokens:
            return self._rng.choice(_PIECES)
        place, other = self._rng.randrange(len(tokens)), self._rng.randrange(len(tokens))
        choice = self._rng.randrange(5)
        if choice == 0:
            del tokens[place]
        elif choice == 1:
            tokens.insert(other, tokens[place])
        elif choice == 2:
            tokens[place], tokens[other] = tokens[other], tokens[place]
        elif choice == 3:
            tokens[place] = self._rng.choice(_PIECES)
        else:
            tokens[place:place] = tokens[place : place + self._rng.randint(1, 9)] * self._rng.choice((1, 2, 40))
        made = b"".join(tokens)
        return made if self._rng.random() < 0.2 else _measured(made)

    def _splice(self, data: bytes, other: bytes) -> bytes:
        made = data[: self._place(data)] + other[self._place(other) :]
        return made if self._rng.random() < 0.5 else _measured(made)

    def _headers(self, data: bytes) -> bytes:
        head, separator, body = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        place = self._rng.randrange(len(lines))
        choice = self._rng.randrange(6)
        if choice == 0:
            del lines[place]
        elif choice == 1:
            lines.insert(place, lines[place])
        elif choice == 2:
            lines.insert(max(1, place), self._rng.choice(_HEADERS))
        elif choice == 3:
            lines.insert(max(1, place), b"A%d: b\r\n" % place * 120)
        elif choice == 4:
            lines[place] = lines[place].replace(b": ", self._rng.choice((b" : ", b":\r\n ", b":", b": \0", b"=")))
        else:
            return (b"\n" if place else b"\r").join(lines) + separator + body
        return b"\r\n".join(lines) + separator + body

    def _length(self, data: bytes) -> bytes:
        found = _LENGTH.search(data)
        if found is None:
            return data
        right = int(found[0].split()[1])
        choice = self._rng.randrange(3)
        if choice == 0:
            wrong = self._rng.choice(_LENGTHS)
        elif choice == 1:
            wrong = self._rng.choice((b"+%d", b"%d.0", b"%d;", b"%d, %d", b"0%d", b"_%d", b"%d\r\nContent-Length: %d"))
            wrong = wrong.replace(b"%d", b"%d" % right)
        else:
            wrong = b"%d" % max(0, right + self._rng.choice((-9, -1, 1, 40)))
        return data[: found.start()] + b"Content-Length: " + wrong + data[found.end() :]

    def _line(self, data: bytes) -> bytes:
        return self._rng.choice(_LINES) + b"\r\n" + data.partition(b"\r\n")[2]

    def _chunked(self, data: bytes) -> bytes:
        head, separator, body = data.partition(b"\r\n\r\n")
        if self._rng.random() < 0.7:
            head = _LENGTH.sub(b"Transfer-Encoding: chunked", head)
        else:
            head += b"\r\nTransfer-Encoding: chunked"
        size = self._rng.choice((b"%x" % len(body), b"0", b"-1", b"f" * 20, b"5;a=b"))
        return head + separator + size + b"\r\n" + body + b"\r\n0\r\n\r\n"

    # ---------------------------------------------------------------- bodies

    def _body(self, data: bytes, rewrite: Rewrite) -> bytes:
        head, separator, body = data.partition(b"\r\n\r\n")
        return _measured(head + separator + rewrite(body))

    def _xml(self, body: bytes) -> bytes:
        choice = self._rng.randrange(6)
        values = re.findall(rb"<value>.*?</value>", body, re.DOTALL)
        old = self._rng.choice(values) if values else b"<params>"
        if choice == 0:
            depth = self._rng.choice((3, 20, 33, 300))
            new = b"<value><array><data>" * depth + old + b"</data></array></value>" * depth
        elif choice == 1:
            new = old * self._rng.choice((2, 70, 3000))
        elif choice == 2:
            new = re.sub(rb"<(/?)(string|int|boolean)>", rb"<\g<1>%s>" % self._rng.choice((b"int", b"i8", b"nil")), old)
        elif choice == 3:
            new = b"<value>" + self._rng.choice(_PIECES) + b"</value>"
        elif choice == 4:
            encoding = self._rng.choice((b"utf-7", b"utf-16", b"latin-1", b"cp037", b"rot13", b"us-ascii"))
            return body.replace(b"version='1.0'", b"version='1.0' encoding='%s'" % encoding)
        else:
            member = b"<member><name>a</name><value>b</value></member>"
            new = b"<value><struct>" + member * self._rng.choice((1, 2)) + b"</struct></value>"
        return body.replace(old, new, 1)

    def _tree(self, body: bytes) -> bytes:
        try:
            content = json.loads(body)
        except ValueError:
            return self._bytes(body)
        choice = self._rng.randrange(5)
        if choice == 0:
            content = [content] * self._rng.choice((1, 2, 65)) if self._rng.random() < 0.7 else []
        elif choice == 1:
            return json.dumps(content).replace("{", '{"id": 7, ', 1).encode()
        else:
            place = content
            while isinstance(place, dict | list) and place and self._rng.random() < 0.8:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                key = self._rng.choice(keys)
                if not isinstance(place[key], dict | list) or self._rng.random() < 0.3:
                    place[key] = self._rng.choice((*_VALUES, _DEEP))
                    break
                place = place[key]
        return json.dumps(content, ensure_ascii=self._rng.random() < 0.7).encode(errors="surrogatepass")


def _measured(request: bytes) -> bytes:
    """With the length that the body has."""
    head, separator, body = request.partition(b"\r\n\r\n")
    return re.sub(rb"(?i)(Content-Length:\s*)[0-9]+", rb"\g<1>%d" % len(body), head) + separator + body
