"""A plugin: what it serves, how it starts, and how it leaves.

A plugin declares its handlers, then `run()` joins the broker, serves until the broker or a signal
says that it is time to go, finishes what it is doing, and returns.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import re
import signal as os_signal
import threading
import time
from collections.abc import Mapping
from typing import (
    Any,
    Callable,
    TypeVar,
    overload,
)

from . import _msgpack, _wire
from ._client import (
    VERSION,
    Endpoint,
    Sink,
    check_overflow,
    queue_bounds,
    subscribe_body,
)
from ._errors import (
    Denied,
    HandlerFailed,
    HandshakeRefused,
    InvalidArgument,
    NotFound,
    PlugbusError,
    Refused,
    ShuttingDown,
)
from ._lanes import Bridge, Lane, LaneHost, LoopThread, Pool, log
from ._loop import Connection, connect_socket, default_socket, inherited_socket
from ._peer import Incoming, InRoute
from ._schema import Signature
from ._types import Context, Event, Message, Signal, _current, decode

F = TypeVar("F", bound=Callable[..., Any])

_ID = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
_METHOD = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_SIGNALS = ("shutdown", "reload", "health-check", "wake")
_STATES = ("ready", "busy", "sleeping", "failed")
GONE_DRAIN = 1.0  # Seconds that handlers have to return once the broker is lost.
_END = "end"


class Plugin(Endpoint, LaneHost):
    """A participant with an id, methods and channels.

    `id` may be left out where the broker starts the plugin: it is the one from the configuration
    (PLUGBUS_ID), and any other is refused. Plain functions run on at most `threads` threads;
    `timeout` is how many seconds calls may take unless they say otherwise; `drain` is how many
    seconds handlers have to return when the plugin leaves.

    Raises HandshakeRefused for an id that is not the expected one, ValueError for one outside the
    grammar.
    """

    def __init__(
        self,
        id: str | None = None,
        *,
        threads: int | None = None,
        timeout: float = 30.0,
        drain: float = 5.0,
        checksum: bool = False,
        services: tuple[str, ...] = (),
    ) -> None:
        super().__init__(timeout)
        # Taken at once, so that no process that the plugin starts finds it.
        self._inherited = inherited_socket()
        expected = os.environ.get("PLUGBUS_ID")
        if self._inherited is not None:
            os.environ.pop("PLUGBUS_ID", None)
        try:
            self._id = _checked_id(id, expected, services)
        except BaseException:
            if self._inherited is not None:
                self._inherited.close()
            raise
        self.pool = Pool(min(32, (os.cpu_count() or 1) + 4) if threads is None else threads)
        self.leaving = False
        #: How many handlers of messages and events raised so far.
        self.failures = 0
        self._drain_time = drain
        self._checksum = checksum
        self._services = list(services)
        self._methods: dict[str, _Method] = {}
        self._channels: dict[str, _Channel] = {}
        self._handlers: list[_Handler] = []
        self._signals: dict[str, list[Callable[..., Any]]] = {}
        self._loop_thread: LoopThread | None = None
        self._loop_lock = threading.Lock()
        self._endings: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: PlugbusError | None = None
        self._work = 0
        self._quiet = threading.Condition()

    # --- Declaring -------------------------------------------------------------------------

    @overload
    def method(self, function: F, /) -> F: ...

    @overload
    def method(
        self, function: None = None, /, *, name: str | None = None, idempotent: bool = False
    ) -> Callable[[F], F]: ...

    def method(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Serves a function as `id.name`.

        Its parameters are the arguments, by name; their hints are checked before it runs. What it
        returns is the result. An `idempotent` method may be called again by the broker where the
        outcome of the first call is not known.

        Raises TypeError for hints without JSON Schema, ValueError for a name outside the grammar.
        """

        def declare(function: F) -> F:
            self._still_declaring()
            chosen = name or function.__name__
            _check_name(_METHOD, "method", chosen)
            if chosen in self._methods:
                raise ValueError(f"there are two methods called `{chosen}`")
            self._methods[chosen] = _Method(chosen, function, idempotent)
            return function

        return declare if function is None else declare(function)

    def channel(self, name: str) -> Callable[[F], F]:
        """Gives messages of a channel to a function: `def on_inbox(message)`.

        Messages of one sender come one at a time, in order; they are acknowledged when the function
        has returned. A function that raises has handled its message too: the error goes to the log,
        and the next message comes.
        """

        def declare(function: F) -> F:
            self._still_declaring()
            _check_name(_CHANNEL, "channel", name)
            if name in self._channels:
                raise ValueError(f"there are two handlers for the channel `{name}`")
            self._channels[name] = _Channel(name, function)
            return function

        return declare

    def on(
        self,
        pattern: str,
        *,
        overflow: str = "drop-oldest",
        queue_messages: int | None = None,
        queue_bytes: int | None = None,
    ) -> Callable[[F], F]:
        """Gives events whose topic fits the pattern to a function: `def on_order(event)`.

        One at a time, in the order in which they came. `overflow` says what happens when they come
        faster than the function takes them: `drop-oldest`, `drop-newest`, `conflate` or `block`.
        """
        check_overflow(overflow)

        def declare(function: F) -> F:
            self._still_declaring()
            bounds = queue_bounds(overflow, queue_messages, queue_bytes)
            keep_oldest = overflow in ("drop-newest", "block")
            is_async = inspect.iscoroutinefunction(function)
            lane = Lane(function, is_async, Event, self, bounds, keep_oldest)
            body = subscribe_body(pattern, overflow, queue_messages, queue_bytes)
            self._handlers.append(_Handler(pattern, lane, body))
            return function

        return declare

    @overload
    def signal(self, name: str) -> Callable[[F], F]: ...

    @overload
    def signal(self, name: str, *, to: str, data: Any = None) -> None: ...

    def signal(
        self, name: str, *, to: str | None = None, data: Any = None
    ) -> Callable[[F], F] | None:
        """As a decorator: gives a signal to a function with one argument or none.

        With `to`: sends the signal to another plugin. The names are `shutdown`, `reload`,
        `health-check` and `wake`. Without a function for it, `shutdown` ends the plugin.
        """
        if name not in _SIGNALS:
            raise ValueError(f"a signal is one of {', '.join(_SIGNALS)}, not {name!r}")
        if to is not None:
            self._send_signal(name, to, data)
            return None

        def declare(function: F) -> F:
            self._signals.setdefault(name, []).append(function)
            return function

        return declare

    # --- Life ------------------------------------------------------------------------------

    def state(self, name: str) -> None:
        """Tells the broker how we are: `ready`, `busy`, `sleeping` or `failed`."""
        if name not in _STATES:
            raise ValueError(f"a state is one of {', '.join(_STATES)}, not {name!r}")
        self._send_signal(name, None, None)

    def run(self) -> None:
        """Joins the broker and serves until it is time to leave; then returns.

        The broker's `shutdown`, SIGTERM and SIGINT lead to an orderly end: handlers finish, what
        they did is acknowledged, and the broker is told. If the broker vanishes, the process exits
        with status 1.

        Raises NoBroker, or HandshakeRefused, where it cannot join.
        """
        with _SignalsOf(self._endings):
            self.start()
            self.wait()

    def start(self) -> None:
        """Joins the broker and returns when everything is served. Raises as `run` does."""
        if self._link is not None:
            raise RuntimeError("the plugin runs already")
        sock = self._inherited or connect_socket(default_socket())
        conn = Connection(sock, self, self._checksum)
        hello = {
            "id": self._id,
            "role": "plugin",
            "sdk": f"python/{VERSION}",
            "pid": os.getpid(),
        }
        self._sinks = [*self._sinks, *self._handlers]
        self._link = conn
        try:
            conn.handshake(hello)
        except BaseException:
            self._link = None
            raise
        try:
            self._ask(_wire.REGISTER, self._registration())
            for handler in self._handlers:
                self._ask(_wire.SUBSCRIBE, handler.body)
        except BaseException:
            conn.leave("could not start")
            raise
        self.state("ready")

    def wait(self) -> None:
        """Waits until the plugin has left; exits with status 1 if the broker vanished."""
        while True:
            ending = self._endings.get()
            if ending == _END:
                break
            self.stop(ending)
        if self._error is not None:
            self.leaving = True
            self._await_quiet(GONE_DRAIN)
            self._stop_loop()
            log.error("%s: %s", self._id, self._error.message)
            raise SystemExit(1) from self._error

    def stop(self, reason: str = "stopped") -> None:
        """Leaves in order: lets handlers finish, acknowledges, says goodbye, closes."""
        self._leave(reason, self._drain_time)

    def _leave(self, reason: str, drain: float) -> None:
        with self._quiet:
            if self.leaving:
                return
            self.leaving = True
        if not self._await_quiet(drain):
            log.warning("%s: handlers still run after %g s; leaving them", self._id, drain)
        self._connection().leave(reason)
        self._stop_loop()

    def _await_quiet(self, seconds: float) -> bool:
        with self._quiet:
            return self._quiet.wait_for(lambda: self._work == 0, seconds)

    def _stop_loop(self) -> None:
        with self._loop_lock:
            thread, self._loop_thread = self._loop_thread, None
        if thread is not None:
            thread.stop(1.0)

    def _registration(self) -> dict[str, Any]:
        return {
            "methods": [method.description() for method in self._methods.values()],
            "channels": [channel.description() for channel in self._channels.values()],
            "services": self._services,
        }

    def _still_declaring(self) -> None:
        if self._link is not None:
            raise RuntimeError("handlers are declared before run()")

    def _blocking(self) -> Connection:
        thread = self._loop_thread
        if thread is not None and threading.current_thread() is thread.thread:
            raise RuntimeError(
                "this would block the plugin's event loop: use `await plugin.aio.…` in `async def`"
            )
        return self._connection()

    # --- From the connection ---------------------------------------------------------------

    def handle_announce(self, route: InRoute) -> None:
        if route.kind == "channel":
            channel = self._channels.get(route.name)
            if channel is None:
                # What comes is acknowledged, so that its sender does not wait for ever.
                log.warning("%s sends to %s, which nobody reads", route.sender, route.name)
            function = channel.function if channel else _ignore
            is_async = inspect.iscoroutinefunction(function)
            route.sink = Lane(function, is_async, Message, self)

    def handle_batch(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        if route.kind == "channel":
            route.sink.push(route, frames)
        else:
            super().handle_batch(route, frames)

    def handle_request(self, incoming: Incoming) -> None:
        method = self._methods.get(incoming.route.name)
        if method is None:
            error = NotFound(f"{self._id} has no method `{incoming.route.name}`")
            self._connection().answer(incoming, _wire.ERROR, _msgpack.pack(error.body()))
            return
        if self.leaving:
            leaving = ShuttingDown(f"{self._id} is leaving")
            self._connection().answer(incoming, _wire.ERROR, _msgpack.pack(leaving.body()))
            return
        incoming.context = Context(
            incoming.route.sender, incoming.session, _deadline_of(incoming), incoming.trace
        )
        self.lane_started()
        if method.is_async:
            self.loop_bridge().post(self._spawn, incoming, method)
        else:
            self.pool.submit(lambda: self._serve(incoming, method))

    def handle_cancel(self, incoming: Incoming) -> None:
        context = incoming.context
        if context is None:
            return
        context._cancel()
        thread = self._loop_thread
        if thread is not None:
            thread.bridge.post(_cancel_task, incoming)

    def handle_signal(self, body: Mapping[str, Any]) -> None:
        signal = Signal(str(body.get("name")), str(body.get("from") or ""), body.get("data"))
        handlers = self._signals.get(signal.name, [])
        for handler in handlers:
            self._run_signal(handler, signal)
        if signal.name == "shutdown" and not handlers:
            self._leave_soon("shutdown signal", self._drain_time)

    def handle_shutdown(self, body: Mapping[str, Any]) -> None:
        drain = body.get("drain_ms")
        seconds = drain / 1000 if isinstance(drain, int) and drain > 0 else self._drain_time
        self._leave_soon(str(body.get("reason") or "shutdown"), min(seconds, self._drain_time))

    def handle_end(self, error: PlugbusError | None) -> None:
        super().handle_end(error)
        self._error = error
        self._endings.put(_END)

    def _leave_soon(self, reason: str, drain: float) -> None:
        # Not here: this is the reader's thread, which handlers need while they finish.
        threading.Thread(
            target=self._leave, args=(reason, drain), name="plugbus-leave", daemon=True
        ).start()

    # --- From lanes ------------------------------------------------------------------------

    def loop_bridge(self) -> Bridge:
        thread = self._loop_thread
        if thread is None:
            with self._loop_lock:
                if self._loop_thread is None:
                    self._loop_thread = LoopThread()
                thread = self._loop_thread
        return thread.bridge

    def acknowledge(self, route: InRoute) -> None:
        self._connection().acknowledge(route)

    def lane_started(self) -> None:
        with self._quiet:
            self._work += 1

    def lane_ended(self) -> None:
        with self._quiet:
            self._work -= 1
            if self._work == 0 and self.leaving:
                self._quiet.notify_all()

    def lane_failed(self) -> None:
        self.failures += 1

    def lane_shed(self, route: InRoute, first: int, last: int) -> None:
        self.handle_gap(route, first, last, "the handler is too slow")

    # --- Serving ---------------------------------------------------------------------------

    def _serve(self, incoming: Incoming, method: _Method) -> None:
        kind, body = _wire.ERROR, b""
        if self._still_wanted(incoming):
            token = _current.set(incoming.context)
            try:
                result = method.function(**method.bind(incoming))
                kind, body = _wire.RESPONSE, _msgpack.pack(result)
            except BaseException as error:  # A handler that calls sys.exit() has failed, no more.
                body = self._failure(method, error)
            finally:
                _current.reset(token)
        self._connection().answer(incoming, kind, body)
        self.lane_ended()

    def _spawn(self, incoming: Incoming, method: _Method) -> None:
        incoming.task = asyncio.ensure_future(self._serve_async(incoming, method))

    async def _serve_async(self, incoming: Incoming, method: _Method) -> None:
        kind, body = _wire.ERROR, b""
        try:
            if self._still_wanted(incoming):
                _current.set(incoming.context)
                result = await method.function(**method.bind(incoming))
                kind, body = _wire.RESPONSE, _msgpack.pack(result)
        except asyncio.CancelledError:
            body = self._failure(method, HandlerFailed("cancelled", "the handler was cancelled"))
        except (Exception, SystemExit) as error:
            body = self._failure(method, error)
        finally:
            self._connection().answer(incoming, kind, body)
            self.lane_ended()

    def _still_wanted(self, incoming: Incoming) -> bool:
        """Marks the begin of the handler; False where nobody waits for it any more."""
        deadline = incoming.context.deadline
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            incoming.cancelled = True
        incoming.began = now
        return not incoming.cancelled

    def _failure(self, method: _Method, error: BaseException) -> bytes:
        """The body that tells the caller what went wrong."""
        if isinstance(error, _DELIBERATE) and not error.remote:
            return _msgpack.pack(error.body())
        if isinstance(error, HandlerFailed):
            return _msgpack.pack(HandlerFailed(error.handler_code, error.message).body())
        log.error("method %s.%s failed", self._id, method.name, exc_info=error)
        details: dict[str, Any] = {}
        if isinstance(error, PlugbusError):
            code = error.name
            details["cause"] = error.body()
        else:
            code = type(error).__name__
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        try:
            return _msgpack.pack(HandlerFailed(code, message, details=details).body())
        except (TypeError, ValueError):
            return _msgpack.pack(HandlerFailed(code, message).body())

    def _run_signal(self, handler: Callable[..., Any], signal: Signal) -> None:
        arguments = (signal,) if _takes_argument(handler) else ()

        async def run_async() -> None:
            try:
                await handler(*arguments)
            except Exception:
                log.exception("the handler of signal %s failed", signal.name)
            finally:
                self.lane_ended()

        def run() -> None:
            try:
                handler(*arguments)
            except BaseException:
                log.exception("the handler of signal %s failed", signal.name)
            self.lane_ended()

        self.lane_started()
        if inspect.iscoroutinefunction(handler):
            self.loop_bridge().post(lambda: _keep(asyncio.ensure_future(run_async())))
        else:
            self.pool.submit(run)


class _Method:
    """A served function with what its hints say."""

    def __init__(self, name: str, function: Callable[..., Any], idempotent: bool) -> None:
        self.name = name
        self.function = function
        self.idempotent = idempotent
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = Signature(function)

    def bind(self, incoming: Incoming) -> dict[str, Any]:
        """The arguments of a request. Raises InvalidArgument."""
        content = (incoming.flags >> _wire.CONTENT_SHIFT) & 0xF
        if content not in (_wire.MSGPACK, _wire.JSON):
            raise InvalidArgument(
                f"the arguments have content type {content}", expected="MessagePack or JSON"
            )
        try:
            arguments = decode(content, incoming.body)
        except ValueError as error:
            raise InvalidArgument(f"the arguments cannot be read: {error}") from None
        return self.signature.bind(arguments)

    def description(self) -> dict[str, Any]:
        """What the broker and `plugbus list` know of it."""
        body: dict[str, Any] = {"name": self.name, "params": self.signature.schema}
        help_text = inspect.getdoc(self.function)
        if help_text:
            body["help"] = help_text
        if self.signature.result is not None:
            body["result"] = self.signature.result
        if self.idempotent:
            body["idempotent"] = True
        return body


class _Channel:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function

    def description(self) -> dict[str, Any]:
        help_text = inspect.getdoc(self.function)
        return {"name": self.name, "help": help_text} if help_text else {"name": self.name}


class _Handler(Sink):
    """One `@plugin.on`."""

    def __init__(self, pattern: str, lane: Lane, body: dict[str, Any]) -> None:
        self.pattern = pattern
        self.lane = lane
        self.body = body

    def push(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        self.lane.push(route, frames)


class _SignalsOf:
    """SIGTERM and SIGINT become endings; a second one does what it always did."""

    def __init__(self, endings: queue.SimpleQueue[str]) -> None:
        self._endings = endings
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (os_signal.SIGTERM, os_signal.SIGINT):
                self._previous[number] = os_signal.signal(number, self._caught)

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _caught(self, number: int, _frame: object) -> None:
        self._restore()
        self._endings.put(os_signal.Signals(number).name)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            os_signal.signal(number, previous)
        self._previous = {}


# What a handler may raise to answer with an error of that kind.
_DELIBERATE = (HandlerFailed, InvalidArgument, Denied, Refused, NotFound)
_tasks: set[asyncio.Future[Any]] = set()


def _keep(task: asyncio.Future[Any]) -> None:
    """The loop itself keeps only a weak reference to its tasks."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _cancel_task(incoming: Incoming) -> None:
    if incoming.task is not None:
        incoming.task.cancel()


def _ignore(message: Message) -> None:
    """The handler of an inbox that has none."""


def _takes_argument(function: Callable[..., Any]) -> bool:
    return bool(inspect.signature(function).parameters)


def _checked_id(id: str | None, expected: str | None, services: tuple[str, ...]) -> str:
    if id is None:
        id = expected
    if id is None:
        raise ValueError("a plugin needs an id: plugbus.Plugin('hello')")
    if expected is not None and id != expected:
        raise HandshakeRefused(
            f"the plugin calls itself `{id}`, but the broker expects `{expected}`",
            code=12002,
            details={"id": id, "expected": expected},
        )
    _check_name(_ID, "plugin id", id)
    for service in services:
        _check_name(_ID, "service", service)
    return id


def _check_name(grammar: re.Pattern[str], kind: str, name: str) -> None:
    if not isinstance(name, str) or not grammar.match(name):
        raise ValueError(f"{name!r} is not a {kind}: it must look like {grammar.pattern[:-2]}")


def _deadline_of(incoming: Incoming) -> float | None:
    milliseconds = incoming.deadline_ms
    if not milliseconds:
        return None
    left = milliseconds / 1000 - (time.time_ns() - incoming.stamp) / 1e9
    return time.monotonic() + left
