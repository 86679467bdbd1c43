"""The engine's plain HTTP on the port of the verbs: how descriptions of machines get into a volume and out of it."""

import http.client
import json
from collections.abc import Mapping

from tests.support.engine import reading


class Refused(Exception):
    """The daemon took no stream.

    Attributes:
        code: its status code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


def put(address: str, where: Mapping[str, str], data: bytes) -> str:
    """Write a volume from its start; the id of the task.

    Args:
        where: the four id headers.
    """
    headers = {**where, "Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
    response, _ = _request(address, "PUT", headers, data, 200)
    return reading.one_id({"uuid": response.headers["Task-Id"]})


def get(address: str, where: Mapping[str, str], count: int) -> tuple[str, bytes]:
    """Read the first `count` bytes of a volume; the id of the task, and the bytes."""
    response, data = _request(address, "GET", {**where, "Range": f"bytes=0-{count - 1}"}, b"", 206)
    if response.headers["Content-Length"] != str(count) or len(data) != count:
        raise reading.Broken(f"{response.headers['Content-Length']} bytes in place of {count}")
    return reading.one_id({"uuid": response.headers["Task-Id"]}), data


def _request(
    address: str, method: str, headers: Mapping[str, str], body: bytes, wanted: int
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(address, timeout=50)
    try:
        connection.request(method, "/", body or None, {**headers, "connection": "close"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.headers["Content-Type"] == "application/json":
        found = reading.status(json.loads(data))
        raise Refused(found.code, found.message)
    if response.status != wanted:
        raise reading.Broken(f"{method}: {response.status} {response.headers}")
    return response, data
