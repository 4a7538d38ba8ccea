"""A plugin against a broker that is played by hand."""

import asyncio
import logging
import os
import struct
import threading
import time
import unittest

from fake import CALLER, WAIT, FakeBroker, Running, pack  # First, because it finds the package.
import plugbus
from plugbus import _msgpack


class PluginCase(unittest.TestCase):
    def setUp(self):
        self.broker = FakeBroker()
        self.broker.hand_down()
        self.addCleanup(self.broker.sock.close)
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def start(self, plugin, **more):
        running = Running(plugin, self.broker)
        self.addCleanup(self.stop, running)
        self.hello, self.registered, self.subscribed = self.broker.admit(**more)
        return running

    def stop(self, running):
        self.broker.sock.close()
        running.join()

    def shut_down(self, running):
        """The orderly end; what came between the notice and the goodbye."""
        self.broker.send("shutdown", body={"reason": "test", "drain_ms": 10_000})
        frames = []
        while True:
            frame = self.broker.read()
            if frame is None:
                break
            if frame.kind != "started":
                frames.append(frame)
        self.assertEqual(frames[-1].kind, "shutdown")
        self.broker.sock.close()
        self.assertIsNone(running.join())
        return frames[:-1]


class Serving(PluginCase):
    def test_hello_registration_and_answers(self):
        plugin = plugbus.Plugin("hello", services=("greeter",))
        self.assertNotIn("PLUGBUS_FD", os.environ)

        @plugin.method
        def greet(name: str = "world") -> str:
            "Say hello."
            return f"Hello {name}"

        @plugin.method(name="twice", idempotent=True)
        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        @plugin.channel("lines")
        def lines(message):
            "One line a message."

        running = self.start(plugin)
        self.assertEqual(self.hello["id"], "hello")
        self.assertEqual(self.hello["role"], "plugin")
        self.assertEqual(self.hello["versions"], [1])
        greet_entry, twice_entry = self.registered["methods"]
        self.assertEqual(greet_entry["help"], "Say hello.")
        self.assertEqual(greet_entry["result"], {"type": "string"})
        self.assertEqual(twice_entry["name"], "twice")
        self.assertTrue(twice_entry["idempotent"])
        self.assertEqual(
            self.registered["channels"], [{"name": "lines", "help": "One line a message."}]
        )
        self.assertEqual(self.registered["services"], ["greeter"])

        self.broker.announce(5, "method", "greet")
        self.broker.request(5, 11, {"name": "Ann"})
        answer = self.broker.expect("response")
        self.assertEqual((answer.route, answer.id), (5, 11))
        self.assertEqual(struct.unpack("<Q", answer.extension), (CALLER,))
        self.assertEqual(answer.map, "Hello Ann")
        self.broker.announce(6, "method", "twice")
        self.broker.request(6, 12, {"number": 21})
        self.assertEqual(self.broker.expect("response").map, 42)
        self.assertEqual(self.shut_down(running), [])

    def test_descriptor_is_not_inherited(self):
        descriptor = int(os.environ["PLUGBUS_FD"])
        plugin = plugbus.Plugin("hello")
        self.assertFalse(os.get_inheritable(descriptor))
        plugin._inherited.close()

    def test_another_id_is_refused_naming_both(self):
        os.environ["PLUGBUS_ID"] = "images"
        with self.assertRaises(plugbus.HandshakeRefused) as caught:
            plugbus.Plugin("hello")
        self.assertIn("images", caught.exception.message)
        self.assertIn("hello", caught.exception.message)
        self.assertEqual(caught.exception.code, 12002)
        os.environ.pop("PLUGBUS_ID", None)

    def test_handshake_refused(self):
        running = Running(plugbus.Plugin("hello"), self.broker)
        self.broker.expect("hello")
        body = {"code": 12001, "status": 409, "category": "authentication", "message": "taken"}
        self.broker.send("error", body=body)
        error = running.join()
        self.assertIsInstance(error, plugbus.HandshakeRefused)
        self.assertEqual((error.code, error.message), (12001, "taken"))

    def test_errors_keep_their_kind(self):
        plugin = plugbus.Plugin("shop")

        @plugin.method
        def fail(kind: str) -> None:
            if kind == "own":
                raise plugbus.HandlerFailed("out-of-stock", "no chairs", details={"left": 0})
            if kind == "argument":
                raise plugbus.InvalidArgument("too many", field="kind", expected="fewer")
            if kind == "exit":
                raise SystemExit(3)
            if kind == "unsendable":
                return object()
            raise ValueError("broken")

        self.start(plugin)
        self.broker.announce(5, "method", "fail")
        wanted = {
            "own": (10009, "no chairs", {"left": 0, "code": "out-of-stock"}),
            "argument": (10008, "too many", {"field": "kind", "expected": "fewer"}),
            "exit": (10009, "SystemExit: 3", {"code": "SystemExit"}),
            "other": (10009, "ValueError: broken", {"code": "ValueError"}),
        }
        for number, (kind, (code, message, details)) in enumerate(wanted.items(), 1):
            self.broker.request(5, number, {"kind": kind})
            body = self.broker.expect("error").map
            self.assertEqual((body["code"], body["message"]), (code, message))
            self.assertEqual(body["details"], details)
        self.broker.request(5, 9, {"kind": "unsendable"})
        self.assertEqual(self.broker.expect("error").map["details"]["code"], "TypeError")
        self.broker.request(5, 10, {"kin": "own"})
        body = self.broker.expect("error").map
        self.assertEqual((body["code"], body["details"]["field"]), (10008, "kin"))

    def test_error_of_a_nested_call_is_the_handlers_own(self):
        plugin = plugbus.Plugin("outer")

        @plugin.method
        def ask() -> None:
            plugin.call("nobody.there")

        self.start(plugin)
        self.broker.announce(5, "method", "ask")
        self.broker.request(5, 1, {})
        opening = self.broker.expect("open")
        body = {"code": 10001, "status": 404, "category": "plugin", "message": "no `nobody`"}
        self.broker.send("error", id=opening.id, body=body)
        error = self.broker.expect("error").map
        self.assertEqual(error["code"], 10009)
        self.assertEqual(error["details"]["code"], "not-found")
        self.assertEqual(error["details"]["cause"]["code"], 10001)

    def test_a_request_whose_deadline_passed_is_not_run(self):
        plugin = plugbus.Plugin("hello")
        ran = []

        @plugin.method
        def note(number: int) -> int:
            ran.append(number)
            return number

        self.start(plugin)
        self.broker.announce(5, "method", "note")
        past = time.time_ns() - 10_000_000_000
        self.broker.request(5, 1, {"number": 1}, deadline_ms=5_000, stamp=past)
        self.broker.request(5, 2, {"number": 2}, deadline_ms=600_000, stamp=time.time_ns())
        self.assertEqual(self.broker.expect("response").id, 2)
        self.assertEqual(ran, [2])

    def test_cancel_reaches_threads_and_tasks(self):
        plugin = plugbus.Plugin("slow")
        seen = []
        running = threading.Semaphore(0)
        over = threading.Semaphore(0)

        @plugin.method
        def thread() -> None:
            context = plugbus.current()
            running.release()
            seen.append(("thread", context.caller, context.wait_cancelled(WAIT)))
            over.release()

        @plugin.method
        async def task() -> None:
            running.release()
            try:
                await asyncio.sleep(WAIT)
            except asyncio.CancelledError:
                seen.append(("task", plugbus.current().caller, plugbus.current().cancelled))
                over.release()
                raise

        handle = self.start(plugin)
        self.broker.announce(5, "method", "thread")
        self.broker.announce(6, "method", "task")
        for route in (5, 6):
            self.broker.request(route, route, {})
            self.assertTrue(running.acquire(timeout=WAIT))
            self.assertEqual(self.broker.expect("started").id, route)
            self.broker.send("cancel", route=route, id=route, extension=struct.pack("<Q", CALLER))
            self.assertTrue(over.acquire(timeout=WAIT))
        self.assertEqual(seen, [("thread", "ann", True), ("task", "ann", True)])
        self.assertEqual(self.shut_down(handle), [])

    def test_nested_calls_inherit_the_deadline_and_end_with_a_cancel(self):
        plugin = plugbus.Plugin("outer")
        ended = []
        over = threading.Event()

        @plugin.method
        def ask() -> None:
            try:
                plugin.call("inner.work")
            except plugbus.Cancelled:
                ended.append("cancelled")
            over.set()

        self.start(plugin)
        self.broker.announce(5, "method", "ask")
        self.broker.request(5, 1, {}, deadline_ms=20_000, stamp=time.time_ns())
        self.broker.opened(9, "method", "inner.work")
        request = self.broker.expect("request")
        deadline, zero, trace, _, _ = struct.unpack("<II16sQQ", request.extension)
        self.assertLessEqual(deadline, 20_000)
        self.assertGreater(deadline, 0)
        self.assertEqual(zero, 0)
        self.broker.send("cancel", route=5, id=1, extension=struct.pack("<Q", CALLER))
        cancel = self.broker.expect("cancel")
        self.assertEqual((cancel.route, cancel.id), (9, request.id))
        self.assertTrue(over.wait(WAIT))
        self.assertEqual(ended, ["cancelled"])

    def test_large_results_are_chunked(self):
        plugin = plugbus.Plugin("big")

        @plugin.method
        def echo(data: bytes) -> bytes:
            return data

        self.start(plugin, limits={"payload_max": 100})
        data = bytes(range(256)) * 2
        self.broker.announce(5, "method", "echo")
        body = _msgpack.pack({"data": data})
        pieces = [body[at : at + 90] for at in range(0, len(body), 90)]
        for number, piece in enumerate(pieces):
            more = 16 if number + 1 < len(pieces) else 0
            self.broker.send("request", route=5, id=1, session=CALLER, flags=more | 256, body=piece)
        answers = []
        while not answers or answers[-1].flags & 16:
            answers.append(self.broker.expect("response"))
        self.assertGreater(len(answers), 5)
        self.assertTrue(all(len(each.extension + each.body) <= 100 for each in answers))
        self.assertEqual([bool(each.extension) for each in answers], [True] + [False] * 5)
        self.assertEqual(_msgpack.unpack(b"".join(each.body for each in answers)), data)

    def test_loop_must_not_be_blocked(self):
        plugin = plugbus.Plugin("loop")

        @plugin.method
        async def wrong() -> None:
            plugin.call("other.method")

        self.start(plugin)
        self.broker.announce(5, "method", "wrong")
        self.broker.request(5, 1, {})
        self.assertIn("aio", self.broker.expect("error").map["message"])


class Messages(PluginCase):
    def test_order_batches_and_acknowledgement(self):
        plugin = plugbus.Plugin("sink")
        got = []
        gate = threading.Event()

        @plugin.channel("inbox")
        def inbox(message):
            gate.wait(WAIT)
            got.append((message.sender, message.id, message.value))
            if message.id == 3:
                raise ValueError("a message that the handler cannot take")

        self.start(plugin)
        self.broker.announce(7, "channel", "inbox")
        for number in range(1, 101):
            self.broker.send("message", route=7, id=number, session=CALLER, body={"n": number})
        self.broker.send("ping", id=77, body=b"still there")
        self.assertEqual(self.broker.expect("pong").body, b"still there")
        gate.set()
        acks = [0]
        while acks[-1] < 100:
            ack = self.broker.expect("ack")
            self.assertEqual((ack.route, ack.body), (7, b""))
            acks.append(ack.id)
        self.assertEqual(acks, sorted(set(acks)))
        self.assertLess(len(acks), 101)
        self.assertEqual(got, [("ann", n, {"n": n}) for n in range(1, 101)])
        self.assertEqual(plugin.failures, 1)

    def test_a_long_handler_does_not_hold_up_what_was_before_it(self):
        plugin = plugbus.Plugin("sink")
        gate = threading.Event()

        @plugin.channel("inbox")
        def inbox(message):
            if message.id == 3:
                gate.wait(WAIT)

        self.start(plugin)
        self.broker.announce(7, "channel", "inbox")
        frames = [pack("message", route=7, id=n, session=CALLER) for n in range(1, 5)]
        self.broker.sock.sendall(b"".join(frames))
        self.assertEqual(self.broker.expect("ack").id, 2)
        gate.set()
        while self.broker.expect("ack").id < 4:
            pass

    def test_async_channel_and_redelivery(self):
        plugin = plugbus.Plugin("sink")
        got = []

        @plugin.channel("work")
        async def work(message):
            await asyncio.sleep(0)
            got.append((message.id, message.attempt, message.payload))

        self.start(plugin)
        self.broker.announce(7, "channel", "work")
        self.broker.send("redelivery", route=7, id=4, body=struct.pack("<QI", 5, 2))
        for number in (4, 5, 6):
            self.broker.send("message", route=7, id=number, session=CALLER, body=b"raw")
        while self.broker.expect("ack").id < 6:
            pass
        self.assertEqual(got, [(4, 2, b"raw"), (5, 2, b"raw"), (6, 1, b"raw")])

    def test_what_was_not_handled_is_not_acknowledged(self):
        plugin = plugbus.Plugin("sink")
        began = threading.Event()
        gate = threading.Event()

        @plugin.channel("inbox")
        def inbox(message):
            began.set()
            gate.wait(WAIT)

        running = self.start(plugin)
        self.broker.announce(7, "channel", "inbox")
        self.broker.send("message", route=7, id=1, session=CALLER, body=b"a")
        self.assertTrue(began.wait(WAIT))
        self.broker.send("message", route=7, id=2, session=CALLER, body=b"b")
        self.broker.send("ping", id=1)
        self.broker.expect("pong")
        self.broker.send("shutdown", body={"reason": "test", "drain_ms": 10_000})
        self.broker.announce(8, "method", "none")
        while not plugin.leaving:
            self.broker.send("ping", id=2)
            self.broker.expect("pong")
        gate.set()
        frames = []
        while not frames or frames[-1] is not None:
            frames.append(self.broker.read())
        kinds = [(frame.kind, frame.id) for frame in frames[:-1] if frame.kind != "pong"]
        self.assertEqual(kinds[0], ("ack", 1))
        self.assertEqual([kind for kind, _ in kinds], ["ack", "shutdown"])
        self.broker.sock.close()
        self.assertIsNone(running.join())


class Events(PluginCase):
    def test_patterns_gaps_and_broadcasts(self):
        plugin = plugbus.Plugin("ears")
        got = []
        gaps = []
        done = threading.Event()

        @plugin.on("order.*", overflow="conflate", queue_messages=5)
        def order(event):
            got.append(("order", event.topic, event.value, event.publisher, event.broadcast))

        @plugin.on(">")
        async def everything(event):
            got.append(("all", event.topic, event.value, event.publisher, event.broadcast))
            if event.topic == "end":
                done.set()

        @plugin.on_gap
        def gap(gap):
            gaps.append((gap.topic, gap.first, gap.last, gap.cause, gap.count))

        running = self.start(plugin)
        self.assertEqual(
            self.subscribed,
            [
                {"pattern": "order.*", "overflow": "conflate", "queue_messages": 5},
                {"pattern": ">", "overflow": "drop-oldest"},
            ],
        )
        self.broker.announce(7, "topic", "order.made")
        self.broker.announce(8, "broadcast", "end")
        self.broker.send("event", route=7, id=1, session=CALLER, body={"n": 1})
        gap_body = {"last": 4, "cause": "overflow", "topic": "order.made"}
        self.broker.send("gap", route=7, id=2, body=gap_body)
        self.broker.send("event", route=7, id=5, session=CALLER, body=b"five")
        self.broker.send("broadcast", route=8, id=1, session=CALLER, body=b"")
        self.assertTrue(done.wait(WAIT))
        self.shut_down(running)
        orders = [each[1:] for each in got if each[0] == "order"]
        everything_got = [each[1:] for each in got if each[0] == "all"]
        first = ("order.made", {"n": 1}, "ann", False)
        second = ("order.made", b"five", "ann", False)
        self.assertEqual(orders, [first, second])
        self.assertEqual(everything_got, [first, second, ("end", b"", "ann", True)])
        self.assertEqual(gaps, [("order.made", 2, 4, "overflow", 3)])

    def test_a_slow_handler_sheds_with_a_receipt(self):
        plugin = plugbus.Plugin("slow")
        got = []
        gaps = []
        began = threading.Event()
        gate = threading.Event()

        @plugin.on("tick", queue_messages=2)
        def tick(event):
            got.append(event.id)
            began.set()
            gate.wait(WAIT)

        plugin.on_gap(lambda gap: gaps.append((gap.first, gap.last)))
        running = self.start(plugin)
        self.broker.announce(7, "topic", "tick")
        for number in range(1, 7):
            self.broker.send("event", route=7, id=number, session=CALLER, body=b"")
            for again in (1, 2):  # A pong may overtake what came with its ping.
                self.broker.send("ping", id=again)
                self.broker.expect("pong")
            if number == 1:
                self.assertTrue(began.wait(WAIT))
        gate.set()
        self.shut_down(running)
        self.assertEqual(got, [1, 5, 6])
        self.assertEqual(gaps, [(2, 2), (3, 3), (4, 4)])


class Life(PluginCase):
    def test_signals(self):
        plugin = plugbus.Plugin("hello")
        got = threading.Semaphore(0)
        names = []

        @plugin.signal("reload")
        def reload(signal):
            names.append((signal.name, signal.sender, signal.data))
            got.release()

        @plugin.signal("wake")
        async def wake():
            names.append("wake")
            got.release()

        self.start(plugin)
        self.broker.send("signal", body={"name": "reload", "from": "ann", "data": [1]})
        self.assertTrue(got.acquire(timeout=WAIT))
        self.broker.send("signal", body={"name": "wake", "from": "ann"})
        self.assertTrue(got.acquire(timeout=WAIT))
        self.assertEqual(names, [("reload", "ann", [1]), "wake"])
        plugin.signal("reload", to="bob", data=2)
        sent = self.broker.expect("signal").map
        self.assertEqual(sent, {"name": "reload", "to": "bob", "data": 2})
        plugin.state("busy")
        self.assertEqual(self.broker.expect("signal").map, {"name": "busy"})

    def test_broker_vanishes(self):
        plugin = plugbus.Plugin("hello")
        outcome = []

        @plugin.method
        def ask() -> None:
            try:
                plugin.call("other.method")
            except plugbus.BrokerGone as error:
                outcome.append(error.verdict)

        running = self.start(plugin)
        self.broker.announce(5, "method", "ask")
        self.broker.request(5, 1, {})
        self.broker.opened(9)
        self.broker.expect("request")
        self.broker.sock.close()
        error = running.join()
        self.assertIsInstance(error, SystemExit)
        self.assertEqual(error.code, 1)
        self.assertEqual(outcome, ["possibly-started"])

    def test_shutdown_lets_handlers_finish_and_refuses_new_requests(self):
        plugin = plugbus.Plugin("hello")
        began = threading.Event()
        gate = threading.Event()

        @plugin.method
        def slow() -> str:
            began.set()
            gate.wait(WAIT)
            return "done"

        running = self.start(plugin)
        self.broker.announce(5, "method", "slow")
        self.broker.request(5, 1, {})
        self.assertTrue(began.wait(WAIT))
        self.assertEqual(self.broker.expect("started").id, 1)
        self.broker.send("shutdown", body={"reason": "test", "drain_ms": 10_000})
        while not plugin.leaving:
            self.broker.send("ping", id=1)
            self.broker.expect("pong")
        self.broker.request(5, 2, {})
        refusal = self.broker.expect("error")
        self.assertEqual((refusal.id, refusal.map["code"]), (2, 14001))
        gate.set()
        answer = self.broker.expect("response")
        self.assertEqual((answer.id, answer.map), (1, "done"))
        self.broker.expect("shutdown")
        self.assertIsNone(self.broker.read())
        self.broker.sock.close()
        self.assertIsNone(running.join())

    def test_bad_framing_is_answered_and_ends_the_connection(self):
        running = self.start(plugbus.Plugin("hello"))
        self.broker.sock.sendall(b"GET / HTTP/1.1\r\n")
        self.assertEqual(self.broker.expect("error").map["code"], 11001)
        self.assertIsNone(self.broker.read())
        self.assertIsInstance(running.join(), SystemExit)

    def test_what_cannot_be_handled_is_answered_and_the_connection_goes_on(self):
        self.start(plugbus.Plugin("hello"))
        unknown = {"route": 99, "id": 5, "session": CALLER}
        cases = [
            (dict(kind=200, id=1), 11003),
            (dict(kind=21, id=2), 11003),
            (dict(kind="register", id=3, body={}), 11010),
            (dict(kind="welcome", id=4, body={}), 11010),
            (dict(kind="message", body=b"", **unknown), 11009),
            (dict(kind="request", body={}, **unknown), 11009),
            (dict(kind="message", flags=4, body=b"", **unknown), 11018),
            (dict(kind="message", flags=8, body=b"", **unknown), 11018),
            (dict(kind="ping", flags=1, body=b""), 11007),
            (dict(kind="announce", body=b"\xc1"), 11007),
            (dict(kind="announce", body={"route": "x"}), 11007),
            (dict(kind="gap", body={}), 11007),
            (dict(kind="credit", body=b"short"), 11007),
        ]
        for fields, code in cases:
            with self.subTest(**fields):
                self.broker.send(**fields)
                self.assertEqual(self.broker.expect("error").map["code"], code)
        self.broker.send("error", body={"code": 11003, "message": "never answered"})
        self.broker.send("ping", id=8, body=b"alive")
        self.assertEqual(self.broker.expect("pong").body, b"alive")


class Declaring(unittest.TestCase):
    def test_mistakes_are_told_at_once(self):
        plugin = plugbus.Plugin("hello")
        with self.assertRaises(ValueError):
            plugbus.Plugin("Hello")
        with self.assertRaises(ValueError):
            plugbus.Plugin()
        with self.assertRaises(ValueError):
            plugin.method(name="Greet")(print)
        with self.assertRaises(ValueError):
            plugin.channel("a/b")
            plugin.channel("a/b")(print)
        with self.assertRaises(ValueError):
            plugin.on("a", overflow="forget")
        with self.assertRaises(ValueError):
            plugin.signal("relaod")
        with self.assertRaises(RuntimeError):
            plugin.call("a.b")
        with self.assertRaises(RuntimeError):
            plugbus.current()


if __name__ == "__main__":
    unittest.main()
