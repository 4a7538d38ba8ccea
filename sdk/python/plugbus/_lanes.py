"""Where handlers run: a bounded pool of threads, one asyncio loop, and lanes that keep order.

A lane hands a handler one thing at a time, in the order in which it came. Plain functions run on
the pool's threads, coroutines on the loop; a lane takes whole runs of messages, so that neither a
thread nor a task has to be woken for each of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable

from ._peer import InRoute, Reply
from ._types import Context, Delivery, _current
from ._wire import Frame

log = logging.getLogger("plugbus")

TURN = 0.01  # Seconds after which a lane lets others have its thread, if any wait.


class Pool:
    """Threads for plain functions, made when there is work for them, up to `threads_max`.

    A job goes straight to the thread that became idle last, whose caches are warm.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max = max(1, threads_max)
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle: list[_Worker] = []
        self._threads = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job`, which must not raise, on some thread."""
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.gate.release()
                return
            if self._threads >= self._threads_max:
                self._jobs.append(job)
                return
            self._threads += 1
            name = f"plugbus-worker-{self._threads}"
        threading.Thread(target=self._work, args=(job,), name=name, daemon=True).start()

    def crowded(self) -> bool:
        """Whether jobs wait for a thread."""
        return bool(self._jobs)

    def _work(self, job: Callable[[], None]) -> None:
        worker = _Worker()
        while True:
            job()
            with self._lock:
                if self._jobs:
                    job = self._jobs.popleft()
                    continue
                self._idle.append(worker)
            worker.gate.acquire()
            job = worker.job


class _Worker:
    __slots__ = ("gate", "job")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Callable[[], None] = _nothing


def _nothing() -> None:
    """The job of a worker that has none."""


class Bridge:
    """Into one asyncio loop from any thread, with one wake-up for many calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A bridge is found by its loop in a weak table, so it must not keep the loop alive.
        self._loop = weakref.ref(loop)
        self._posts: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls `function` on the loop soon; does nothing once the loop is closed."""
        self._posts.append((function, arguments))
        if self._woken:
            return
        self._woken = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._posts.clear()

    def _run(self) -> None:
        # First the flag: whoever posts from here on wakes the loop again.
        self._woken = False
        posts = self._posts
        while posts:
            function, arguments = posts.popleft()
            function(*arguments)


_bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bridge] = weakref.WeakKeyDictionary()


def bridge_to(loop: asyncio.AbstractEventLoop) -> Bridge:
    """The bridge into a loop; call it on the loop itself."""
    found = _bridges.get(loop)
    if found is None:
        found = _bridges[loop] = Bridge(loop)
    return found


class LoopThread:
    """The thread with the asyncio loop for coroutine handlers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.bridge = Bridge(self.loop)
        self.thread = threading.Thread(target=self._run, name="plugbus-loop", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def stop(self, timeout: float) -> None:
        """Cancels what still runs there and ends the thread, waiting at most `timeout` seconds."""
        self.bridge.post(self.loop.stop)
        if threading.current_thread() is not self.thread:
            self.thread.join(timeout)


class Waiting(Reply):
    """A reply for which a thread waits."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Lock()
        self._gate.acquire()

    def notify(self) -> None:
        self._gate.release()

    def wait(self, timeout: float | None) -> bool:
        """Waits at most `timeout` seconds; whether the outcome is there. Once only."""
        if timeout is None:
            return self._gate.acquire()
        return self._gate.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))


class Awaiting(Reply):
    """A reply for which a coroutine waits."""

    __slots__ = ("future", "_bridge")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.future: asyncio.Future[None] = loop.create_future()
        self._bridge = bridge_to(loop)

    def notify(self) -> None:
        self._bridge.post(self._resolve)

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Lane:
    """One handler's queue of runs: in order, one at a time.

    `bound` limits messages and bytes that wait here; None for channels, where the window of the
    sender does. What does not fit is shed with a receipt, the oldest first unless `keep_oldest`.
    """

    def __init__(
        self,
        handler: Callable[[Any], Any],
        is_async: bool,
        make: Callable[[Frame, InRoute], Delivery],
        host: LaneHost,
        bound: tuple[int, int] | None = None,
        keep_oldest: bool = False,
    ) -> None:
        self._handler = handler
        self._is_async = is_async
        self._make = make
        self._host = host
        self._bound = bound
        self._keep_oldest = keep_oldest
        self._lock = threading.Lock()
        self._runs: deque[tuple[InRoute, list[Frame], int]] = deque()
        self._count = 0
        self._size = 0
        self._active = False

    def push(self, route: InRoute, frames: list[Frame]) -> None:
        """Queues a run and makes sure that somebody works on it."""
        shed: list[tuple[InRoute, int, int]] = []
        with self._lock:
            size = 0
            if self._bound is not None:
                size = sum(len(frame[7]) for frame in frames)
                shed = self._make_room(len(frames), size)
            if shed and self._keep_oldest:
                shed = [(route, frames[0][3], frames[-1][3])]
            else:
                self._runs.append((route, frames, size))
                self._count += len(frames)
                self._size += size
            start = bool(self._runs) and not self._active
            self._active = self._active or start
        if start:
            self._host.lane_started()
            self._start()
        for each, first, last in shed:
            self._host.lane_shed(each, first, last)

    def _make_room(self, count: int, size: int) -> list[tuple[InRoute, int, int]]:
        shed: list[tuple[InRoute, int, int]] = []
        assert self._bound is not None
        messages_max, bytes_max = self._bound
        while self._runs and (self._count + count > messages_max or self._size + size > bytes_max):
            route, frames, old_size = self._runs[0]
            shed.append((route, frames[0][3], frames[-1][3]))
            if self._keep_oldest:
                break
            self._runs.popleft()
            self._count -= len(frames)
            self._size -= old_size
        return shed

    def _start(self) -> None:
        if self._is_async:
            self._host.loop_bridge().post(self._spawn)
        else:
            self._host.pool.submit(self._work)

    def _spawn(self) -> None:
        task = asyncio.ensure_future(self._work_async())
        # The loop itself keeps only a weak reference to its tasks.
        self._task = task

    def _next(self) -> tuple[InRoute, list[Frame]] | None:
        with self._lock:
            # What waits in a channel when the plugin leaves is not lost: it was not acknowledged.
            # Events would be, so they are handled.
            if not self._runs or (self._host.leaving and self._runs[0][0].kind == "channel"):
                self._active = False
                return None
            route, frames, size = self._runs.popleft()
            self._count -= len(frames)
            self._size -= size
            return route, frames

    def _work(self) -> None:
        began = time.monotonic()
        while True:
            following = self._next()
            if following is None:
                self._host.lane_ended()
                return
            self._process(*following)
            if self._host.pool.crowded() and time.monotonic() - began > TURN:
                self._host.pool.submit(self._work)
                return

    def _process(self, route: InRoute, frames: list[Frame]) -> None:
        host, handler, make = self._host, self._handler, self._make
        acknowledge = route.kind == "channel"
        context = Context(route.sender, route.session)
        token = _current.set(context)
        try:
            for frame in frames:
                if acknowledge and host.leaving:
                    break
                context.trace = _trace(frame)
                try:
                    handler(make(frame, route))
                except BaseException:  # A handler that calls sys.exit() must not end its thread.
                    self._failed(route, frame)
                # While this run goes on, the connection acknowledges up to here now and then.
                route.handled = frame[3]
        finally:
            _current.reset(token)
            if acknowledge:
                host.acknowledge(route)

    async def _work_async(self) -> None:
        while True:
            following = self._next()
            if following is None:
                self._host.lane_ended()
                return
            await self._process_async(*following)
            # Handlers that never wait must not keep the loop to themselves.
            await asyncio.sleep(0)

    async def _process_async(self, route: InRoute, frames: list[Frame]) -> None:
        host, handler, make = self._host, self._handler, self._make
        acknowledge = route.kind == "channel"
        context = Context(route.sender, route.session)
        token = _current.set(context)
        try:
            for frame in frames:
                if acknowledge and host.leaving:
                    break
                context.trace = _trace(frame)
                try:
                    await handler(make(frame, route))
                except (Exception, SystemExit):
                    self._failed(route, frame)
                # While this run goes on, the connection acknowledges up to here now and then.
                route.handled = frame[3]
        finally:
            _current.reset(token)
            if acknowledge:
                host.acknowledge(route)

    def _failed(self, route: InRoute, frame: Frame) -> None:
        # Acknowledged all the same: a message that its handler cannot take would otherwise hold up
        # everything behind it for ever.
        log.exception(
            "handler of %s %s failed on message %d from %s",
            route.kind,
            route.name,
            frame[3],
            route.sender or "the broker",
        )
        self._host.lane_failed()


class LaneHost:
    """What a lane needs from whoever owns it."""

    pool: Pool
    leaving: bool

    def loop_bridge(self) -> Bridge:
        """The bridge into the loop for coroutine handlers."""
        raise NotImplementedError

    def acknowledge(self, route: InRoute) -> None:
        """Handlers have returned for everything up to `route.handled`."""
        raise NotImplementedError

    def lane_started(self) -> None:
        """A lane has work."""

    def lane_ended(self) -> None:
        """A lane has no work any more."""

    def lane_failed(self) -> None:
        """A handler raised."""

    def lane_shed(self, route: InRoute, first: int, last: int) -> None:
        """Events were shed, because the handler is too slow for them."""


_NO_TRACE = bytes(16)


def _trace(frame: Frame) -> bytes:
    extension = frame[6]
    return extension[8:24] if extension else _NO_TRACE
