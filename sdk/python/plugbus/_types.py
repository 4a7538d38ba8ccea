"""What handlers are given: the context of a call, messages, events, signals and gaps."""

from __future__ import annotations

import contextvars
import json
import threading
import time
from typing import Any, Callable

from . import _msgpack, _wire
from ._peer import InRoute
from ._wire import Frame


class Context:
    """What a handler knows of whoever made it run: `plugbus.current()`."""

    def __init__(
        self,
        caller: str,
        session: int,
        deadline: float | None = None,
        trace: bytes = bytes(16),
    ) -> None:
        #: The id of the plugin or client that called, sent or published.
        self.caller = caller
        #: The caller's session: a plugin that restarts has a new one.
        self.session = session
        #: Monotonic time (`time.monotonic()`) at which the caller stops waiting, or None.
        self.deadline = deadline
        #: The trace id that nested calls inherit, 16 bytes, zeros for none.
        self.trace = trace
        # The rest is made when somebody needs it: there is a context for every call.
        self._cancelled = False
        self._event: threading.Event | None = None
        self._aborts: set[Callable[[], None]] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the caller has gone: it cancelled, its deadline passed, or it died.

        A handler that takes long looks at this now and then and returns; nobody reads its result.
        """
        return self._cancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Waits until `cancelled`, at most `timeout` seconds; gives `cancelled`."""
        with _lock:
            if self._event is None:
                self._event = threading.Event()
            if self._cancelled:
                self._event.set()
        return self._event.wait(timeout)

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _cancel(self) -> None:
        with _lock:
            self._cancelled = True
            if self._event is not None:
                self._event.set()
            aborts, self._aborts = self._aborts, None
        for abort in aborts or ():
            abort()

    def _enter(self, abort: Callable[[], None]) -> None:
        """A nested call begins; `abort` ends it when the context is cancelled."""
        with _lock:
            if not self._cancelled:
                if self._aborts is None:
                    self._aborts = set()
                self._aborts.add(abort)
                return
        abort()

    def _leave(self, abort: Callable[[], None]) -> None:
        with _lock:
            if self._aborts is not None:
                self._aborts.discard(abort)


# One for all contexts: it is held for a moment, and rarely.
_lock = threading.Lock()

_current: contextvars.ContextVar[Context | None] = contextvars.ContextVar(
    "plugbus_context", default=None
)


def current() -> Context:
    """The context of the handler that runs here. Raises RuntimeError outside of a handler."""
    context = _current.get()
    if context is None:
        raise RuntimeError("plugbus.current() is for handlers: no handler runs here")
    return context


class Delivery:
    """What messages and events have in common. The payload is decoded when first asked for."""

    __slots__ = ("_frame", "_route", "_value")

    def __init__(self, frame: Frame, route: InRoute) -> None:
        self._frame = frame
        self._route = route
        self._value: Any = _UNREAD

    @property
    def value(self) -> Any:
        """The payload, decoded by its content type; bytes where it is raw.

        Raises ValueError if the payload is not what its content type says.
        """
        value = self._value
        if value is _UNREAD:
            value = self._value = decode((self._frame[1] >> 8) & 0xF, self._frame[7])
        return value

    @property
    def payload(self) -> bytes:
        """The bytes as they were sent."""
        return self._frame[7]

    @property
    def id(self) -> int:
        """The number of this message: 1, 2, 3 … for each sender's session and channel or topic."""
        return self._frame[3]

    @property
    def session(self) -> int:
        """The sender's session."""
        return self._frame[4]

    @property
    def timestamp(self) -> int:
        """When it was sent: the sender's Unix time in nanoseconds."""
        return self._frame[5]


class Message(Delivery):
    """One message of a channel."""

    __slots__ = ()

    @property
    def sender(self) -> str:
        """The id of the plugin or client that sent it."""
        return self._route.sender

    @property
    def channel(self) -> str:
        """The name of the channel, without the plugin."""
        return self._route.name

    @property
    def attempt(self) -> int:
        """1, or more where an earlier session of this plugin had it and did not finish."""
        return self._route.attempt(self._frame[3])

    def __repr__(self) -> str:
        return f"<Message {self.id} from {self.sender} on {self.channel}>"


class Event(Delivery):
    """One event, or a broadcast."""

    __slots__ = ()

    @property
    def topic(self) -> str:
        """The name of the event."""
        return self._route.name

    @property
    def publisher(self) -> str:
        """The id of the plugin or client that published it; empty for the broker's own."""
        return self._route.sender

    @property
    def broadcast(self) -> bool:
        """Whether it was sent to every plugin."""
        return self._frame[0] == _wire.BROADCAST

    @property
    def key(self) -> int:
        """The key under which newer events replace older ones, 0 for none."""
        extension = self._frame[6]
        return int(_wire.MESSAGE_EXTENSION.unpack(extension)[0]) if extension else 0

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.topic} from {self.publisher}>"


class Signal:
    """A small lifecycle notice: shutdown, reload, health-check or wake."""

    __slots__ = ("name", "sender", "data")

    def __init__(self, name: str, sender: str, data: Any) -> None:
        self.name = name
        self.sender = sender
        self.data = data

    def __repr__(self) -> str:
        return f"<Signal {self.name} from {self.sender}>"


class Gap:
    """The receipt for events or messages that will never come."""

    __slots__ = ("topic", "publisher", "first", "last", "cause")

    def __init__(self, topic: str, publisher: str, first: int, last: int, cause: str) -> None:
        #: The topic, or the name of the channel.
        self.topic = topic
        #: Who sent them.
        self.publisher = publisher
        #: The first and the last number that is missing.
        self.first = first
        self.last = last
        #: Why, in the broker's words.
        self.cause = cause

    @property
    def count(self) -> int:
        """How many are missing."""
        return self.last - self.first + 1

    def __repr__(self) -> str:
        return (
            f"<Gap {self.first}..={self.last} of {self.topic} from {self.publisher}: {self.cause}>"
        )


def decode(content: int, payload: bytes) -> Any:
    """A payload as its content type says. Raises ValueError if it is not that."""
    if content == _wire.MSGPACK:
        return _msgpack.unpack(payload)
    if content == _wire.JSON:
        return json.loads(payload)
    if content == _wire.TEXT:
        return payload.decode()
    return payload


def encode(value: Any) -> tuple[int, bytes]:
    """Content type and payload of a value: bytes go as they are, all else as MessagePack."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _wire.RAW, bytes(value)
    return _wire.MSGPACK, _msgpack.pack(value)


_UNREAD = object()
