"""PUT and GET on ``/``: a volume's content goes in, or out, over the daemon's own port.

The headers Storage-Pool-Id, Storage-Domain-Id and Image-Id say where, Volume-Id which volume where there are several.
PUT has a Content-Length, GET a ``Range: bytes=0-N``. Success is 200, or 206, with the Task-Id of the task that did it;
after a PUT it says that the content is durable, verified and LEGAL. A refusal has a status as its body, in JSON.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from rpc import bridge, http, stream
from storage import errors, ids, services as storage_services
from storage.hsm import transfer
from storage.jobs import tasks
from vdsmlite import status

log = logging.getLogger(__name__)

Services = storage_services.Services
Audit = Callable[[bridge.Record], None]

_RANGE = re.compile(r"bytes=0-([0-9]{1,18})")
_NAMES = {
    "storage-pool-id": "storagepoolID",
    "storage-domain-id": "storagedomainID",
    "image-id": "imageID",
    "volume-id": "volumeID",
}
_TRANSPORT = "http"


def handlers(services: Services, audit: Audit) -> dict[str, stream.Handler]:
    """What answers which method.

    Args:
        audit: takes one record for every stream.
    """
    # Streams wait for their peers. They must not take all workers of the tasks that others wait for.
    slots = threading.BoundedSemaphore(max(1, services.settings.workers // 2))
    return {"PUT": Put(services, audit, slots), "GET": Get(services, audit, slots)}


class _Handler(stream.Handler):
    verb = ""

    def __init__(self, services: Services, audit: Audit, slots: threading.BoundedSemaphore) -> None:
        self._services = services
        self._audit = audit
        self._slots = slots

    def answer(self, exchange: stream.Exchange) -> None:
        """Check the headers, have a task made, wait for its end, answer."""
        started, start = time.time(), time.perf_counter()
        names: dict[str, str] = {}
        code = errors.GeneralException.code
        try:
            code = self._answer(exchange, names)
        finally:
            head, took = exchange.head, (time.perf_counter() - start) * 1000
            record = bridge.Record(started, exchange.client, head.flow_id, _TRANSPORT, self.verb, names, code, took)
            self._audit(record)

    def _answer(self, exchange: stream.Exchange, names: dict[str, str]) -> int:
        task_id = ""
        kind = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            length = self._length(exchange.head)
            names |= _names(exchange.head.headers)
            task_id, code, message = self._run(exchange, length, names)
        except http.HttpError as error:
            kind, code, message = error.status, errors.InvalidParameterException.code, error.reason
        except Exception as error:  # whatever storage raises becomes a status, as it does for verbs
            if not isinstance(error, errors.StorageError):
                log.exception("%s: %s failed unexpectedly", exchange.client, self.verb)
            code, message = status.translate(error, None)
        headers = {"Task-Id": task_id} if task_id else {}
        if code and not exchange.answered:
            _refuse(exchange, http.Response(_status(code, message), "application/json", kind, headers))
        elif not exchange.answered:
            exchange.respond(http.Response(headers=headers))
        return code

    def _run(self, exchange: stream.Exchange, length: int, names: Mapping[str, str]) -> tuple[str, int, str]:
        """Task id, code and message of the outcome."""
        patience = self._services.settings.lock_timeout
        if not self._slots.acquire(timeout=patience):
            raise errors.ResourceTimeout(resource="a stream", seconds=patience, holder="held by other streams")
        try:
            task = self._schedule(exchange, length, names)
            found = transfer.wait(self._services, task)
        finally:
            self._slots.release()
        done = found["taskResult"] == "success"
        code = 0 if done else int(str(found["code"])) or errors.TaskAborted.code
        return str(task.id), code, str(found["message"])

    def _where(self, names: Mapping[str, str]) -> tuple[ids.PoolId, ids.DomainId, ids.ImageId, ids.VolumeId | None]:
        volume = names.get("volumeID", ids.BLANK)
        return (
            ids.PoolId(names["storagepoolID"]),
            ids.DomainId(names["storagedomainID"]),
            ids.ImageId(names["imageID"]),
            None if volume == ids.BLANK else ids.VolumeId(volume),
        )

    def _length(self, head: http.Head) -> int:
        """Bytes to move, as the head says; raises HttpError."""
        raise NotImplementedError

    def _schedule(self, exchange: stream.Exchange, length: int, names: Mapping[str, str]) -> tasks.Task:
        """Make the task; raises StorageError."""
        raise NotImplementedError


class Put(_Handler):
    """Replaces the content of a volume by the body of the request."""

    verb = "downloadImageFromStream"

    def _length(self, head: http.Head) -> int:
        return http.body_length(head, None)

    def _schedule(self, exchange: stream.Exchange, length: int, names: Mapping[str, str]) -> tasks.Task:
        source = _Body(exchange, length, self._services.settings.transfer_seconds)
        return transfer.download_from_stream(self._services, *self._where(names), length, source)


class Get(_Handler):
    """Answers with the first bytes of a volume."""

    verb = "uploadImageToStream"

    def _length(self, head: http.Head) -> int:
        asked = head.headers.get("range", "")
        match = _RANGE.fullmatch(asked)
        if match is None:
            reason = f"{asked!a:.60} is not bytes=0-N" if asked else "the header is needed, bytes=0-N"
            raise _bad("Range", reason)
        return int(match[1]) + 1

    def _schedule(self, exchange: stream.Exchange, length: int, names: Mapping[str, str]) -> tasks.Task:
        sink = _Answer(exchange, self._services.settings.transfer_seconds)
        return transfer.upload_to_stream(self._services, *self._where(names), length, sink)


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    """Ids by their names in the API.

    Raises:
        HttpError: one is missing or none.
    """
    found: dict[str, str] = {}
    for header, name in _NAMES.items():
        text = headers.get(header)
        if text is None and name == "volumeID":
            continue
        if text is None:
            raise _bad(header, "the header is needed")
        if not ids.is_id(text):
            raise _bad(header, f"{text!a:.60} is not an id")
        found[name] = text
    return found


def _bad(name: str, reason: str) -> http.HttpError:
    error = errors.InvalidParameterException(name=name, reason=reason)
    return http.HttpError(HTTPStatus.BAD_REQUEST, str(error))


def _status(code: int, message: str) -> bytes:
    return json.dumps({"status": {"code": code, "message": message}}).encode()


def _refuse(exchange: stream.Exchange, response: http.Response) -> None:
    log.warning("%s: stream refused: %s", exchange.client, response.body.decode())
    exchange.respond(response)


# ---------------------------------------------------------------- the ends that storage sees


class _Body:
    """The body of a request as a source of `storage.volumes.transfer`."""

    def __init__(self, exchange: stream.Exchange, length: int, seconds: float) -> None:
        self._exchange = exchange
        self._length = length
        self._seconds = seconds
        self._wire: stream.Wire | None = None
        self._done = 0

    def begin(self, task_id: ids.TaskId, pause: Callable[[], None]) -> int:
        return self._length

    def fill(self, buffer: memoryview, pause: Callable[[], None]) -> None:
        try:
            self._wire = self._wire or self._exchange.body(self._seconds)
            filled = self._wire.fill(buffer, pause)
        except OSError as error:  # TimeoutError is one
            raise self._broken(str(error)) from error
        self._done += filled
        if filled < len(buffer):
            raise self._broken("it ended")

    def _broken(self, reason: str) -> errors.StorageError:
        reason = f"{reason}, after {self._done} of {self._length} bytes"
        return errors.InvalidParameterException(name="body", reason=reason)

    def close(self) -> None:
        pass


class _Answer:
    """The body of an answer as a sink of `storage.volumes.transfer`."""

    def __init__(self, exchange: stream.Exchange, seconds: float) -> None:
        self._exchange = exchange
        self._seconds = seconds
        self._wire: stream.Wire | None = None

    def begin(self, task_id: ids.TaskId, length: int, pause: Callable[[], None]) -> None:
        headers = {"Task-Id": str(task_id), "Content-Type": "application/octet-stream"}
        headers["Content-Range"] = f"bytes 0-{length - 1}/*"
        try:
            self._wire = self._exchange.begin(HTTPStatus.PARTIAL_CONTENT, headers, length, self._seconds)
        except OSError as error:
            raise _gone(error) from error

    def send(self, fd: int, offset: int, count: int, pause: Callable[[], None]) -> None:
        assert self._wire is not None
        try:
            self._wire.send_file(fd, offset, count, pause)
        except OSError as error:
            raise _gone(error) from error

    def end(self, pause: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


def _gone(error: OSError) -> errors.StorageError:
    return errors.InvalidParameterException(name="client", reason=f"it does not take the answer: {error}")
