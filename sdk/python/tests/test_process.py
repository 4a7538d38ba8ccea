"""Plugins as processes of their own: how they start, and how they end."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from fake import WAIT, FakeBroker  # First, because it finds the package.
import plugbus

PACKAGE = pathlib.Path(plugbus.__file__).resolve().parent.parent

HELLO = """
import plugbus
plugin = plugbus.Plugin()

@plugin.method
def greet(name: str = "world") -> str:
    "Say hello."
    return f"Hello {name}"

@plugin.method
def environment() -> list:
    import os
    return sorted(name for name in os.environ if name.startswith("PLUGBUS"))

plugin.run()
print("the end")
"""


class Process(unittest.TestCase):
    def start(self, source):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "hello.py")
        pathlib.Path(self.path).write_text(source)
        self.broker = FakeBroker()
        self.addCleanup(self.broker.sock.close)
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PLUGBUS_ID": "hello"}
        environment.pop("PLUGBUS_BIN", None)
        environment["PLUGBUS_FD"] = str(self.broker.other.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", "plugbus", "run", self.path],
            env=environment,
            pass_fds=[self.broker.other.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.broker.other.close()
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def end(self, process):
        out, err = process.communicate(timeout=WAIT)
        return process.returncode, out, err

    def test_a_single_file_serves_and_leaves_at_sigterm(self):
        process = self.start(HELLO)
        hello, registered, _ = self.broker.admit()
        self.assertEqual((hello["id"], hello["pid"]), ("hello", process.pid))
        self.assertEqual([each["name"] for each in registered["methods"]], ["greet", "environment"])
        self.broker.announce(5, "method", "greet")
        self.broker.request(5, 1, {})
        self.assertEqual(self.broker.expect("response").map, "Hello world")
        self.broker.announce(6, "method", "environment")
        self.broker.request(6, 2, {})
        self.assertEqual(self.broker.expect("response").map, [])
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.broker.expect("shutdown").map, {"reason": "SIGTERM"})
        self.assertIsNone(self.broker.read())
        self.broker.sock.close()
        self.assertEqual(self.end(process), (0, "the end\n", ""))

    def test_broker_vanishes(self):
        process = self.start(HELLO)
        self.broker.admit()
        self.broker.sock.close()
        status, out, err = self.end(process)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("hello: the broker closed the connection", err)
        self.assertNotIn("Traceback", err)

    def test_import_error_shows_its_traceback(self):
        process = self.start("import plugbus\nimport no_such_module\n")
        status, out, err = self.end(process)
        self.assertEqual((status, out), (1, ""))
        self.assertIn(f'File "{self.path}", line 2', err)
        self.assertIn("No module named 'no_such_module'", err)
        self.assertNotIn("runpy", err)

    def test_syntax_error(self):
        status, _, err = self.end(self.start("def broken(:\n"))
        self.assertEqual(status, 1)
        self.assertIn("SyntaxError", err)
        self.assertIn("hello.py", err)

    def test_failing_handler_leaves_its_traceback_in_the_log(self):
        process = self.start(HELLO.replace("return f", "raise KeyError(name)  # "))
        self.broker.admit()
        self.broker.announce(5, "method", "greet")
        self.broker.request(5, 1, {})
        self.assertEqual(self.broker.expect("error").map["details"], {"code": "KeyError"})
        self.broker.send("shutdown", body={"reason": "test"})
        self.broker.expect("shutdown")
        self.broker.sock.close()
        status, _, err = self.end(process)
        self.assertEqual(status, 0)
        self.assertIn("method hello.greet failed", err)
        self.assertIn("KeyError: 'world'", err)

    def test_what_went_wrong_while_joining(self):
        process = self.start(HELLO)
        self.broker.expect("hello")
        body = {"code": 12001, "message": "`hello` is live already"}
        self.broker.send("error", body=body)
        self.broker.sock.close()
        status, _, err = self.end(process)
        self.assertEqual(status, 1)
        self.assertIn("HandshakeRefused: `hello` is live already", err)


if __name__ == "__main__":
    unittest.main()
