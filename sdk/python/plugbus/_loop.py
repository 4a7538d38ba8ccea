"""The connection: one socket, one thread that reads it, and writers that take turns.

Whoever has something to send writes it to the socket himself, if nobody writes just then; frames
that are queued meanwhile go out together. Senders that follow each other closely leave the writing
to the reader's thread, so that a burst costs few system calls while a lone frame never waits.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from . import _wire
from ._errors import BrokerGone, HandshakeRefused, NoBroker, PlugbusError, ProtocolError
from ._peer import Action, Call, Incoming, InRoute, Peer, Reply

log = logging.getLogger("plugbus")

HANDSHAKE_TIMEOUT = 10.0  # Seconds.
STARTED_AFTER = 0.02  # Seconds that a handler runs before its caller is told `started`.
TICK = STARTED_AFTER  # Seconds between two looks at what runs, while something runs.
REFUSAL_TIMEOUT = 1.0  # Seconds that a broker has to take the reason before we close.
RECEIVE_SIZE = 256 << 10
BURST = 0.0001  # Seconds since the last write within which a sender counts as part of a burst.
FLUSH_SIZE = 64 << 10  # Bytes after which a sender in a burst writes all the same.

_NOTHING: list[Action] = []


class Delegate:
    """What the owner of a connection is told. All but `handle_end` come on the reader's thread."""

    def handle_announce(self, route: InRoute) -> None:
        """Frames on this route may follow."""

    def handle_request(self, incoming: Incoming) -> None:
        """A request to answer."""

    def handle_batch(self, route: InRoute, frames: list[_wire.Frame]) -> None:
        """Messages or events of one route, in order."""

    def handle_cancel(self, incoming: Incoming) -> None:
        """Nobody waits for this answer any more."""

    def handle_signal(self, body: Mapping[str, Any]) -> None:
        """A signal for us."""

    def handle_shutdown(self, body: Mapping[str, Any]) -> None:
        """The broker asks us to leave."""

    def handle_gap(self, route: InRoute, first: int, last: int, cause: str) -> None:
        """Messages that will never come."""

    def handle_close(self, route: InRoute) -> None:
        """No further frame bears this route."""

    def handle_end(self, error: PlugbusError | None) -> None:
        """The connection has ended; None where that was agreed."""


class Connection:
    """One session with the broker. Everything here may be called from any thread."""

    def __init__(self, sock: socket.socket, delegate: Delegate, checksum: bool = False) -> None:
        self.ended = threading.Event()
        self.error: PlugbusError | None = None
        self.peer = Peer(time.monotonic, time.time_ns, checksum)
        self._sock = sock
        self._delegate = delegate
        self._decoder = _wire.Decoder()
        self._lock = threading.Lock()
        self._early: list[_wire.Frame] = []
        self._writing = False  # Somebody owns the socket's write side.
        self._deferred = False  # … namely the reader's thread, as soon as it wakes.
        self._blocked = False  # … who waits until the socket takes more.
        self._rest: memoryview | None = None
        self._broken = False
        self._closing = False  # The writer closes the socket, when he is done with it.
        self._flushed = 0.0
        self._woken = False
        self._ticking = False
        self._leaving = False
        self._agreed = False  # The broker has said that it goes.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="plugbus-io", daemon=True)

    # --- Begin and end ---------------------------------------------------------------------

    def handshake(self, hello: Mapping[str, Any]) -> None:
        """Says hello and waits for the welcome, at most `HANDSHAKE_TIMEOUT` seconds.

        Raises HandshakeRefused with the broker's code, or BrokerGone.
        """
        peer = self.peer
        sock = self._sock
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        frames: list[_wire.Frame] = []
        try:
            peer.start(hello)
            sock.settimeout(HANDSHAKE_TIMEOUT)
            sock.sendall(b"".join(peer.out))
            peer.out.clear()
            peer.out_size = 0
            while not frames:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                data = sock.recv(RECEIVE_SIZE)
                if not data:
                    raise BrokerGone("the broker closed the connection during the handshake")
                frames = self._decoder.feed(data)
                if self._decoder.failed and not frames:
                    raise self._decoder.failed
            peer.handle_welcome(frames[0])
        except PlugbusError as error:
            self._release()
            if isinstance(error, BrokerGone):
                raise
            raise HandshakeRefused(error.message, code=error.code, details=error.details) from None
        except socket.timeout:
            self._release()
            raise BrokerGone("the broker did not answer the hello") from None
        except OSError as error:
            self._release()
            raise BrokerGone(f"the connection broke during the handshake: {error}") from None
        self._early = frames[1:]
        self._decoder.payload_max = peer.payload_max
        sock.setblocking(False)
        self._thread.start()

    def leave(self, reason: str, timeout: float = 1.0) -> None:
        """Tells the broker that we go, writes what is queued, closes; takes `timeout` seconds."""
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
            self.peer.notice(_wire.SHUTDOWN, {"reason": reason})
            mine = self._claim(False)
            self._wake()
        if mine:
            self._drain()
            with self._lock:
                self._wake()
        if threading.current_thread() is not self._thread:
            self.ended.wait(timeout)
            self._abort()

    def abandon(self) -> None:
        """Ends the connection without a word."""
        self._abort()

    # --- Sending ---------------------------------------------------------------------------

    def control(self, kind: int, body: Mapping[str, Any], reply: Reply) -> None:
        """Sends a control frame; `reply` gets the answer."""
        self._do(lambda: self.peer.control(kind, body, reply))

    def notice(self, kind: int, body: Mapping[str, Any]) -> None:
        """Sends a control frame that nobody answers."""
        self._do(lambda: self.peer.notice(kind, body))

    def call(self, call: Call, lazy: bool = False) -> None:
        """Sends a request; with `lazy` together with others that follow closely."""
        with self._lock:
            self.peer.call(call)
            mine = self._claim(lazy)
            actions = self._take()
        self._finish(mine, actions)

    def withdraw(self, call: Call, tell: bool) -> bool:
        """Takes a call back; False if it has its outcome, or is about to get it."""
        with self._lock:
            taken = self.peer.withdraw(call, tell)
            mine = self._claim(False)
            actions = self._take()
        self._finish(mine, actions)
        return taken

    def forget(self, reply: Reply) -> bool:
        """Takes back a wait; False if it is over, or about to be."""
        with self._lock:
            return self.peer.forget(reply)

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
        """Sends a message, event or broadcast: see `Peer.post`."""
        with self._lock:
            result = self.peer.post(kind, name, content, key, trace, body, make, watch)
            mine = self._claim(True)
            actions = self._take()
        if mine or actions:
            self._finish(mine, actions)
        return result

    def watch(self, kind: str, name: str, reply: Reply) -> None:
        """Completes `reply` when everything sent under this name is settled."""
        self._do(lambda: self.peer.watch(kind, name, reply))

    def answer(self, incoming: Incoming, kind: int, body: bytes) -> None:
        """Answers a request."""
        with self._lock:
            self.peer.answer(incoming, kind, body)
            mine = self._claim(True)
        if mine:
            self._drain()

    def acknowledge(self, route: InRoute) -> None:
        """Acknowledges a channel's messages up to `route.handled`."""
        with self._lock:
            self.peer.acknowledge(route)
            mine = self._claim(True)
        if mine:
            self._drain()

    def names(self) -> list[tuple[str, str]]:
        """Kind and name of all that has something unsettled."""
        with self._lock:
            return self.peer.names()

    def _do(self, step: Callable[[], None]) -> None:
        with self._lock:
            step()
            mine = self._claim(False)
            actions = self._take()
        self._finish(mine, actions)

    def _finish(self, mine: bool, actions: list[Action]) -> None:
        if mine:
            self._drain()
        if actions:
            self._dispatch(actions)

    def _take(self) -> list[Action]:
        actions = self.peer.actions
        if not actions:
            # Never the peer's own list: others add to it once the lock is free.
            return _NOTHING
        self.peer.actions = []
        return actions

    # --- Writing ---------------------------------------------------------------------------

    def _claim(self, lazy: bool) -> bool:
        """Whether the caller, who holds the lock, has to write what is queued."""
        if not self.peer.out:
            return False
        if self._writing:
            if not self._deferred or self.peer.out_size < FLUSH_SIZE:
                return False
            self._deferred = False
            return True
        self._writing = True
        if lazy and time.monotonic() - self._flushed < BURST:
            self._deferred = True
            self._wake()
            return False
        return True

    def _drain(self) -> None:
        """Writes until nothing is queued. Only for the owner of the write side."""
        peer = self.peer
        while True:
            with self._lock:
                rest = self._rest
                if rest is None:
                    out = peer.out
                    if not out or self._broken:
                        out.clear()
                        peer.out_size = 0
                        self._writing = False
                        self._flushed = time.monotonic()
                        if self._closing:
                            self._sock.close()
                        return
                    peer.out = []
                    peer.out_size = 0
            if rest is None:
                rest = memoryview(out[0] if len(out) == 1 else b"".join(out))
            try:
                sent = self._sock.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The reader sees the end of the stream too, and is the one who reports it.
                with self._lock:
                    self._broken = True
                    self._rest = None
                continue
            if sent < len(rest):
                with self._lock:
                    self._rest = rest[sent:]
                    self._blocked = True
                    self._wake()
                return
            self._rest = None

    def _wake(self) -> None:
        """Wakes the reader's thread. Only under the lock, so that the pipe is still there."""
        if self._woken:
            return
        self._woken = True
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # The reader is gone, or has enough reasons to wake already.

    # --- Reading ---------------------------------------------------------------------------

    def _run(self) -> None:
        error: PlugbusError | None
        try:
            error = self._read()
        except Exception as failure:  # A bug of ours: nobody must wait for ever because of it.
            log.exception("the connection failed")
            error = ProtocolError(f"the SDK failed: {failure!r}", code=14002)
        self._end(error)

    def _read(self) -> PlugbusError | None:
        """Reads until the end of the stream; gives the reason, None where it was agreed."""
        sock = self._sock
        poller = select.poll()
        readable = select.POLLIN | select.POLLHUP | select.POLLERR
        poller.register(sock.fileno(), readable)
        poller.register(self._wake_read, select.POLLIN)
        writing = False
        hung_up = False
        tick = 0.0
        if self._early:
            self._handle(self._early)
        while True:
            # Another thread may be about to finish the last write, and does not wake this one.
            hurry = self._ticking or (self._leaving and not hung_up)
            timeout = TICK * 1000 if hurry else None
            for descriptor, mask in poller.poll(timeout):
                if descriptor == self._wake_read:
                    os.read(descriptor, 64)
                    self._handle_wake()
                    continue
                if mask & select.POLLOUT and self._blocked:
                    self._blocked = False
                    self._drain()
                if mask & readable:
                    try:
                        data = sock.recv(RECEIVE_SIZE)
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        return self._farewell(f"the connection to the broker broke: {error}")
                    if not data:
                        return self._farewell("the broker closed the connection")
                    self._handle(self._decoder.feed(data))
                    if self._decoder.failed:
                        return self._refuse(self._decoder.failed)
            if self._ticking:
                now = time.monotonic()
                if now - tick >= TICK:
                    tick = now
                    self._tick(now)
            if self._blocked != writing:
                writing = self._blocked
                poller.modify(sock.fileno(), readable | (select.POLLOUT if writing else 0))
            if self._leaving and not hung_up and not self._writing:
                # All is written, so the broker sees our farewell and then the end of the stream.
                hung_up = True
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

    def _handle(self, frames: list[_wire.Frame]) -> None:
        with self._lock:
            self.peer.handle(frames)
            if self.peer.incoming or self.peer.unacknowledged:
                self._ticking = True
            # What a burst left to this thread goes out with the rest, without waiting for the wake.
            mine = self._claim(False) or self._deferred
            self._deferred = False
            actions = self._take()
        self._finish(mine, actions)

    def _handle_wake(self) -> None:
        with self._lock:
            # After the pipe was emptied: whoever wakes this thread from here on writes again.
            self._woken = False
            mine = self._deferred
            self._deferred = False
        if mine:
            self._drain()

    def _tick(self, now: float) -> None:
        with self._lock:
            running = self.peer.announce_started(now - STARTED_AFTER)
            self._ticking = self.peer.acknowledge_all() or running
            mine = self._claim(False)
        if mine:
            self._drain()

    def _refuse(self, error: ProtocolError) -> PlugbusError:
        with self._lock:
            self.peer.refuse_stream(error)
            mine = self._claim(False) or self._deferred
            self._deferred = False
        if mine:
            self._drain()
        # Another thread may be writing, or the socket be full: what was queued still goes out.
        until = time.monotonic() + REFUSAL_TIMEOUT
        writable = select.poll()
        writable.register(self._sock.fileno(), select.POLLOUT)
        while self._writing and time.monotonic() < until:
            if not self._blocked:
                time.sleep(0.001)
            elif writable.poll(1):
                self._blocked = False
                self._drain()
        return error

    def _farewell(self, message: str) -> PlugbusError | None:
        return None if self._leaving or self._agreed else BrokerGone(message)

    def _end(self, error: PlugbusError | None) -> None:
        self.error = error
        with self._lock:
            self.peer.handle_end(error or BrokerGone("the connection was closed"))
            self._broken = True
            actions = self._take()
        self._release()
        self._dispatch(actions)
        self.ended.set()
        self._delegate.handle_end(error)

    def _abort(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _release(self) -> None:
        """Closes everything; nobody may be left with the number of a descriptor that is reused."""
        self._abort()
        with self._lock:
            self._broken = True
            if self._writing and not self._deferred and not self._blocked:
                self._closing = True
            else:
                self._sock.close()
            self._woken = True  # From here on nobody writes to the pipe.
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _dispatch(self, actions: list[Action]) -> None:
        delegate = self._delegate
        for action in actions:
            kind = action[0]
            if kind == "done":
                action[1].notify()
            elif kind == "batch":
                delegate.handle_batch(action[1], action[2])
            elif kind == "request":
                delegate.handle_request(action[1])
            elif kind == "announce":
                delegate.handle_announce(action[1])
            elif kind == "cancel":
                delegate.handle_cancel(action[1])
            elif kind == "signal":
                delegate.handle_signal(action[1])
            elif kind == "shutdown":
                self._agreed = True
                delegate.handle_shutdown(action[1])
            elif kind == "gap":
                delegate.handle_gap(*action[1:])
            elif kind == "close":
                delegate.handle_close(action[1])
            elif kind == "warn":
                log.warning("%s", action[1])
            else:
                log.debug("%s", action[1])


def default_socket() -> str:
    """The path of the default broker's socket, or the one that `PLUGBUS_SOCKET` names."""
    named = os.environ.get("PLUGBUS_SOCKET")
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "plugbus", "default.sock")
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(
        os.environ.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(state, "plugbus", "default.sock")


def inherited_socket() -> socket.socket | None:
    """The connection that the broker handed down, taken out of the environment; None without one.

    Raises NoBroker if `PLUGBUS_FD` names something that is not a connected socket.
    """
    text = os.environ.pop("PLUGBUS_FD", None)
    if text is None:
        return None
    try:
        descriptor = int(text)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError("it is not a socket")
        os.set_inheritable(descriptor, False)
        return socket.socket(fileno=descriptor)
    except (OSError, ValueError) as error:
        raise NoBroker(f"PLUGBUS_FD={text} cannot be used: {error}") from None


def connect_socket(path: str) -> socket.socket:
    """A connection to the broker at this path. Raises NoBroker if nobody answers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(HANDSHAKE_TIMEOUT)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise NoBroker(
            f"no broker at {path} ({reason}): start one with `plugbus up`, or name its socket"
            " in PLUGBUS_SOCKET"
        ) from None
    return sock
