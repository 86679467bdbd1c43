"""Python clients that were not written here: the standard library's for XML-RPC, and one for JSON-RPC."""

import xmlrpc.client
from types import TracebackType
from typing import Any, Self

import jsonrpclib

from tests.support import frontier


class PythonXml:
    """The standard library's client as it comes: no transport of ours, no nil. A context manager."""

    def __init__(self, url: str) -> None:
        self._proxy = xmlrpc.client.ServerProxy(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy("close")()

    def call(self, name: str, *values: Any) -> Any:
        """Call a method, and give its answer.

        Raises:
            frontier.Fault: it is a fault.
        """
        try:
            return getattr(self._proxy, name)(*values)
        except xmlrpc.client.Fault as fault:
            raise frontier.Fault(fault.faultCode, fault.faultString) from fault


class JsonRpc:
    """The client of jsonrpclib. A context manager.

    Attributes:
        proxy: the library's own, for what `call` has no word for: notifications and batches.
    """

    def __init__(self, url: str) -> None:
        self.proxy = jsonrpclib.ServerProxy(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy("close")()

    def call(self, method: str, *values: Any, **named: Any) -> Any:
        """Call a method with parameters by position or by name, and give its result.

        Raises:
            frontier.Fault: the answer is an error.
        """
        function = self.proxy
        for part in method.split("."):
            function = getattr(function, part)
        try:
            return function(*values, **named)
        except jsonrpclib.ProtocolError as error:
            code, text = error.args[0][:2]
            raise frontier.Fault(code, text) from error
