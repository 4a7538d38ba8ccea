"""The words that plugins and clients share: call, send, publish, broadcast, signal, subscribe.

`Endpoint` has them for threads: each method blocks until it can return what it says. `endpoint.aio`
has the same words as coroutines. A nested call, made in a handler, inherits what is left of the
handler's deadline, and ends when the handler's caller cancels.

The file is long because every word is there twice, for threads and for coroutines, each with its
overloads for one target and for many.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import (
    Any,
    Callable,
    overload,
)

from . import _msgpack, _wire
from ._errors import Cancelled, InvalidArgument, PlugbusError, Timeout
from ._lanes import Awaiting, Waiting, log
from ._loop import (
    Connection,
    Delegate,
    connect_socket,
    default_socket,
    inherited_socket,
)
from ._peer import Call, InRoute, Reply
from ._types import Context, Event, Gap, _current, decode, encode

VERSION = "0.1.0"
CONTROL_TIMEOUT = 10.0  # Seconds that the broker has for an answer of its own.
QUEUE_MESSAGES = 16_384  # Events that wait here for a handler, unless it says otherwise.
QUEUE_BYTES = 1 << 20
# A subscription that must not shed may hold this much; the protocol has no way to hold up one
# topic once its events are in our socket.
BLOCKED_MESSAGES = 1 << 20
BLOCKED_BYTES = 64 << 20

GapHandler = Callable[[Gap], object]


class Endpoint(Delegate):
    """A connection to the broker, with words."""

    def __init__(self, timeout: float) -> None:
        #: Seconds that a call may take, where it does not say otherwise.
        self.timeout = timeout
        #: The same words as coroutines: `await plugin.aio.call(…)`.
        self.aio = AsyncEndpoint(self)
        self._link: Connection | None = None
        self._sinks: list[Sink] = []
        self._sinks_version = 0
        self._gap_handlers: list[GapHandler] = []

    # --- Words -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id under which the broker knows us."""
        return self._connection().peer.id

    @property
    def broker(self) -> dict[str, Any]:
        """The broker's welcome: its name, its limits, the heartbeat …"""
        return dict(self._connection().peer.welcome)

    @overload
    def call(
        self,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> Any: ...

    @overload
    def call(
        self,
        target: list[str] | tuple[str, ...],
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> list[Any]: ...

    def call(
        self,
        target: str | list[str] | tuple[str, ...],
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> Any:
        """Calls `plugin.method` and returns its result.

        Every name is the method's, except `timeout_`: the seconds after which `Timeout` is raised
        (30 unless the endpoint says otherwise, and never longer than the handler that calls has
        itself). Arguments may also be given as a map.

        With a list of targets all are called at once, and the list that comes back has, in their
        order, the result or the PlugbusError of each.

        Raises the error that the other side answered: NotFound, Offline, Timeout, Denied,
        Cancelled, PeerDied, Refused, InvalidArgument, HandlerFailed …, or BrokerGone.
        """
        conn = self._blocking()
        if isinstance(target, str):
            return self._finish(conn, self._begin(conn, target, arguments, named, timeout_))
        calls = [self._begin(conn, each, arguments, named, timeout_) for each in target]
        return [_outcome(self._finish, conn, call) for call in calls]

    @overload
    def send(
        self, target: str, value: Any, *, wait: bool = False, timeout: float | None = None
    ) -> None: ...

    @overload
    def send(
        self,
        target: list[str] | tuple[str, ...],
        value: Any,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None]: ...

    def send(
        self,
        target: str | list[str] | tuple[str, ...],
        value: Any,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None] | None:
        """Sends a message down a channel, `plugin/channel`, or to a plugin's inbox, `plugin`.

        Returns when the message is on its way, in order after those before it; while the channel's
        window is used up it waits. With `wait` it returns when the receiver's handler has returned.
        `timeout` is in seconds, None for no limit; at its end Timeout is raised, which with `wait`
        leaves the message on its way.

        With a list of targets, a list with None or the PlugbusError of each.

        Raises NotFound, Denied, Timeout, MessageLost (with `wait`), BrokerGone …
        """
        content, body = encode(value)
        return self._post_all("channel", target, content, 0, body, wait, timeout)

    @overload
    def publish(
        self,
        topic: str,
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None: ...

    @overload
    def publish(
        self,
        topic: list[str] | tuple[str, ...],
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None]: ...

    def publish(
        self,
        topic: str | list[str] | tuple[str, ...],
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None] | None:
        """Publishes an event on a topic, or on each of several topics.

        Newer events with the same `key` (not 0) may replace older ones for subscribers that
        conflate. `wait`, `timeout` and errors are those of `send`.
        """
        content, body = encode(value)
        return self._post_all("topic", topic, content, key, body, wait, timeout)

    def broadcast(
        self,
        topic: str,
        value: Any = None,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Sends an event to every ready plugin, whether it subscribed or not."""
        content, body = encode(value)
        self._post("broadcast", topic, content, 0, body, wait, timeout)

    def flush(self, target: str | None = None, *, timeout: float | None = None) -> None:
        """Waits until everything sent so far is settled: on one channel, or everywhere.

        Raises MessageLost if the broker gave some of it up, Timeout after `timeout` seconds.
        """
        conn = self._blocking()
        deadline = _until(timeout)
        names = conn.names() if target is None else [("channel", _channel(target))]
        failure: PlugbusError | None = None
        for kind, name in names:
            reply = Waiting()
            conn.watch(kind, name, reply)
            try:
                self._hold(conn, reply, deadline, f"{kind} {name} was not settled in time")
            except PlugbusError as error:
                failure = failure or error
        if failure:
            raise failure

    def subscribe(
        self,
        pattern: str,
        *,
        overflow: str = "drop-oldest",
        queue_messages: int | None = None,
        queue_bytes: int | None = None,
    ) -> Subscription:
        """Events whose topic fits the pattern, to iterate over: `for event in …`.

        `*` stands for one word and a final `>` for the rest. The subscription is closed with
        `close()` or by leaving its `with` block. At most `queue_messages` and `queue_bytes` wait
        for whoever iterates; what is shed beyond them counts in `missed`.
        """
        subscription = Subscription(self, pattern, overflow, queue_messages, queue_bytes)
        self._add_sink(subscription)
        try:
            body = self._ask(_wire.SUBSCRIBE, subscription.options())
        except BaseException:
            self._remove_sink(subscription)
            raise
        subscription.number = body.get("subscription")
        return subscription

    def on_gap(self, handler: GapHandler) -> GapHandler:
        """Calls `handler(gap)` when events were shed; without one, a warning is logged.

        It runs on the connection's own thread, so it must return at once.
        """
        self._gap_handlers.append(handler)
        return handler

    def plugins(self) -> list[dict[str, Any]]:
        """Who is there: id, state, role, incarnation, channels …"""
        found = self._ask(_wire.QUERY, {"what": "plugins"}).get("plugins")
        return found if isinstance(found, list) else []

    def describe(self, plugin: str) -> dict[str, Any]:
        """What one plugin serves: its methods with help and schema, its channels and services."""
        return self._ask(_wire.QUERY, {"what": "plugin", "id": plugin})

    def status(self) -> dict[str, Any]:
        """The broker's own account of itself."""
        return self._ask(_wire.QUERY, {"what": "status"})

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Leaves figures about ourselves for the broker's status, at most 4 KiB."""
        self._ask(_wire.REPORT, {"metrics": dict(metrics)})

    def _send_signal(self, name: str, to: str | None, data: Any) -> None:
        body: dict[str, Any] = {"name": name}
        if to is not None:
            body["to"] = to
        if data is not None:
            body["data"] = data
        self._connection().notice(_wire.SIGNAL, body)

    # --- Inside ----------------------------------------------------------------------------

    def _connection(self) -> Connection:
        if self._link is None:
            raise RuntimeError("not connected yet: call start() or run() first")
        return self._link

    def _blocking(self) -> Connection:
        """The connection, for a method that may block its thread."""
        return self._connection()

    def _call(
        self,
        reply: Reply,
        target: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        timeout: float | None,
    ) -> Call:
        context = _current.get()
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        trace: bytes | None = None
        if context is not None:
            if context.cancelled:
                raise Cancelled("the caller of this handler has gone")
            if context.deadline is not None:
                deadline = min(deadline, context.deadline)
            trace = context.trace if any(context.trace) else None
        body = _msgpack.pack({**arguments, **named} if arguments else named)
        return Call(reply, target, body, deadline, trace)

    def _begin(
        self,
        conn: Connection,
        target: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        timeout: float | None,
    ) -> Call:
        call = self._call(Waiting(), target, arguments, named, timeout)
        conn.call(call)
        return call

    def _finish(self, conn: Connection, call: Call) -> Any:
        reply = call.reply
        assert isinstance(reply, Waiting)
        context = _current.get()
        if context is None:
            self._wait_call(conn, call, reply)
        else:

            def abort() -> None:
                if conn.withdraw(call, True):
                    reply.error = Cancelled("the caller of this handler has gone")
                    reply.notify()

            context._enter(abort)
            try:
                self._wait_call(conn, call, reply)
            finally:
                context._leave(abort)
        return _result(call)

    def _wait_call(self, conn: Connection, call: Call, reply: Waiting) -> None:
        try:
            if reply.wait(call.deadline - time.monotonic()):
                return
        except BaseException:
            conn.withdraw(call, True)
            raise
        if conn.withdraw(call, False):
            raise _late(call)
        reply.wait(None)  # The outcome is on its way from another thread.

    def _post_all(
        self,
        kind: str,
        target: str | list[str] | tuple[str, ...],
        content: int,
        key: int,
        body: bytes,
        wait: bool,
        timeout: float | None,
    ) -> list[PlugbusError | None] | None:
        if isinstance(target, str):
            self._post(kind, target, content, key, body, wait, timeout)
            return None
        return [
            _outcome(self._post, kind, each, content, key, body, wait, timeout) for each in target
        ]

    def _post(
        self,
        kind: str,
        name: str,
        content: int,
        key: int,
        body: bytes,
        wait: bool,
        timeout: float | None,
    ) -> None:
        conn = self._blocking()
        if kind == "channel" and "/" not in name:
            name += "/inbox"
        context = _current.get()
        trace = None if context is None else _trace_of(context)
        deadline: float | None = -1.0
        while True:
            sent, reply = conn.post(kind, name, content, key, trace, body, Waiting, wait)
            if reply is None:
                return
            if deadline == -1.0:
                deadline = _until(timeout)
            assert isinstance(reply, Waiting)
            self._hold(conn, reply, deadline, f"the window of {kind} {name} is used up")
            if sent:
                return

    def _hold(self, conn: Connection, reply: Waiting, deadline: float | None, late: str) -> None:
        try:
            inside = reply.wait(None if deadline is None else deadline - time.monotonic())
        except BaseException:
            conn.forget(reply)
            raise
        if not inside:
            if conn.forget(reply):
                raise Timeout(late)
            reply.wait(None)
        if reply.error is not None:
            raise reply.error.with_traceback(None)

    def _ask(self, kind: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a control frame and waits for the answer."""
        conn = self._blocking()
        reply = Waiting()
        conn.control(kind, body, reply)
        self._hold(conn, reply, _until(CONTROL_TIMEOUT), "the broker did not answer")
        return reply.value if isinstance(reply.value, dict) else {}

    def _add_sink(self, sink: Sink) -> None:
        self._sinks = [*self._sinks, sink]
        self._sinks_version += 1

    def _remove_sink(self, sink: Sink) -> None:
        self._sinks = [each for each in self._sinks if each is not sink]
        self._sinks_version += 1

    def handle_batch(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        """Events go to everybody here whose pattern fits, each with its own queue."""
        known = route.sink
        if known is None or known[0] != self._sinks_version:
            fitting = [each for each in self._sinks if matches(each.pattern, route.name)]
            known = route.sink = (self._sinks_version, fitting)
        for sink in known[1]:
            sink.push(route, frames)

    def handle_gap(self, route: InRoute, first: int, last: int, cause: str) -> None:
        """Events or messages that will never come."""
        gap = Gap(route.name, route.sender, first, last, cause)
        if route.kind != "channel":
            for sink in self._sinks:
                if matches(sink.pattern, route.name):
                    sink.miss(gap.count)
        if not self._gap_handlers:
            log.warning("%r", gap)
        for handler in self._gap_handlers:
            try:
                handler(gap)
            except Exception:
                log.exception("the handler of gaps failed")

    def handle_request(self, incoming: Any) -> None:
        """A client serves nothing."""
        error = InvalidArgument("this session serves no methods", code=10001)
        self._connection().answer(incoming, _wire.ERROR, _msgpack.pack(error.body()))

    def handle_end(self, error: PlugbusError | None) -> None:
        """Whoever iterates over events has to know."""
        for sink in self._sinks:
            sink.end(error)


class AsyncEndpoint:
    """The words of an endpoint as coroutines, for any asyncio loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        # The endpoint owns this view, so it must stay alive as long as the view is used.
        self._endpoint = endpoint

    @overload
    async def call(
        self,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> Any: ...

    @overload
    async def call(
        self,
        target: list[str] | tuple[str, ...],
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> list[Any]: ...

    async def call(
        self,
        target: str | list[str] | tuple[str, ...],
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout_: float | None = None,
        **named: Any,
    ) -> Any:
        """Calls `plugin.method`: see `Endpoint.call`. Cancelling the task cancels the call."""
        if isinstance(target, str):
            return await self._call(target, arguments, named, timeout_)
        return await _outcomes([self._call(each, arguments, named, timeout_) for each in target])

    @overload
    async def send(
        self, target: str, value: Any, *, wait: bool = False, timeout: float | None = None
    ) -> None: ...

    @overload
    async def send(
        self,
        target: list[str] | tuple[str, ...],
        value: Any,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None]: ...

    async def send(
        self,
        target: str | list[str] | tuple[str, ...],
        value: Any,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None] | None:
        """Sends a message down a channel: see `Endpoint.send`."""
        content, body = encode(value)
        return await self._post_all("channel", target, content, 0, body, wait, timeout)

    @overload
    async def publish(
        self,
        topic: str,
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None: ...

    @overload
    async def publish(
        self,
        topic: list[str] | tuple[str, ...],
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None]: ...

    async def publish(
        self,
        topic: str | list[str] | tuple[str, ...],
        value: Any = None,
        *,
        key: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[PlugbusError | None] | None:
        """Publishes an event: see `Endpoint.publish`."""
        content, body = encode(value)
        return await self._post_all("topic", topic, content, key, body, wait, timeout)

    async def broadcast(
        self,
        topic: str,
        value: Any = None,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Sends an event to every ready plugin: see `Endpoint.broadcast`."""
        content, body = encode(value)
        await self._post("broadcast", topic, content, 0, body, wait, timeout)

    async def flush(self, target: str | None = None, *, timeout: float | None = None) -> None:
        """Waits until everything sent so far is settled: see `Endpoint.flush`."""
        conn = self._endpoint._connection()
        deadline = _until(timeout)
        names = conn.names() if target is None else [("channel", _channel(target))]
        failure: PlugbusError | None = None
        for kind, name in names:
            reply = Awaiting(asyncio.get_running_loop())
            conn.watch(kind, name, reply)
            try:
                await _hold(conn, reply, deadline, f"{kind} {name} was not settled in time")
            except PlugbusError as error:
                failure = failure or error
        if failure:
            raise failure

    async def _call(
        self,
        target: str,
        arguments: Mapping[str, Any] | None,
        named: Mapping[str, Any],
        timeout: float | None,
    ) -> Any:
        endpoint = self._endpoint
        conn = endpoint._connection()
        loop = asyncio.get_running_loop()
        reply = Awaiting(loop)
        call = endpoint._call(reply, target, arguments, named, timeout)

        def expire() -> None:
            if conn.withdraw(call, False):
                reply.error = _late(call)
                reply._resolve()

        conn.call(call, lazy=True)
        timer = loop.call_later(max(0.0, call.deadline - time.monotonic()), expire)
        try:
            await reply.future
        except asyncio.CancelledError:
            conn.withdraw(call, True)
            raise
        finally:
            timer.cancel()
        return _result(call)

    async def _post_all(
        self,
        kind: str,
        target: str | list[str] | tuple[str, ...],
        content: int,
        key: int,
        body: bytes,
        wait: bool,
        timeout: float | None,
    ) -> list[PlugbusError | None] | None:
        if isinstance(target, str):
            await self._post(kind, target, content, key, body, wait, timeout)
            return None
        return await _outcomes(
            [self._post(kind, each, content, key, body, wait, timeout) for each in target]
        )

    async def _post(
        self,
        kind: str,
        name: str,
        content: int,
        key: int,
        body: bytes,
        wait: bool,
        timeout: float | None,
    ) -> None:
        conn = self._endpoint._connection()
        if kind == "channel" and "/" not in name:
            name += "/inbox"
        context = _current.get()
        trace = None if context is None else _trace_of(context)
        loop = asyncio.get_running_loop()
        deadline: float | None = -1.0
        while True:
            sent, reply = conn.post(
                kind, name, content, key, trace, body, lambda: Awaiting(loop), wait
            )
            if reply is None:
                return
            if deadline == -1.0:
                deadline = _until(timeout)
            assert isinstance(reply, Awaiting)
            await _hold(conn, reply, deadline, f"the window of {kind} {name} is used up")
            if sent:
                return


class Client(Endpoint):
    """A session that calls and listens, and serves nothing: what `plugbus.connect` returns."""

    def __init__(self, conn: Connection, timeout: float) -> None:
        super().__init__(timeout)
        self._link = conn
        self._finalizer: Callable[[], object] | None = None

    def signal(self, name: str, *, to: str, data: Any = None) -> None:
        """Sends a signal to a plugin: `shutdown`, `reload`, `health-check` or `wake`."""
        self._send_signal(name, to, data)

    def close(self) -> None:
        """Leaves the broker. What waits for an answer fails with BrokerGone."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Relay(Delegate):
    """Between a connection, which lives in its thread, and a client that may be forgotten."""

    def __init__(self) -> None:
        self.target: Callable[[], Client | None] = lambda: None

    def handle_batch(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        client = self.target()
        if client is not None:
            client.handle_batch(route, frames)

    def handle_gap(self, route: InRoute, first: int, last: int, cause: str) -> None:
        client = self.target()
        if client is not None:
            client.handle_gap(route, first, last, cause)

    def handle_request(self, incoming: Any) -> None:
        client = self.target()
        if client is not None:
            client.handle_request(incoming)

    def handle_end(self, error: PlugbusError | None) -> None:
        client = self.target()
        if client is not None:
            client.handle_end(error)


def connect(
    socket: str | None = None,
    name: str | None = None,
    *,
    timeout: float = 30.0,
    checksum: bool = False,
) -> Client:
    """Joins a broker as a client, to call and to listen.

    `socket` is the path of its socket; without one it is the connection that the broker handed
    down, the one that PLUGBUS_SOCKET names, or the default broker. `name` is the id that the client
    would like; without one the broker makes it. `timeout` is how many seconds calls may take.

    Raises NoBroker if nobody is there, HandshakeRefused if the broker does not let us in.
    """
    sock = inherited_socket() if socket is None else None
    if sock is None:
        sock = connect_socket(socket or default_socket())
    relay = _Relay()
    conn = Connection(sock, relay, checksum)
    hello: dict[str, Any] = {"role": "client", "sdk": f"python/{VERSION}", "pid": os.getpid()}
    if name is not None:
        hello["id"] = name
    client = Client(conn, timeout)
    relay.target = weakref.ref(client)
    conn.handshake(hello)
    # Leaving on purpose is told apart from dying, so a script that just ends says goodbye too.
    client._finalizer = weakref.finalize(client, conn.leave, "done")
    return client


class Sink:
    """Something that takes events."""

    pattern: str

    def push(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        """A run of events of one topic, in order."""

    def miss(self, count: int) -> None:
        """So many events were shed."""

    def end(self, error: PlugbusError | None) -> None:
        """No more events will come."""


class Subscription(Sink):
    """Events to iterate over, in a thread (`for`) or in a coroutine (`async for`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        pattern: str,
        overflow: str,
        queue_messages: int | None,
        queue_bytes: int | None,
    ) -> None:
        check_overflow(overflow)
        self.pattern = pattern
        #: The broker's number of this subscription.
        self.number: Any = None
        #: How many events were shed so far, by the broker or here.
        self.missed = 0
        self._endpoint = endpoint
        self._overflow = overflow
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._count_max, self._size_max = queue_bounds(overflow, queue_messages, queue_bytes)
        self._events: deque[Event] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._wakers: list[Awaiting] = []
        self._ended = False
        self._error: PlugbusError | None = None

    def options(self) -> dict[str, Any]:
        """The body of the subscribe frame."""
        return subscribe_body(self.pattern, self._overflow, self._queue_messages, self._queue_bytes)

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None after `timeout` seconds or when the subscription was closed.

        Raises BrokerGone if the broker is lost.
        """
        deadline = _until(timeout)
        with self._changed:
            while not self._events and not self._ended:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            return self._pop()

    def close(self) -> None:
        """Ends the subscription; what is already here can still be iterated over."""
        if not self._ended:
            self.end(None)
            self._endpoint._remove_sink(self)
            reply = Waiting()
            body = {"subscription": self.number}
            self._endpoint._connection().control(_wire.UNSUBSCRIBE, body, reply)

    def push(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        shed = 0
        with self._changed:
            for frame in frames:
                size = len(frame[7])
                while self._events and (
                    len(self._events) >= self._count_max or self._size + size > self._size_max
                ):
                    shed += 1
                    if self._overflow in ("drop-newest", "block"):
                        break
                    self._size -= len(self._events.popleft().payload)
                else:
                    self._events.append(Event(frame, route))
                    self._size += size
            self.missed += shed
            self._wake()
        if shed:
            log.warning("%d events of %s were shed: nobody reads them", shed, self.pattern)

    def miss(self, count: int) -> None:
        self.missed += count

    def end(self, error: PlugbusError | None) -> None:
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            waker.notify()

    def _pop(self) -> Event | None:
        if self._events:
            event = self._events.popleft()
            self._size -= len(event.payload)
            return event
        if self._error is not None:
            raise self._error.with_traceback(None)
        return None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._changed:
                if self._events or self._ended:
                    event = self._pop()
                    if event is None:
                        raise StopAsyncIteration
                    return event
                waker = Awaiting(asyncio.get_running_loop())
                self._wakers.append(waker)
            await waker.future

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


OVERFLOWS = ("drop-oldest", "drop-newest", "conflate", "block")


def check_overflow(overflow: str) -> None:
    """Raises ValueError for a policy that does not exist."""
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow must be one of {', '.join(OVERFLOWS)}, not {overflow!r}")


def subscribe_body(
    pattern: str, overflow: str, queue_messages: int | None, queue_bytes: int | None
) -> dict[str, Any]:
    """The body of a subscribe frame."""
    body: dict[str, Any] = {"pattern": pattern, "overflow": overflow}
    if queue_messages is not None:
        body["queue_messages"] = queue_messages
    if queue_bytes is not None:
        body["queue_bytes"] = queue_bytes
    return body


def queue_bounds(
    overflow: str, queue_messages: int | None, queue_bytes: int | None
) -> tuple[int, int]:
    """How many events and bytes may wait in this process for one subscription."""
    if overflow == "block":
        return BLOCKED_MESSAGES, BLOCKED_BYTES
    return queue_messages or QUEUE_MESSAGES, queue_bytes or QUEUE_BYTES


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic fits a pattern."""
    wanted = pattern.split(".")
    words = topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(words) <= len(wanted):
            return False
    elif len(words) != len(wanted):
        return False
    return all(want in ("*", word) for want, word in zip(wanted, words))


def _result(call: Call) -> Any:
    reply = call.reply
    error = reply.error
    if error is not None:
        if error.details.get("field") == "timeout" and "`timeout`" in error.message:
            error.args = (f"{error.message} (the deadline of a call is `timeout_`)",)
        raise error.with_traceback(None)
    frame = reply.value
    try:
        return decode((frame[1] >> _wire.CONTENT_SHIFT) & 0xF, frame[7])
    except ValueError as failure:
        raise PlugbusError(f"the result of {call.target} cannot be read: {failure}") from None


def _late(call: Call) -> Timeout:
    return Timeout(f"{call.target} did not answer in time")


def _channel(target: str) -> str:
    return target if "/" in target else target + "/inbox"


def _trace_of(context: Context) -> bytes | None:
    return context.trace if any(context.trace) else None


def _until(timeout: float | None) -> float | None:
    """The end of a wait: after `timeout` seconds, or with the deadline of the waiting handler."""
    context = _current.get()
    limit = None if context is None else context.deadline
    if timeout is None:
        return limit
    deadline = time.monotonic() + timeout
    return deadline if limit is None else min(deadline, limit)


def _outcome(step: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return step(*arguments)
    except PlugbusError as error:
        return error


async def _outcomes(steps: Sequence[Any]) -> list[Any]:
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, PlugbusError):
            raise result
    return list(results)


async def _hold(conn: Connection, reply: Awaiting, deadline: float | None, late: str) -> None:
    loop = asyncio.get_running_loop()

    def expire() -> None:
        if conn.forget(reply):
            reply.error = Timeout(late)
            reply._resolve()

    timer = None
    if deadline is not None:
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), expire)
    try:
        await reply.future
    except asyncio.CancelledError:
        conn.forget(reply)
        raise
    finally:
        if timer is not None:
            timer.cancel()
    if reply.error is not None:
        raise reply.error.with_traceback(None)
