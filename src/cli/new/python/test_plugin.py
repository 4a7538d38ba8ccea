"""Tests the plugin as its callers see it. Run with: python3 -m unittest

The variable PLUGBUS names the plugbus program where it is not on the path.
"""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

PLUGBUS = os.environ.get("PLUGBUS", "plugbus")
PLUGIN = Path(__file__).with_name("{file}.py")


class {class}Test(unittest.TestCase):
    """Each test calls methods of the plugin, which runs under a broker of its own."""

    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.place.cleanup)
        cls.socket = str(Path(cls.place.name) / "test.sock")
        cls.broker = subprocess.Popen(
            [PLUGBUS, "--socket", cls.socket, "--json", "run", str(PLUGIN)],
            stdout=subprocess.PIPE,
            text=True,
        )
        cls.addClassCleanup(cls.stop)
        for line in cls.broker.stdout:
            if json.loads(line).get("event") == "serving":
                return
        raise RuntimeError("the plugin did not start; what it printed is above")

    @classmethod
    def stop(cls):
        cls.broker.terminate()
        cls.broker.communicate()

    def call(self, method, **arguments):
        done = subprocess.run(
            [PLUGBUS, "--socket", self.socket, "--json", "call", method, json.dumps(arguments)],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_greets_by_name(self):
        self.assertEqual(self.call("{id}.greet", name="Ann"), "Hello Ann")

    def test_greets_the_world(self):
        self.assertEqual(self.call("{id}.greet"), "Hello world")


if __name__ == "__main__":
    unittest.main()
