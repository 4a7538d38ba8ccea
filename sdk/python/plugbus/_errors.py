"""What goes wrong, one class for each kind.

Every error that crosses the broker keeps its kind: `from_body` makes the class that belongs to the
code, `body` makes the map that travels. Codes are part of the protocol and never reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Code: name, status, category.
CODES: dict[int, tuple[str, int, str]] = {
    10001: ("not-found", 404, "plugin"),
    10002: ("offline", 503, "plugin"),
    10003: ("timeout", 504, "plugin"),
    10004: ("denied", 403, "authorization"),
    10005: ("cancelled", 499, "plugin"),
    10006: ("peer-died", 502, "plugin"),
    10007: ("refused", 429, "resource"),
    10008: ("invalid-argument", 422, "plugin"),
    10009: ("handler-failed", 500, "plugin"),
    11001: ("bad-dialect", 400, "protocol"),
    11002: ("bad-version", 505, "protocol"),
    11003: ("unknown-type", 501, "protocol"),
    11004: ("reserved-bits", 400, "protocol"),
    11005: ("too-large", 413, "protocol"),
    11006: ("bad-checksum", 400, "protocol"),
    11007: ("malformed", 400, "protocol"),
    11008: ("forged-session", 403, "protocol"),
    11009: ("unknown-route", 404, "protocol"),
    11010: ("unexpected", 409, "protocol"),
    11011: ("no-such-call", 404, "protocol"),
    11012: ("not-your-call", 403, "protocol"),
    11013: ("credit-overrun", 429, "protocol"),
    11014: ("bad-ack", 400, "protocol"),
    11015: ("out-of-sequence", 409, "protocol"),
    11016: ("handshake-timeout", 408, "protocol"),
    11017: ("bad-name", 400, "protocol"),
    11018: ("unsupported", 501, "protocol"),
    12001: ("id-in-use", 409, "authentication"),
    12002: ("id-mismatch", 403, "authentication"),
    14001: ("shutting-down", 503, "system"),
    14002: ("internal", 500, "system"),
}


class PlugbusError(Exception):
    """The base of every error of this package.

    `code` is the number of the protocol (0 where nothing on the wire stands for it), `status` the
    number that HTTP would use, `category` says who has to act, `details` are facts for programs.
    """

    code = 0

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.details: dict[str, Any] = dict(details or {})
        # True for an error that somebody else sent us. A handler that lets such an error escape
        # has failed itself; it must not look as if its own method were unknown or offline.
        self.remote = False

    @property
    def message(self) -> str:
        """What happened, for people."""
        return str(self.args[0]) if self.args else ""

    @property
    def name(self) -> str:
        """The stable name of the code, such as `not-found`."""
        return CODES.get(self.code, ("error", 500, "system"))[0]

    @property
    def status(self) -> int:
        """The status that HTTP would use for this kind of error."""
        return CODES.get(self.code, ("error", 500, "system"))[1]

    @property
    def category(self) -> str:
        """Who has to act: protocol, authentication, authorization, resource, plugin or system."""
        return CODES.get(self.code, ("error", 500, "system"))[2]

    def body(self) -> dict[str, Any]:
        """The map that an error frame carries."""
        body: dict[str, Any] = {
            "code": self.code,
            "status": self.status,
            "category": self.category,
            "message": self.message,
        }
        if self.details:
            body["details"] = self.details
        return body


class NotFound(PlugbusError):
    """No such plugin, method, channel or subscription."""

    code = 10001

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Names that exist and look like the one that was asked for."""
        found = self.details.get("suggestions")
        return tuple(map(str, found)) if isinstance(found, (list, tuple)) else ()


class Offline(PlugbusError):
    """The plugin is known, but it is not connected."""

    code = 10002


class Timeout(PlugbusError):
    """The deadline passed."""

    code = 10003


class Denied(PlugbusError):
    """Not permitted."""

    code = 10004


class Cancelled(PlugbusError):
    """The call was cancelled by its caller, or by the caller of the handler that made it."""

    code = 10005


class PeerDied(PlugbusError):
    """The callee's session ended before it answered."""

    code = 10006

    @property
    def verdict(self) -> str:
        """What is known of the call: `never-delivered`, `possibly-started` or `started`."""
        return str(self.details.get("verdict", "possibly-started"))


class Refused(PlugbusError):
    """A limit was reached. The properties say which, whose, and when to try again."""

    code = 10007

    @property
    def resource(self) -> str | None:
        """What ran out."""
        return _text(self.details, "resource")

    @property
    def holder(self) -> str | None:
        """Who holds it."""
        return _text(self.details, "holder")

    @property
    def used(self) -> int | None:
        """How much is in use."""
        return _number(self.details, "used")

    @property
    def limit(self) -> int | None:
        """How much there may be."""
        return _number(self.details, "limit")

    @property
    def blame(self) -> str | None:
        """Who has to act for it to become free."""
        return _text(self.details, "blame")

    @property
    def retry_after(self) -> float | None:
        """When to try again, in seconds from now."""
        milliseconds = _number(self.details, "retry_after_ms")
        return None if milliseconds is None else milliseconds / 1000


class InvalidArgument(PlugbusError):
    """An argument does not fit; `field` names it."""

    code = 10008

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        expected: str | None = None,
        code: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        if field is not None:
            self.details["field"] = field
        if expected is not None:
            self.details["expected"] = expected

    @property
    def field(self) -> str | None:
        """The name of the argument, with the path into it: `order.items[2].price`."""
        return _text(self.details, "field")

    @property
    def expected(self) -> str | None:
        """What would have fitted."""
        return _text(self.details, "expected")


class HandlerFailed(PlugbusError):
    """The handler's own error, with a code of the plugin's own making.

    Raise it in a handler to tell the caller what went wrong in a form that programs can use:
    `raise plugbus.HandlerFailed("out-of-stock", "no chairs are left")`. Any other exception arrives
    as this too, with the name of its class as its code.
    """

    code = 10009

    def __init__(
        self,
        handler_code: str,
        message: str = "",
        *,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message or handler_code, details=details)
        self.details["code"] = handler_code

    @property
    def handler_code(self) -> str:
        """The plugin's own code."""
        return str(self.details.get("code", "error"))


class ProtocolError(PlugbusError):
    """One side broke the protocol. A bug, not a condition to handle."""

    code = 11007


class ShuttingDown(PlugbusError):
    """The broker or the callee is about to leave and takes nothing new."""

    code = 14001


class HandshakeRefused(PlugbusError):
    """The broker did not let us in: the id is live, or not the configured one …"""


class BrokerGone(PlugbusError):
    """The connection to the broker is lost. For a call, `verdict` says what is known of it."""

    @property
    def verdict(self) -> str:
        """What is known of the call: `never-delivered`, `possibly-started` or `started`."""
        return str(self.details.get("verdict", "possibly-started"))


class NoBroker(BrokerGone):
    """Nobody answers at the socket."""


class MessageLost(PlugbusError):
    """The broker gave a message up (`cause` says why); it waits among the dead letters."""

    @property
    def cause(self) -> str:
        """Why, in the broker's words."""
        return str(self.details.get("cause", "unknown"))


_CLASSES: dict[int, type[PlugbusError]] = {
    each.code: each
    for each in (
        NotFound,
        Offline,
        Timeout,
        Denied,
        Cancelled,
        PeerDied,
        Refused,
        InvalidArgument,
        ShuttingDown,
    )
}


def from_body(body: Any) -> PlugbusError:
    """Makes the error that an error frame's body describes; never fails, whatever the body is."""
    if not isinstance(body, dict) or not isinstance(body.get("code"), int):
        body = {"code": 11007, "message": "the error frame has no code"}
    code: int = body["code"]
    found = body.get("details")
    details: dict[str, Any] = found if isinstance(found, dict) else {}
    message = str(body.get("message") or CODES.get(code, (f"error {code}",))[0])
    error: PlugbusError
    if code == HandlerFailed.code:
        error = HandlerFailed(str(details.get("code", "error")), message, details=details)
    else:
        kind = _CLASSES.get(code, ProtocolError if 11000 <= code < 12000 else PlugbusError)
        error = kind(message, code=code, details=details)
    error.remote = True
    return error


def _text(details: Mapping[str, Any], key: str) -> str | None:
    value = details.get(key)
    return None if value is None else str(value)


def _number(details: Mapping[str, Any], key: str) -> int | None:
    value = details.get(key)
    return int(value) if isinstance(value, (int, float)) else None
