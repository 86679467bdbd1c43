"""A real server of HTTP on the loopback that keeps what is put, gives it back, and breaks the rules on request."""

import contextlib
import http.server
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves one content under every path; the first word of a path says how.

    ``/ok`` as it should be, ``/redirect`` to ``/ok``, ``/missing`` 404, ``/unsized`` without a length, ``/short`` half
    of it and the end, ``/stuck`` half of it and then nothing, ``/drip`` a byte now and then, ``/deaf`` takes nothing,
    ``/refuse`` 507 after all was taken, ``/packed`` with a Content-Encoding, ``/silent`` no answer.

    Attributes:
        content: what GET gives and PUT replaces.
        asked: method, path and headers of each request, names in small letters.
        go_on: ends whatever waits.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.go_on = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        how = self._note()
        content = self.server.content
        if how == "silent":
            self.server.go_on.wait(60)
            return
        if how in ("redirect", "missing"):
            self.send_response(302 if how == "redirect" else 404)
            self.send_header("Location", "/ok")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if how != "unsized":
            self.send_header("Content-Length", str(len(content)))
        if how == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self._give(how, content)

    def _give(self, how: str, content: bytes) -> None:
        if how == "drip":
            for at in range(len(content)):
                self.wfile.write(content[at : at + 1])
                if self.server.go_on.wait(0.05):
                    return
        half = how in ("short", "stuck")
        self.wfile.write(content[: len(content) // 2] if half else content)
        if how == "stuck":
            self.server.go_on.wait(60)

    def do_PUT(self) -> None:
        how = self._note()
        if how in ("deaf", "silent"):
            self.server.go_on.wait(60)
            return
        if how == "redirect":
            self.send_response(307)
            self.send_header("Location", "/ok")
            self.end_headers()
            self.rfile.read(int(self.headers["Content-Length"]))
            return
        self.server.content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(507 if how == "refuse" else 201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _note(self) -> str:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers))
        self.close_connection = True
        return self.path.split("/")[1].partition("?")[0]

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server for the length of a block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()
