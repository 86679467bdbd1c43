"""A kept connection from the engine to one host, on which every answer is read by the rules of the client library."""

import http.client
from typing import Any

from tests.support.engine import wirexml

# An engine waits three minutes for an answer; a test has less patience.
REPLY_SECONDS = 50.0


class Link:
    """Calls verbs of one host.

    Args:
        address: "host:port".

    Attributes:
        calls: verbs called, in order.
        flow_id: correlation id sent with each call.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.calls: list[str] = []
        self.flow_id = "1a2b3c4d"
        self._connection = http.client.HTTPConnection(address, timeout=REPLY_SECONDS)

    def call(self, verb: str, *values: Any) -> dict[str, Any]:
        """The struct that a verb answers.

        Raises:
            wirexml.Fault: the verb is not known there.
            wirexml.Unreadable: the answer is none for this client.
            OSError, http.client.HTTPException: the host does not answer.
        """
        self.calls.append(verb)
        headers = {
            "Content-Type": "text/xml",
            "User-Agent": "Jakarta Commons-HttpClient/3.1",
            "FlowID": self.flow_id,
        }
        try:
            self._connection.request("POST", "/", wirexml.encode(verb, values), headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        assert response.status == 200, f"{verb}: {response.status}"
        assert (response.headers.get_content_type(), int(response.headers["Content-Length"])) == ("text/xml", len(body))
        assert not response.will_close, "the connection is meant to be kept"
        answer = wirexml.decode(body)
        if not isinstance(answer, dict):
            raise wirexml.Unreadable(f"{verb} answers no struct")
        return answer

    def close(self) -> None:
        self._connection.close()
