"""A broker played by hand: frames packed and unpacked here, after the specification.

It shares no code with the SDK, so that a mistake in one of the two shows.
"""

import importlib.util
import os
import pathlib
import socket
import struct
import sys
import threading

if importlib.util.find_spec("plugbus") is None:
    # Not installed: the tests take the package that they stand beside.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import plugbus
from plugbus import _msgpack

HEADER = "<BBHIQQQI"
SESSION = 0x1234
CALLER = 0x9876
NAMES = {
    "hello": 1, "welcome": 2, "ping": 3, "pong": 4, "request": 5, "response": 6, "error": 7,
    "started": 8, "cancel": 9, "event": 10, "broadcast": 11, "gap": 12, "redelivery": 13,
    "signal": 14, "shutdown": 15, "register": 16, "unregister": 17, "query": 18, "announce": 19,
    "report": 20, "resource-request": 21, "subscribe": 22, "unsubscribe": 23, "open": 24, "close": 25, "message": 26,
    "credit": 27, "ack": 28,
}  # fmt: skip
KINDS = {number: name for name, number in NAMES.items()}
EXTENSIONS = {5: 40, 10: 40, 11: 40, 26: 40, 6: 8, 7: 8, 8: 8, 9: 8}
WAIT = 30.0  # Seconds until a test that would wait for ever fails.


class Frame:
    """One frame that the SDK sent."""

    def __init__(self, kind, flags, route, id, session, stamp, extension, body):
        self.kind = KINDS[kind]
        self.flags = flags
        self.route = route
        self.id = id
        self.session = session
        self.stamp = stamp
        self.extension = extension
        self.body = body

    @property
    def map(self):
        return _msgpack.unpack(self.body)

    def __repr__(self):
        return f"<{self.kind} route {self.route} id {self.id} {self.body[:60]!r}>"


def pack(kind, *, flags=0, route=0, id=0, session=0, stamp=0, extension=b"", body=b""):
    """The bytes of one frame from the broker."""
    if isinstance(body, dict):
        body = _msgpack.pack(body)
        flags |= 1 << 8
    if extension:
        flags |= 1
    number = NAMES[kind] if isinstance(kind, str) else kind
    payload = extension + body
    head = struct.pack(HEADER, 1, number, flags, route, id, session, stamp, len(payload))
    return head + payload + bytes(8)


class FakeBroker:
    """The broker's end of one connection."""

    def __init__(self):
        self.sock, self.other = socket.socketpair()
        self.sock.settimeout(WAIT)
        self.buffer = b""

    def hand_down(self):
        """Leaves the peer's end in the environment, as the broker does for its children."""
        os.environ["PLUGBUS_FD"] = str(self.other.detach())

    def send(self, kind, **fields):
        self.sock.sendall(pack(kind, **fields))

    def read(self):
        """The next frame that the SDK sends; None at the end of the stream."""
        head = self._take(36)
        if head is None:
            return None
        dialect, kind, flags, route, id, session, stamp, size = struct.unpack(HEADER, head)
        payload = self._take(size)
        trailer = self._take(8)
        assert dialect == 1 and trailer == bytes(8), (dialect, trailer)
        cut = EXTENSIONS[kind] if flags & 1 else 0
        return Frame(kind, flags, route, id, session, stamp, payload[:cut], payload[cut:])

    def expect(self, kind):
        """The next frame, which must be of this kind; `started` may come before any other."""
        frame = self.read()
        while frame is not None and frame.kind == "started" and kind != "started":
            frame = self.read()
        assert frame is not None, f"the stream ended before a {kind}"
        assert frame.kind == kind, f"expected {kind}, got {frame}: {frame.body!r}"
        if kind != "hello":
            assert frame.session == SESSION, frame
        return frame

    def _take(self, size):
        while len(self.buffer) < size:
            try:
                data = self.sock.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    # --- Whole exchanges -------------------------------------------------------------------

    def welcome(self, **more):
        """Takes the hello and lets the peer in; the hello's map."""
        hello = self.expect("hello")
        assert hello.body[:8] == b"PLUGBUS\n"
        body = _msgpack.unpack(hello.body[8:])
        limits = {"payload_max": 1 << 20, "message_max": 64 << 20, "requests_max": 1024}
        limits.update(more.pop("limits", {}))
        welcome = {
            "version": 1, "features": [], "session": SESSION, "id": body.get("id", "client-7"),
            "incarnation": 1, "broker": "fake", "heartbeat_ms": 1000, "limits": limits,
        }  # fmt: skip
        welcome.update(more)
        self.send("welcome", body=welcome)
        return body

    def answer(self, frame, body=None):
        self.send("response", id=frame.id, body=body or {})

    def opened(self, route, kind=None, name=None, messages=1000, size=1 << 20):
        """Takes an `open` and answers it with a route."""
        frame = self.expect("open")
        if kind is not None:
            assert frame.map == {"kind": kind, "name": name}, frame.map
        self.answer(frame, {"route": route, "window_messages": messages, "window_bytes": size})
        return frame

    def admit(self, **more):
        """Takes a plugin's handshake, registration and subscriptions up to its `ready`."""
        hello = self.welcome(**more)
        register = self.expect("register")
        self.answer(register)
        subscriptions = []
        while True:
            frame = self.read()
            if frame.kind == "signal":
                assert frame.map == {"name": "ready"}
                return hello, register.map, subscriptions
            assert frame.kind == "subscribe", frame
            subscriptions.append(frame.map)
            self.answer(frame, {"subscription": len(subscriptions)})

    def announce(self, route, kind, name, sender="ann"):
        body = {"route": route, "kind": kind, "name": name, "from": sender}
        self.send("announce", body={**body, "session": CALLER, "incarnation": 1})

    def request(self, route, id, arguments, deadline_ms=0, stamp=0, flags=0):
        extension = b""
        if deadline_ms:
            extension = struct.pack("<II16sQQ", deadline_ms, 0, bytes(16), 0, 0)
        self.send(
            "request", route=route, id=id, session=CALLER, stamp=stamp, extension=extension,
            body=arguments, flags=flags,
        )  # fmt: skip


class Running:
    """A plugin that runs in a thread against a fake broker."""

    def __init__(self, plugin, broker):
        self.plugin = plugin
        self.broker = broker
        self.outcome = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.plugin.run()
        except BaseException as error:
            self.outcome = error

    def join(self):
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), "the plugin does not end"
        return self.outcome


def client(**options):
    """A connected client and the broker it talks to."""
    broker = FakeBroker()
    broker.hand_down()
    made = []
    thread = threading.Thread(target=lambda: made.append(plugbus.connect(**options)))
    thread.start()
    broker.welcome()
    thread.join(WAIT)
    return made[0], broker
