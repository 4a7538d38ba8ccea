"""One side of a connection, without the connection: ids, routes, windows, chunks, acknowledgements.

Frames go in through `handle`, bytes come out in `out`, and what the rest of the SDK has to do comes
out in `actions`. There is no socket and no thread here, and the clocks are arguments. It is not
locked: the driver holds its lock around every method, which is also what keeps the order of message
ids the order of the bytes.

It is one long file because its parts share one state: routes hold calls, calls hold quota, and the
end of the connection ends them all.

Invariant: each `Reply` that was handed in is completed by exactly one action, or by the caller who
took it back with `withdraw`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable

from . import _msgpack, _wire
from ._errors import (
    BrokerGone,
    MessageLost,
    PlugbusError,
    ProtocolError,
    from_body,
)
from ._wire import Frame

Action = tuple[Any, ...]


class Reply:
    """A place for one outcome.

    The driver's subclasses decide how somebody waits for it; here it is only filled in.
    """

    __slots__ = ("value", "error", "message_id")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: PlugbusError | None = None
        self.message_id = 0  # Of the control frame or request that it answers.

    def notify(self) -> None:
        """Wakes whoever waits."""


class Call:
    """One request on its way, from the queue in front of an unopened route to its outcome."""

    __slots__ = (
        "reply",
        "target",
        "body",
        "deadline",
        "trace",
        "message_id",
        "route",
        "started",
        "reopened",
        "withdrawn",
    )

    def __init__(
        self,
        reply: Reply,
        target: str,
        body: bytes,
        deadline: float,
        trace: bytes | None = None,
    ) -> None:
        self.reply = reply
        self.target = target
        self.body = body
        self.deadline = deadline
        self.trace = trace
        self.message_id = 0  # 0 until it is sent.
        self.route = 0
        self.started = False
        self.reopened = False
        self.withdrawn = False


class OutRoute:
    """A name that was opened, or is being opened, for sending."""

    __slots__ = (
        "kind",
        "name",
        "number",
        "calls",
        "waiters",
        "watchers",
        "window_messages",
        "window_bytes",
        "last_id",
        "unsettled",
        "unsettled_bytes",
        "accepted",
        "completed",
    )

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.number = 0  # 0 while the broker has not answered.
        self.calls: list[Call] = []
        self.waiters: list[Reply] = []
        self.watchers: deque[Watch] = deque()
        self.window_messages = 0
        self.window_bytes = 0
        self.last_id = 0
        # Message id to payload bytes, in the order of the ids.
        self.unsettled: dict[int, int] = {}
        self.unsettled_bytes = 0
        self.accepted = 0
        self.completed = 0

    def has_room(self) -> bool:
        """Whether another message may start."""
        return (
            self.number != 0
            and len(self.unsettled) < self.window_messages
            and self.unsettled_bytes < self.window_bytes
        )


class Watch:
    """Somebody waits until the ids `first..=last` are settled."""

    __slots__ = ("first", "last", "reply", "lost")

    def __init__(self, first: int, last: int, reply: Reply) -> None:
        self.first = first
        self.last = last
        self.reply = reply
        self.lost: PlugbusError | None = None


class InRoute:
    """A route on which the broker hands us frames."""

    __slots__ = (
        "number",
        "kind",
        "name",
        "sender",
        "session",
        "incarnation",
        "redelivered",
        "closed",
        "delivered",
        "handled",
        "acknowledged",
        "sink",
    )

    def __init__(self, number: int, body: Mapping[str, Any]) -> None:
        self.number = number
        self.kind: str = _need(body, "kind", str)
        self.name: str = _need(body, "name", str)
        self.sender = str(body.get("from") or "")
        self.session = _whole(body.get("session"))
        self.incarnation = _whole(body.get("incarnation"))
        # First id, last id, attempt.
        self.redelivered: tuple[int, int, int] | None = None
        self.closed = False
        # Last message that came, that its handler returned from, and that was acknowledged. The
        # second is the driver's to write, from whichever thread the handler ran on.
        self.delivered = 0
        self.handled = 0
        self.acknowledged = 0
        self.sink: Any = None  # For the driver: where batches of this route go.

    def attempt(self, message_id: int) -> int:
        """How often this message has been handed over, counting this time."""
        if self.redelivered is None:
            return 1
        first, last, attempt = self.redelivered
        return attempt if first <= message_id <= last else 1


class Incoming:
    """A request that was given to us and has no answer yet."""

    __slots__ = (
        "route",
        "message_id",
        "session",
        "stamp",
        "extension",
        "body",
        "flags",
        "cancelled",
        "began",
        "announced",
        "context",
        "task",
    )

    def __init__(self, route: InRoute, frame: Frame) -> None:
        _, self.flags, _, self.message_id, self.session, self.stamp, self.extension, self.body = (
            frame
        )
        self.route = route
        self.cancelled = False
        self.began = 0.0  # Monotonic time at which the handler began, 0 before.
        self.announced = False  # `started` was sent.
        self.context: Any = None
        self.task: Any = None

    @property
    def deadline_ms(self) -> int:
        """The deadline in milliseconds after the timestamp, 0 where the caller gave none."""
        if not self.extension:
            return 0
        return int(_wire.REQUEST_EXTENSION.unpack(self.extension)[0])

    @property
    def trace(self) -> bytes:
        """The trace id, 16 bytes, zeros where there is none."""
        if not self.extension:
            return bytes(16)
        return bytes(_wire.REQUEST_EXTENSION.unpack(self.extension)[2])


class Peer:
    """The state of one session."""

    def __init__(
        self, monotonic: Callable[[], float], unix_ns: Callable[[], int], checksum: bool = False
    ) -> None:
        self.out: list[bytes] = []
        self.out_size = 0
        self.actions: list[Action] = []
        self.incoming: dict[tuple[int, int], Incoming] = {}
        self.in_routes: dict[int, InRoute] = {}
        self.unacknowledged: set[InRoute] = set()
        self.session = 0
        self.id = ""
        self.incarnation = 0
        self.welcome: dict[str, Any] = {}
        self.payload_max = _wire.PAYLOAD_MAX
        self.message_max = _wire.MESSAGE_MAX
        self.lost: PlugbusError | None = None
        self._monotonic = monotonic
        self._unix_ns = unix_ns
        self._wants_checksum = checksum
        self._flags = 0
        self._next_id = 0
        self._requests_max = 1024
        self._request_bytes_max = 8 << 20
        self._pending: dict[int, Call | Reply] = {}
        self._request_count = 0
        self._request_bytes = 0
        self._backlog: deque[Call] = deque()
        self._out_routes: dict[tuple[str, str], OutRoute] = {}
        self._out_numbers: dict[int, OutRoute] = {}
        self._chunks = _wire.Chunks(self.message_max)
        self._runs: dict[int, list[Frame]] = {}

    # --- Handshake -------------------------------------------------------------------------

    def start(self, hello: Mapping[str, Any]) -> None:
        """Sends the hello. The next frame to come must go to `handle_welcome`."""
        features = ["checksum"] if self._wants_checksum else []
        body = _msgpack.pack({"versions": [1], "features": features, **hello})
        self._write(_wire.HELLO, 0, 0, self._id(), _wire.MAGIC + body)

    def handle_welcome(self, frame: Frame) -> None:
        """Takes the answer to the hello. Raises the broker's error if that is what it is."""
        kind, flags, _, _, _, _, _, body = frame
        if kind == _wire.ERROR:
            raise from_body(_wire.control(body))
        if kind != _wire.WELCOME or _wire.objection(kind, flags):
            raise ProtocolError(f"frame type {kind} came instead of the welcome", code=11010)
        welcome = _wire.control(body)
        if _need(welcome, "version", int) != 1:
            raise ProtocolError(f"the broker chose version {welcome['version']}", code=11002)
        self.session = _need(welcome, "session", int)
        self.id = _need(welcome, "id", str)
        self.incarnation = _whole(welcome.get("incarnation"))
        self.welcome = welcome
        features = welcome.get("features")
        if self._wants_checksum and isinstance(features, list) and "checksum" in features:
            self._flags = _wire.CHECKSUM
        limits = welcome.get("limits")
        if isinstance(limits, dict):
            self.payload_max = _whole(limits.get("payload_max")) or self.payload_max
            self.message_max = _whole(limits.get("message_max")) or self.message_max
            self._chunks.message_max = self.message_max
            self._requests_max = _whole(limits.get("requests_max")) or self._requests_max
            self._request_bytes_max = (
                _whole(limits.get("request_bytes_max")) or self._request_bytes_max
            )

    # --- What we start ---------------------------------------------------------------------

    def control(self, kind: int, body: Mapping[str, Any], reply: Reply) -> None:
        """Sends a control frame; `reply` gets the map of the answer."""
        if self.lost:
            self._done(reply, None, self.lost)
            return
        message_id = self._id()
        reply.message_id = message_id
        self._pending[message_id] = reply
        self._write(kind, 0, 0, message_id, _msgpack.pack(body))

    def notice(self, kind: int, body: Mapping[str, Any]) -> None:
        """Sends a control frame that nobody answers: signal, shutdown."""
        if not self.lost:
            self._write(kind, 0, 0, self._id(), _msgpack.pack(body))

    def call(self, call: Call) -> None:
        """Sends a request as soon as its route is open and the broker takes another one."""
        if self.lost:
            self._done(call.reply, None, _gone(self.lost, "never-delivered"))
            return
        if len(call.body) > self.message_max:
            self._done(call.reply, None, _too_large(len(call.body), self.message_max))
            return
        route = self._route("method", call.target)
        if not route.number:
            route.calls.append(call)
        elif self._backlog or not self._may_request():
            self._backlog.append(call)
        else:
            self._request(call, route)

    def withdraw(self, call: Call, tell: bool) -> bool:
        """Takes a call back, because its deadline passed or its caller does not want it any more.

        False if it has its outcome already. With `tell` the broker is told (`cancel`); at a
        deadline it needs no telling.
        """
        if call.withdrawn:
            return False
        if not call.message_id:
            call.withdrawn = True
            return True
        if self._pending.pop(call.message_id, None) is None:
            return False
        call.withdrawn = True
        self._release(call)
        if tell and not self.lost:
            self._write(_wire.CANCEL, 0, call.route, call.message_id, b"")
        return True

    def forget(self, reply: Reply) -> bool:
        """Takes back a wait for the answer to a control frame, or for room; False if it is over."""
        if reply.message_id:
            return self._pending.pop(reply.message_id, None) is not None
        for route in list(self._out_routes.values()):
            if reply in route.waiters:
                route.waiters.remove(reply)
                return True
            for watch in route.watchers:
                if watch.reply is reply:
                    route.watchers.remove(watch)
                    return True
        return False

    def post(
        self,
        kind: str,
        name: str,
        content: int,
        key: int,
        trace: bytes | None,
        body: bytes,
        make: Callable[[], Reply],
        watch: bool,
    ) -> tuple[bool, Reply | None]:
        """Sends a message, an event or a broadcast.

        (True, None) when it is on its way; with `watch` (True, a reply that completes when it is
        settled). (False, a reply): nothing was sent, try again when the reply is complete.
        Raises PlugbusError where trying again is of no use.
        """
        if self.lost:
            raise self.lost
        size = len(body)
        if size > self.message_max:
            raise _too_large(size, self.message_max)
        route = self._out_routes.get((kind, name)) or self._route(kind, name)
        if not route.has_room():
            reply = make()
            route.waiters.append(reply)
            return False, reply
        route.last_id = message_id = route.last_id + 1
        frame_kind = _POSTS[kind]
        extension = b""
        if key or trace:
            span = random.getrandbits(64)
            extension = _wire.MESSAGE_EXTENSION.pack(key, trace or bytes(16), span, 0)
            size += len(extension)
        data = _wire.encode_chunks(
            frame_kind,
            self._flags | content << _wire.CONTENT_SHIFT,
            route.number,
            message_id,
            self.session,
            self._unix_ns(),
            extension,
            body,
            self.payload_max,
        )
        self.out.append(data)
        self.out_size += len(data)
        route.unsettled[message_id] = size
        route.unsettled_bytes += size
        if not watch:
            return True, None
        reply = make()
        route.watchers.append(Watch(message_id, message_id, reply))
        return True, reply

    def watch(self, kind: str, name: str, reply: Reply) -> None:
        """Completes `reply` when everything sent so far under this name is settled."""
        route = self._out_routes.get((kind, name))
        if self.lost:
            self._done(reply, None, self.lost)
        elif route is None or not route.unsettled:
            self._done(reply, None, None)
        else:
            first = next(iter(route.unsettled))
            route.watchers.append(Watch(first, route.last_id, reply))

    def names(self) -> list[tuple[str, str]]:
        """Kind and name of everything that was opened for sending and has something unsettled."""
        return [key for key, route in self._out_routes.items() if route.unsettled]

    # --- What we answer --------------------------------------------------------------------

    def answer(self, call: Incoming, kind: int, body: bytes) -> None:
        """Answers a request with a response or an error; does nothing where nobody waits."""
        if self.incoming.pop((call.session, call.message_id), None) is None:
            return
        if call.cancelled or self.lost or call.route.closed:
            return
        if call.flags & _wire.NO_REPLY:
            return
        if len(body) > self.message_max:
            kind = _wire.ERROR
            body = _msgpack.pack(_too_large(len(body), self.message_max).body())
        if kind == _wire.ERROR and len(body) + 8 > self.payload_max:
            error = ProtocolError("the error is too large to be sent", code=11005)
            body = _msgpack.pack(error.body())
        content = _msgpack_flag if kind == _wire.RESPONSE else 0
        self._push(
            _wire.encode_chunks(
                kind,
                self._flags | content,
                call.route.number,
                call.message_id,
                self.session,
                self._unix_ns(),
                _wire.CALL_REFERENCE.pack(call.session),
                body,
                self.payload_max,
            )
        )

    def announce_started(self, began_before: float) -> bool:
        """Sends `started` for handlers that began before this; True while some may follow."""
        waiting = False
        for call in list(self.incoming.values()):
            if call.announced:
                continue
            if call.cancelled or call.flags & _wire.NO_REPLY or call.route.closed:
                call.announced = True
            elif call.began and call.began <= began_before:
                call.announced = True
                reference = _wire.CALL_REFERENCE.pack(call.session)
                self._write(
                    _wire.STARTED, _wire.EXTENDED, call.route.number, call.message_id, reference
                )
            else:
                waiting = True
        return waiting

    def acknowledge(self, route: InRoute) -> None:
        """Tells that handlers have returned for every message up to `route.handled`."""
        handled = route.handled
        if handled > route.acknowledged and not route.closed and not self.lost:
            route.acknowledged = handled
            self._write(_wire.ACK, 0, route.number, handled, b"")

    def acknowledge_all(self) -> bool:
        """Acknowledges what was handled so far on every channel; True while more may follow.

        A handler that takes long, in the middle of a run, must not hold up the acknowledgement of
        what came before it.
        """
        for route in list(self.unacknowledged):
            self.acknowledge(route)
            if route.closed or route.acknowledged >= route.delivered:
                self.unacknowledged.discard(route)
        return bool(self.unacknowledged)

    # --- What comes in ---------------------------------------------------------------------

    def handle(self, frames: list[Frame]) -> None:
        """Takes frames in their order."""
        runs = self._runs
        last_route = -1
        run: list[Frame] | None = None
        for frame in frames:
            kind = frame[0]
            flags = frame[1]
            if kind == 26 and not flags & 0xFF and not self._chunks.unfinished:
                # Messages come in long runs on one route; a run costs one look-up.
                if frame[2] == last_route and run is not None:
                    run.append(frame)
                    continue
                last_route = frame[2]
                run = self._run(last_route, kind, frame)
                continue
            last_route = -1
            try:
                self._handle(frame)
            except ProtocolError as error:
                self._object(frame, error)
        for number, taken in runs.items():
            route = self.in_routes.get(number)
            if route is not None and route.kind == "channel":
                route.delivered = taken[-1][3]
                self.unacknowledged.add(route)
        runs.clear()

    def handle_end(self, error: PlugbusError) -> None:
        """The connection is gone: everything that waits gets its outcome now."""
        if self.lost:
            return
        self.lost = error
        for entry in list(self._pending.values()):
            if isinstance(entry, Call):
                verdict = "started" if entry.started else "possibly-started"
                self._done(entry.reply, None, _gone(error, verdict))
            else:
                self._done(entry, None, error)
        self._pending.clear()
        for call in self._backlog:
            if not call.withdrawn:
                self._done(call.reply, None, _gone(error, "never-delivered"))
        self._backlog.clear()
        for route in self._out_routes.values():
            self._end_route(route, error)
        self._out_routes.clear()
        self._out_numbers.clear()
        for incoming in self.incoming.values():
            incoming.cancelled = True
            self.actions.append(("cancel", incoming))
        self.out.clear()
        self.out_size = 0

    def _handle(self, frame: Frame) -> None:
        kind, flags, number, message_id, session, _, extension, body = frame
        error = _wire.objection(kind, flags)
        if error:
            raise error
        if flags & _wire.MORE or self._chunks.unfinished:
            joined = self._chunks.join(frame)
            if joined is None:
                return
            frame = joined
            extension, body = frame[6], frame[7]
        if kind == _wire.RESPONSE:
            self._handle_answer(number, message_id, frame, None)
        elif kind == _wire.REQUEST:
            self._handle_request(frame)
        elif kind == _wire.MESSAGE or kind == _wire.EVENT or kind == _wire.BROADCAST:
            self._run(number, kind, frame)
        elif kind == _wire.ACK:
            self._handle_ack(number, message_id, body)
        elif kind == _wire.ERROR:
            self._handle_error(frame)
        elif kind == _wire.STARTED:
            entry = self._pending.get(message_id)
            if isinstance(entry, Call):
                entry.started = True
        elif kind == _wire.CANCEL:
            if len(extension) == 8:
                self._handle_cancel(_wire.CALL_REFERENCE.unpack(extension)[0], message_id)
        elif kind == _wire.PING:
            self._write(_wire.PONG, 0, 0, message_id, body)
        elif kind == _wire.ANNOUNCE:
            announced = _wire.control(body)
            route = InRoute(_need(announced, "route", int), announced)
            self.in_routes[route.number] = route
            self.actions.append(("announce", route))
        elif kind == _wire.CLOSE:
            self._handle_close(number, _wire.control(body))
        elif kind == _wire.GAP:
            self._handle_gap(number, message_id, _wire.control(body))
        elif kind == _wire.REDELIVERY:
            self._handle_redelivery(number, message_id, body)
        elif kind == _wire.CREDIT:
            self._handle_credit(number, body)
        elif kind == _wire.SIGNAL:
            self.actions.append(("signal", _wire.control(body)))
        elif kind == _wire.SHUTDOWN:
            self.actions.append(("shutdown", _wire.control(body)))
        elif kind != _wire.PONG:
            raise ProtocolError(f"frame type {kind} cannot come from the broker", code=11010)

    def _handle_request(self, frame: Frame) -> None:
        route = self.in_routes.get(frame[2])
        if route is None or route.kind != "method":
            raise ProtocolError(f"no method has route {frame[2]}", code=11009)
        incoming = Incoming(route, frame)
        self.incoming[(incoming.session, incoming.message_id)] = incoming
        self.actions.append(("request", incoming))

    def _handle_cancel(self, session: int, message_id: int) -> None:
        incoming = self.incoming.get((session, message_id))
        if incoming is not None and not incoming.cancelled:
            incoming.cancelled = True
            self.actions.append(("cancel", incoming))

    def _handle_answer(
        self, number: int, message_id: int, frame: Frame | None, error: PlugbusError | None
    ) -> None:
        entry = self._pending.get(message_id)
        if isinstance(entry, Call):
            if number and number != entry.route:
                return
            del self._pending[message_id]
            self._release(entry)
            if error is not None and error.code == 11009 and self._reopen(entry):
                return
            self._done(entry.reply, frame, error)
        elif entry is not None and (number == 0 or error is not None):
            del self._pending[message_id]
            value: Any = None
            if frame is not None:
                value = _wire.control(frame[7])
            self._done(entry, value, error)

    def _handle_error(self, frame: Frame) -> None:
        _, _, number, message_id, _, _, _, body = frame
        error = from_body(_decoded(body))
        if error.code in _ABOUT_ANSWERS:
            # An answer of ours came too late: its caller had gone. Its id belongs to the caller
            # and must not be taken for one of ours.
            self.actions.append(("log", f"the broker: {error.message}"))
            return
        route = self._out_numbers.get(number)
        if route is not None and route.kind != "method":
            # A message was not accepted, so those after it are out of sequence: start afresh.
            self._write(_wire.CLOSE, 0, number, self._id(), b"\x80")
            self._drop(route, error)
            text = f"{route.kind} {route.name}: message {message_id} was refused: {error.message}"
            self.actions.append(("warn", text))
        elif message_id in self._pending:
            self._handle_answer(number, message_id, None, error)
        else:
            self.actions.append(("log", f"the broker: {error.message} ({error.code})"))

    def _handle_ack(self, number: int, completed: int, body: bytes) -> None:
        route = self._out_numbers.get(number)
        if route is None:
            return
        if len(body) == 8:
            route.accepted = max(route.accepted, _wire.U64.unpack(body)[0])
        if completed > route.completed:
            route.completed = completed
            unsettled = route.unsettled
            settled = []
            size = 0
            for message_id in unsettled:
                if message_id > completed:
                    break
                settled.append(message_id)
            for message_id in settled:
                size += unsettled.pop(message_id)
            route.unsettled_bytes -= size
            self._settle(route)

    def _handle_gap(self, number: int, first: int, body: Mapping[str, Any]) -> None:
        last = _need(body, "last", int)
        cause = str(body.get("cause") or "unknown")
        route = self._out_numbers.get(number)
        if route is not None and route.kind != "method":
            lost = MessageLost(
                f"{route.kind} {route.name}: messages {first} to {last} were given up: {cause}",
                details={"cause": cause, "first": first, "last": last},
            )
            for message_id in [each for each in route.unsettled if first <= each <= last]:
                route.unsettled_bytes -= route.unsettled.pop(message_id)
            for watch in route.watchers:
                if watch.first <= last and first <= watch.last:
                    watch.lost = watch.lost or lost
            self.actions.append(("warn", lost.message))
            self._settle(route)
        incoming = self.in_routes.get(number)
        if incoming is not None:
            self._runs.pop(number, None)
            self.actions.append(("gap", incoming, first, last, cause))

    def _handle_redelivery(self, number: int, first: int, body: bytes) -> None:
        route = self.in_routes.get(number)
        if route is None or len(body) != _wire.REDELIVERY_BODY.size:
            raise ProtocolError("redelivery of nothing", code=11007)
        last, attempt = _wire.REDELIVERY_BODY.unpack(body)
        route.redelivered = (first, last, attempt)

    def _handle_credit(self, number: int, body: bytes) -> None:
        route = self._out_numbers.get(number)
        if len(body) != _wire.CREDIT_BODY.size:
            raise ProtocolError(f"credit of {len(body)} bytes", code=11007)
        if route is not None:
            route.window_messages, route.window_bytes = _wire.CREDIT_BODY.unpack(body)
            self._settle(route)

    def _handle_close(self, number: int, body: Mapping[str, Any]) -> None:
        reason = str(body.get("reason") or "closed")
        route = self._out_numbers.get(number)
        if route is not None:
            closed = MessageLost(
                f"{route.kind} {route.name}: the broker closed the route: {reason}",
                details={"cause": reason},
            )
            self._drop(route, closed)
        incoming = self.in_routes.pop(number, None)
        if incoming is not None:
            self._runs.pop(number, None)
            incoming.closed = True
            self.actions.append(("close", incoming))

    def _run(self, number: int, kind: int, frame: Frame) -> list[Frame] | None:
        """Adds a payload frame to the run of its route; None where there is no such route."""
        run = self._runs.get(number)
        if run is None:
            route = self.in_routes.get(number)
            if route is None or route.kind == "method":
                self._object(frame, ProtocolError(f"no route {number}", code=11009))
                return None
            run = self._runs[number] = []
            self.actions.append(("batch", route, run))
        run.append(frame)
        return run

    # --- Inside ----------------------------------------------------------------------------

    def _route(self, kind: str, name: str) -> OutRoute:
        """The route of a name; begins to open it where that has not been done."""
        route = self._out_routes.get((kind, name))
        if route is None:
            route = self._out_routes[(kind, name)] = OutRoute(kind, name)
            opening = _Opening(self, route)
            self.control(_wire.OPEN, {"kind": kind, "name": name}, opening)
        return route

    def _opened(self, route: OutRoute, body: Any, error: PlugbusError | None) -> None:
        if error is None:
            number = body.get("route") if isinstance(body, dict) else None
            if not isinstance(number, int) or number <= 0:
                error = ProtocolError("the answer to `open` has no route", code=11007)
            else:
                route.number = number
                route.window_messages = _whole(body.get("window_messages"))
                route.window_bytes = _whole(body.get("window_bytes"))
        if error is not None:
            self._drop(route, error)
            return
        self._out_numbers[route.number] = route
        calls, route.calls = route.calls, []
        for call in calls:
            if not call.withdrawn:
                self._backlog.append(call)
        self._admit()
        self._settle(route)

    def _reopen(self, call: Call) -> bool:
        """The route had ended before the request came to the broker: one more try, on a new one."""
        if call.reopened:
            return False
        call.reopened = True
        route = self._out_routes.get(("method", call.target))
        if route is not None and route.number == call.route:
            self._drop(route, BrokerGone("the route ended"))
        call.message_id = 0
        self.call(call)
        return True

    def _may_request(self) -> bool:
        return (
            self._request_count < self._requests_max
            and self._request_bytes < self._request_bytes_max
        )

    def _admit(self) -> None:
        while self._backlog and self._may_request():
            call = self._backlog.popleft()
            if call.withdrawn:
                continue
            route = self._route("method", call.target)
            if route.number:
                self._request(call, route)
            else:
                route.calls.append(call)

    def _request(self, call: Call, route: OutRoute) -> None:
        left = int((call.deadline - self._monotonic()) * 1000)
        call.message_id = message_id = self._id()
        call.route = route.number
        self._pending[message_id] = call
        self._request_count += 1
        self._request_bytes += len(call.body)
        trace = call.trace or random.getrandbits(128).to_bytes(16, "little")
        span = random.getrandbits(64)
        extension = _wire.REQUEST_EXTENSION.pack(min(max(left, 1), 0xFFFFFFFF), 0, trace, span, 0)
        self._push(
            _wire.encode_chunks(
                _wire.REQUEST,
                self._flags | _msgpack_flag,
                route.number,
                message_id,
                self.session,
                self._unix_ns(),
                extension,
                call.body,
                self.payload_max,
            )
        )

    def _release(self, call: Call) -> None:
        self._request_count -= 1
        self._request_bytes -= len(call.body)
        if self._backlog:
            self._admit()

    def _settle(self, route: OutRoute) -> None:
        """Ends the waits that are over after something was settled or the window has changed."""
        lowest = next(iter(route.unsettled), route.last_id + 1)
        watchers = route.watchers
        while watchers and (lowest > watchers[0].last):
            watch = watchers.popleft()
            self._done(watch.reply, None, watch.lost)
        for watch in [each for each in watchers if each.lost and each.first == each.last]:
            watchers.remove(watch)
            self._done(watch.reply, None, watch.lost)
        if route.waiters and route.has_room():
            waiters, route.waiters = route.waiters, []
            for reply in waiters:
                self._done(reply, None, None)

    def _drop(self, route: OutRoute, error: PlugbusError) -> None:
        key = (route.kind, route.name)
        if self._out_routes.get(key) is route:
            del self._out_routes[key]
        self._out_numbers.pop(route.number, None)
        self._end_route(route, error)

    def _end_route(self, route: OutRoute, error: PlugbusError) -> None:
        opened = route.number != 0
        for call in route.calls:
            if not call.withdrawn:
                call.withdrawn = True
                self._done(call.reply, None, error)
        for reply in route.waiters:
            # Who waits for room tries again, on a new route, unless this one never opened.
            self._done(reply, None, None if opened and not self.lost else error)
        for watch in route.watchers:
            self._done(watch.reply, None, error)
        route.calls = []
        route.waiters = []
        route.watchers.clear()
        route.unsettled.clear()
        route.unsettled_bytes = 0

    def _done(self, reply: Reply, value: Any, error: PlugbusError | None) -> None:
        if isinstance(reply, _Opening):
            self._opened(reply.route, value, error)
            return
        reply.value = value
        reply.error = error
        self.actions.append(("done", reply))

    def _object(self, frame: Frame, error: ProtocolError) -> None:
        """Answers a frame that cannot be handled. An error is never answered with an error."""
        self.actions.append(("warn", f"frame type {frame[0]} on route {frame[2]}: {error.message}"))
        if frame[0] != _wire.ERROR and not self.lost:
            body = _msgpack.pack(error.body())
            self._write(_wire.ERROR, 0, frame[2], frame[3], body)

    def refuse_stream(self, error: ProtocolError) -> None:
        """Says why the stream is about to be closed from this side."""
        self._write(_wire.ERROR, 0, 0, 0, _msgpack.pack(error.body()))

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _write(self, kind: int, flags: int, route: int, message_id: int, payload: bytes) -> None:
        flags |= self._flags
        stamp = self._unix_ns()
        self._push(_wire.encode(kind, flags, route, message_id, self.session, stamp, payload))

    def _push(self, data: bytes) -> None:
        self.out.append(data)
        self.out_size += len(data)


class _Opening(Reply):
    """The wait of a route for its number."""

    __slots__ = ("peer", "route")

    def __init__(self, peer: Peer, route: OutRoute) -> None:
        super().__init__()
        self.peer = peer
        self.route = route


def _need(body: Mapping[str, Any], key: str, kind: type) -> Any:
    value = body.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"`{key}` is missing or not {kind.__name__}", code=11007)
    return value


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _decoded(body: bytes) -> Any:
    try:
        return _wire.control(body)
    except ProtocolError:
        return None


def _gone(error: PlugbusError, verdict: str) -> PlugbusError:
    made = BrokerGone(error.message, code=error.code, details={**error.details, "verdict": verdict})
    return made


def _too_large(size: int, limit: int) -> ProtocolError:
    return ProtocolError(f"a message of {size} bytes is over the limit of {limit}", code=11005)


_msgpack_flag = _wire.MSGPACK << _wire.CONTENT_SHIFT
_ABOUT_ANSWERS = frozenset((11011, 11012, 11014))
_POSTS = {"channel": _wire.MESSAGE, "topic": _wire.EVENT, "broadcast": _wire.BROADCAST}
