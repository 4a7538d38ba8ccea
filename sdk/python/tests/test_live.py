"""Conformance against a real broker: the binary that PLUGBUS_BIN names."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

import fake  # First, because it finds the package.
import plugbus

BIN = os.environ.get("PLUGBUS_BIN")
COUNT = 2000  # Messages down one channel.

PLUGIN = """
import asyncio
import plugbus
plugin = plugbus.Plugin("live")
got = []

@plugin.method
def greet(name: str = "world") -> str:
    "Say hello."
    return f"Hello {name}"

@plugin.method
async def later(number: int) -> int:
    await asyncio.sleep(0)
    return await plugin.aio.call("live.double", number=number)

@plugin.method
def double(number: int) -> int:
    return 2 * number

@plugin.method
def fail() -> None:
    raise plugbus.HandlerFailed("out-of-stock", "no chairs")

@plugin.method
def hang() -> None:
    plugbus.current().wait_cancelled()

@plugin.method
def echo(data: bytes) -> bytes:
    return data

@plugin.method
def received() -> list:
    return got

@plugin.channel("inbox")
def inbox(message):
    got.append(message.value)

@plugin.on("order.*")
def order(event):
    plugin.publish("seen." + event.topic.split(".")[1], event.value)

plugin.run()
"""


def wait_for(step):
    """Repeats `step` until it does not raise NotFound, Offline or NoBroker."""
    pause = threading.Event()
    while True:
        try:
            return step()
        except (plugbus.NoBroker, plugbus.NotFound, plugbus.Offline):
            pause.wait(0.01)


@unittest.skipUnless(BIN, "PLUGBUS_BIN is not set, so there is no broker to talk to")
class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        (folder / "live.py").write_text(PLUGIN)
        (folder / "run").mkdir(mode=0o700)
        cls.socket = str(folder / "run" / "test.sock")
        cls.log = open(folder / "log", "w+")  # A pipe would fill up.
        # Not `plugbus run`: that would test the SDK inside the binary, under whatever Python it finds.
        package = pathlib.Path(plugbus.__file__).resolve().parent.parent
        (folder / "plugbus.toml").write_text(
            "[plugins.live]\n"
            f"command = {json.dumps([sys.executable, 'live.py'])}\n"
            f"env = {{ PYTHONPATH = {json.dumps(str(package))} }}\n"
        )
        cls.broker = subprocess.Popen(
            [BIN, "up", "--socket", cls.socket, str(folder)], stdout=cls.log, stderr=cls.log
        )
        cls.client = wait_for(cls.connect)
        try:
            wait_for(lambda: cls.client.call("live.greet"))
        except plugbus.PlugbusError as error:
            cls.tearDownClass()
            raise AssertionError(f"the plugin did not start: {cls.printed}") from error

    @classmethod
    def connect(cls):
        if cls.broker.poll() is not None:
            cls.log.seek(0)
            raise AssertionError(f"the broker ended: {cls.log.read()}")
        return plugbus.connect(cls.socket)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.broker.terminate()
        cls.broker.wait()
        cls.log.seek(0)
        cls.printed = cls.log.read()
        cls.log.close()
        cls.folder.cleanup()

    def test_calls(self):
        self.assertEqual(self.client.call("live.greet", name="Ann"), "Hello Ann")
        self.assertEqual(self.client.call("live.later", number=21), 42)
        results = self.client.call(["live.greet", "live.nothing"])
        self.assertEqual(results[0], "Hello world")
        self.assertIsInstance(results[1], plugbus.NotFound)

    def test_errors(self):
        with self.assertRaises(plugbus.NotFound):
            self.client.call("nobody.greet")
        with self.assertRaises(plugbus.InvalidArgument) as caught:
            self.client.call("live.greet", nam="Ann")
        self.assertEqual(caught.exception.field, "nam")
        with self.assertRaises(plugbus.HandlerFailed) as caught:
            self.client.call("live.fail")
        self.assertEqual(caught.exception.handler_code, "out-of-stock")
        with self.assertRaises(plugbus.Timeout):
            self.client.call("live.hang", timeout_=0.05)

    def test_large_arguments_and_results(self):
        data = os.urandom(3 << 20)
        self.assertEqual(self.client.call("live.echo", data=data), data)

    def test_channel_in_order(self):
        with plugbus.connect(self.socket) as client:
            for number in range(COUNT):
                client.send("live", number)
            client.flush()
            got = client.call("live.received")
        self.assertEqual([each for each in got if isinstance(each, int)], list(range(COUNT)))

    def test_events(self):
        with self.client.subscribe("seen.>") as events:
            self.client.publish("order.made", {"n": 1})
            event = next(events)
            self.assertEqual((event.topic, event.value), ("seen.made", {"n": 1}))
            self.assertEqual(event.publisher, "live")

    def test_an_id_that_is_live_is_refused(self):
        with self.assertRaises(plugbus.HandshakeRefused) as caught:
            plugbus.connect(self.socket, "live")
        self.assertEqual(caught.exception.code, 12001)
        self.assertIn("live", caught.exception.message)

    def test_queries(self):
        self.assertIn("live", [each["id"] for each in self.client.plugins()])
        described = self.client.describe("live")
        greet = next(each for each in described["methods"] if each["name"] == "greet")
        self.assertEqual(greet["help"], "Say hello.")
        self.assertIn("tally", self.client.status())


if __name__ == "__main__":
    unittest.main()
