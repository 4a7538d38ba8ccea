"""A client against a broker that is played by hand."""

import asyncio
import gc
import logging
import os
import struct
import threading
import unittest
from unittest import mock

from fake import CALLER, WAIT, client  # First, because it finds the package.
import plugbus
from plugbus import _client, _msgpack


class Doing:
    """Something that blocks, in a thread."""

    def __init__(self, step, *arguments, **named):
        self.value = None
        self.error = None
        self.thread = threading.Thread(target=self._run, args=(step, arguments, named), daemon=True)
        self.thread.start()

    def _run(self, step, arguments, named):
        try:
            self.value = step(*arguments, **named)
        except BaseException as error:
            self.error = error

    def result(self):
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), "it still blocks"
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def blocked(self):
        return self.thread.is_alive()


class ClientCase(unittest.TestCase):
    def setUp(self):
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def connect(self, **options):
        self.client, self.broker = client(**options)
        self.addCleanup(self.leave)

    def leave(self):
        self.broker.sock.close()
        self.client.close()

    def settle(self):
        """Waits until the client has taken everything that was sent to it."""
        # A pong may overtake what came with its ping, but not what came before.
        for number in (1, 2):
            self.broker.send("ping", id=number)
            self.broker.expect("pong")

    def respond(self, request, value):
        extension = struct.pack("<Q", request.session)
        body = _msgpack.pack(value)
        self.broker.send(
            "response", route=request.route, id=request.id, session=CALLER, flags=256,
            extension=extension, body=body,
        )  # fmt: skip


class Calls(ClientCase):
    def test_call(self):
        self.connect()
        calling = Doing(self.client.call, "hello.greet", name="Ann", timeout_=20)
        self.broker.opened(9, "method", "hello.greet")
        request = self.broker.expect("request")
        self.assertEqual((request.route, request.map), (9, {"name": "Ann"}))
        deadline = struct.unpack_from("<I", request.extension)[0]
        self.assertTrue(0 < deadline <= 20_000)
        self.broker.send("started", route=9, id=request.id, extension=b"12345678")
        self.respond(request, "Hello Ann")
        self.assertEqual(calling.result(), "Hello Ann")
        again = Doing(self.client.call, "hello.greet", {"timeout": 1})
        request_2 = self.broker.expect("request")
        self.assertGreater(request_2.id, request.id)
        self.assertEqual(request_2.map, {"timeout": 1})
        self.respond(request_2, [1, None])
        self.assertEqual(again.result(), [1, None])

    def test_errors_of_the_broker(self):
        self.connect()
        cases = {
            10001: plugbus.NotFound, 10002: plugbus.Offline, 10003: plugbus.Timeout,
            10004: plugbus.Denied, 10005: plugbus.Cancelled, 10006: plugbus.PeerDied,
            10007: plugbus.Refused, 10008: plugbus.InvalidArgument, 10009: plugbus.HandlerFailed,
            11005: plugbus.ProtocolError, 14001: plugbus.ShuttingDown, 14002: plugbus.PlugbusError,
        }  # fmt: skip
        details = {
            "verdict": "started", "resource": "requests", "used": 3, "limit": 3, "holder": "a",
            "blame": "b", "retry_after_ms": 1500, "code": "own", "suggestions": ["x"],
        }  # fmt: skip
        for number, (code, kind) in enumerate(cases.items()):
            calling = Doing(self.client.call, "hello.greet")
            if not number:
                self.broker.opened(9)
            request = self.broker.expect("request")
            body = {"code": code, "status": 1, "category": "x", "message": "m", "details": details}
            self.broker.send("error", route=9, id=request.id, body=body)
            with self.assertRaises(kind) as caught:
                calling.result()
            error = caught.exception
            self.assertIs(type(error), kind)
            self.assertEqual((error.code, error.message, error.details), (code, "m", details))
        self.assertEqual(plugbus.PeerDied("", details=details).verdict, "started")
        self.assertEqual(plugbus.Refused("", details=details).retry_after, 1.5)

    def test_local_deadline(self):
        self.connect()
        calling = Doing(self.client.call, "hello.greet", timeout_=0.01)
        self.broker.opened(9)
        with self.assertRaises(plugbus.Timeout):
            calling.result()

    def test_broker_dies(self):
        self.connect()
        unopened = Doing(self.client.call, "other.method")
        self.broker.expect("open")
        started = Doing(self.client.call, "hello.greet")
        self.broker.opened(9)
        request = self.broker.expect("request")
        self.broker.send("started", route=9, id=request.id, extension=b"12345678")
        self.broker.sock.close()
        verdicts = []
        for calling in (unopened, started):
            with self.assertRaises(plugbus.BrokerGone) as caught:
                calling.result()
            verdicts.append(caught.exception.details.get("verdict"))
        self.assertEqual(verdicts[1], "started")
        with self.assertRaises(plugbus.BrokerGone):
            self.client.call("hello.greet")

    def test_list_of_targets(self):
        self.connect()
        calling = Doing(self.client.call, ["a.x", "b.x"], n=1)
        first = self.broker.expect("open")
        second = self.broker.expect("open")
        self.broker.answer(first, {"route": 5})
        body = {"code": 10001, "message": "no `b`"}
        self.broker.send("error", id=second.id, body=body)
        self.respond(self.broker.expect("request"), "one")
        one, two = calling.result()
        self.assertEqual(one, "one")
        self.assertIsInstance(two, plugbus.NotFound)

    def test_an_ended_route_is_opened_again(self):
        self.connect()
        calling = Doing(self.client.call, "hello.greet")
        self.broker.opened(9)
        request = self.broker.expect("request")
        body = {"code": 11009, "message": "no route 9"}
        self.broker.send("error", route=9, id=request.id, body=body)
        self.broker.opened(10, "method", "hello.greet")
        again = self.broker.expect("request")
        self.assertEqual(again.route, 10)
        self.respond(again, 1)
        self.assertEqual(calling.result(), 1)

    def test_requests_wait_for_their_turn(self):
        self.connect()
        self.client._link.peer._requests_max = 2
        calls = [Doing(self.client.call, "hello.greet", n=n) for n in range(3)]
        self.broker.opened(9)
        first, second = self.broker.expect("request"), self.broker.expect("request")
        self.settle()
        self.respond(first, 1)
        third = self.broker.expect("request")
        self.respond(second, 2)
        self.respond(third, 3)
        self.assertEqual(sorted(each.result() for each in calls), [1, 2, 3])

    def test_late_answers_hurt_nobody(self):
        self.connect()
        body = {"code": 11011, "message": "no such call"}
        calling = Doing(self.client.call, "hello.greet")
        self.broker.opened(9)
        request = self.broker.expect("request")
        self.broker.send("error", route=9, id=request.id, body=body)
        self.broker.send("response", route=8, id=request.id, body=b"\xc0")
        self.broker.send("response", route=9, id=999, body=b"\xc0")
        self.respond(request, "kept")
        self.assertEqual(calling.result(), "kept")


class Sends(ClientCase):
    def test_window_and_acknowledgement(self):
        self.connect()
        sending = Doing(self.client.send, "sink", {"n": 1})
        self.broker.opened(7, "channel", "sink/inbox", messages=2)
        message = self.broker.expect("message")
        self.assertEqual((message.id, message.map), (1, {"n": 1}))
        sending.result()
        self.client.send("sink", b"raw")
        second = self.broker.expect("message")
        self.assertEqual((second.id, second.flags, second.body), (2, 0, b"raw"))
        third = Doing(self.client.send, "sink", 3)
        self.settle()
        self.assertTrue(third.blocked)
        self.broker.send("ack", route=7, id=0, body=struct.pack("<Q", 2))
        self.settle()
        self.assertTrue(third.blocked)
        self.broker.send("ack", route=7, id=1, body=struct.pack("<Q", 2))
        self.assertEqual(self.broker.expect("message").id, 3)
        third.result()
        flushing = Doing(self.client.flush, "sink")
        self.settle()
        self.assertTrue(flushing.blocked)
        self.broker.send("ack", route=7, id=3, body=struct.pack("<Q", 3))
        flushing.result()

    def test_bytes_and_credit(self):
        self.connect()
        sending = Doing(self.client.send, "sink/lines", b"x" * 50)
        self.broker.opened(7, "channel", "sink/lines", size=60)
        self.broker.expect("message")
        sending.result()
        self.client.send("sink/lines", b"x" * 500)
        self.broker.expect("message")
        third = Doing(self.client.send, "sink/lines", b"y")
        self.settle()
        self.broker.send("credit", route=7, body=struct.pack("<QQ", 10, 551))
        self.assertEqual(self.broker.expect("message").id, 3)
        third.result()
        self.broker.send("credit", route=7, body=struct.pack("<QQ", 0, 0))
        self.settle()
        with self.assertRaises(plugbus.Timeout):
            self.client.send("sink/lines", b"z", timeout=0.01)

    def test_wait_and_gap(self):
        self.connect()
        kept = Doing(self.client.send, "sink", 1, wait=True)
        self.broker.opened(7)
        self.broker.expect("message")
        lost = Doing(self.client.send, "sink", 2, wait=True)
        self.broker.expect("message")
        flushing = Doing(self.client.flush)
        self.settle()
        self.broker.send("gap", route=7, id=2, body={"last": 2, "cause": "absent"})
        with self.assertRaises(plugbus.MessageLost) as caught:
            lost.result()
        self.assertEqual(caught.exception.cause, "absent")
        self.assertTrue(kept.blocked)
        self.broker.send("ack", route=7, id=1, body=struct.pack("<Q", 2))
        kept.result()

    def test_refused_message_starts_afresh(self):
        self.connect()
        waiting = Doing(self.client.send, "sink", 1, wait=True)
        self.broker.opened(7)
        self.broker.expect("message")
        body = {"code": 11015, "message": "out of sequence", "details": {"expected": 9}}
        self.broker.send("error", route=7, id=1, body=body)
        with self.assertRaises(plugbus.ProtocolError):
            waiting.result()
        self.assertEqual(self.broker.expect("close").route, 7)
        again = Doing(self.client.send, "sink", 2)
        self.broker.opened(8)
        message = self.broker.expect("message")
        self.assertEqual((message.route, message.id), (8, 1))
        again.result()

    def test_chunks(self):
        self.connect()
        self.client._link.peer.payload_max = 100
        data = bytes(range(250))
        Doing(self.client.send, "sink", data)
        self.broker.opened(7)
        pieces = [self.broker.expect("message") for _ in range(3)]
        self.assertEqual([each.flags & 16 for each in pieces], [16, 16, 0])
        self.assertEqual({each.id for each in pieces}, {1})
        self.assertEqual(b"".join(each.body for each in pieces), data)
        with self.assertRaises(plugbus.ProtocolError):
            self.client.send("sink", bytes((64 << 20) + 1))

    def test_publish_with_key_and_broadcast(self):
        self.connect()
        publishing = Doing(self.client.publish, ["a.b", "a.c"], 1, key=5)
        self.broker.opened(7, "topic", "a.b")
        event = self.broker.expect("event")
        self.assertEqual(struct.unpack_from("<Q", event.extension), (5,))
        body = {"code": 10004, "message": "not yours"}
        self.broker.send("error", id=self.broker.expect("open").id, body=body)
        first, second = publishing.result()
        self.assertIsNone(first)
        self.assertIsInstance(second, plugbus.Denied)
        shouting = Doing(self.client.broadcast, "now", b"")
        self.broker.opened(9, "broadcast", "now")
        self.assertEqual(self.broker.expect("broadcast").route, 9)
        shouting.result()


class Listening(ClientCase):
    def subscribe(self, *arguments, **named):
        subscribing = Doing(self.client.subscribe, *arguments, **named)
        self.broker.answer(self.broker.expect("subscribe"), {"subscription": 3})
        return subscribing.result()

    def test_subscription(self):
        self.connect()
        events = self.subscribe("a.*", queue_messages=3)
        self.broker.announce(7, "topic", "a.b", "bob")
        for number in range(1, 6):
            self.broker.send("event", route=7, id=number, session=CALLER, body=b"%d" % number)
        self.settle()
        self.assertEqual(events.missed, 2)
        self.assertEqual([next(events).payload for _ in range(3)], [b"3", b"4", b"5"])
        self.assertIsNone(events.get(timeout=0))
        events.close()
        self.assertEqual(self.broker.expect("unsubscribe").map, {"subscription": 3})
        self.assertEqual(list(events), [])

    def test_a_blocking_subscription_keeps_the_oldest_and_is_bounded(self):
        self.connect()
        with mock.patch.object(_client, "BLOCKED_MESSAGES", 3):
            events = self.subscribe("a.*", overflow="block")
        self.broker.announce(7, "topic", "a.b", "bob")
        for number in range(1, 6):
            # Without payload: the number is what is bounded, not only the bytes.
            self.broker.send("event", route=7, id=number, session=CALLER, body=b"")
        self.settle()
        self.assertEqual(events.missed, 2)
        self.assertEqual([next(events).id for _ in range(3)], [1, 2, 3])

    def test_iteration_ends_with_the_broker(self):
        self.connect()
        events = self.subscribe(">")
        reading = Doing(list, events)
        self.broker.sock.close()
        with self.assertRaises(plugbus.BrokerGone):
            reading.result()

    def test_queries(self):
        self.connect()
        asking = Doing(self.client.plugins)
        query = self.broker.expect("query")
        self.assertEqual(query.map, {"what": "plugins"})
        self.broker.answer(query, {"plugins": [{"id": "a"}]})
        self.assertEqual(asking.result(), [{"id": "a"}])


class Asyncio(ClientCase):
    def test_calls_sends_events_and_cancel(self):
        self.connect()

        def play():
            opening = self.broker.opened(9, "method", "hello.greet")
            for _ in range(3):
                request = self.broker.expect("request")
                self.respond(request, request.map["n"] * 2)
            self.broker.opened(7, "channel", "sink/inbox")
            self.broker.expect("message")
            self.broker.send("ack", route=7, id=1, body=struct.pack("<Q", 1))
            request = self.broker.expect("request")
            hanging.set()
            cancel = self.broker.expect("cancel")
            self.assertEqual((cancel.route, cancel.id), (9, request.id))
            return opening

        hanging = threading.Event()
        playing = Doing(play)

        async def main():
            aio = self.client.aio
            calls = [aio.call("hello.greet", n=n) for n in range(3)]
            self.assertEqual(await asyncio.gather(*calls), [0, 2, 4])
            await aio.send("sink", "text", wait=True)
            await aio.flush()
            task = asyncio.ensure_future(aio.call("hello.greet"))
            await asyncio.get_running_loop().run_in_executor(None, hanging.wait, WAIT)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            with self.assertRaises(plugbus.Timeout):
                await aio.call("hello.greet", timeout_=0.01)

        asyncio.run(main())
        playing.result()

    def test_async_iteration(self):
        self.connect()
        subscribing = Doing(self.client.subscribe, ">")
        self.broker.answer(self.broker.expect("subscribe"), {"subscription": 3})
        events = subscribing.result()
        self.broker.announce(7, "topic", "a.b", "bob")
        self.broker.send("event", route=7, id=1, session=CALLER, body=b"1")

        async def main():
            got = []
            async for event in events:
                got.append(event.payload)
                if len(got) == 2:
                    return got
                self.broker.send("event", route=7, id=2, session=CALLER, body=b"2")

        self.assertEqual(asyncio.run(main()), [b"1", b"2"])


class Leaving(ClientCase):
    def test_close_says_goodbye(self):
        self.connect(name="me")
        closing = Doing(self.client.close)
        self.assertEqual(self.broker.expect("shutdown").map, {"reason": "done"})
        self.assertIsNone(self.broker.read())
        self.broker.sock.close()
        closing.result()

    def test_a_forgotten_client_says_goodbye(self):
        forgotten, broker = client()
        leaving = Doing(lambda: None)
        leaving.result()

        def forget():
            nonlocal forgotten
            forgotten = None
            gc.collect()

        forgetting = Doing(forget)
        self.assertEqual(broker.expect("shutdown").kind, "shutdown")
        broker.sock.close()
        forgetting.result()

    def test_no_broker(self):
        with self.assertRaises(plugbus.NoBroker) as caught:
            plugbus.connect("/nowhere/plugbus.sock")
        self.assertIn("/nowhere/plugbus.sock", caught.exception.message)
        self.assertIn("plugbus up", caught.exception.message)

    def test_bad_descriptor(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        for text in (str(read), "999999", "three"):
            os.environ["PLUGBUS_FD"] = text
            with self.assertRaises(plugbus.NoBroker):
                plugbus.connect()
            self.assertNotIn("PLUGBUS_FD", os.environ)


if __name__ == "__main__":
    unittest.main()
