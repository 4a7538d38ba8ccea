"""Fails at one step of the protocol in one way, as its arguments say; its next process serves.

The steps and the faults are those of `tests/fault_matrix.rs`, in lower case.

What it does is written to files in its directory: who was started, and which messages came.
"""

import os
import signal
import socket
import sys
import threading

import plugbus

STEP, FAULT = sys.argv[1:]
ID = os.environ["PLUGBUS_ID"]


def note(kind, text):
    """Adds a line to a file; gives how many there are."""
    path = "%s.%s" % (ID, kind)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, text.encode() + b"\n")
    os.close(handle)
    with open(path, "rb") as lines:
        return sum(1 for _ in lines)


NUMBER = note("starts", str(os.getpid()))
FAILS = NUMBER == (2 if STEP == "successor" else 1)


class Failing(plugbus.Plugin):
    """Knows where it is in the protocol."""

    lives_on = False

    def _registration(self):
        reach("hello")
        return super()._registration()

    def state(self, name):
        if STEP == "replaced" and NUMBER == 2:
            self.call("witness.wait", gate=ID + "/starting")
        reach("registered")
        reach("successor")
        super().state(name)

    def wait(self):
        # What was said before the answer has arrived.
        self.call("witness.hello")
        reach("ready")
        super().wait()

    def handle_shutdown(self, body):
        reach("stopping")
        super().handle_shutdown(body)


def reach(step):
    if FAILS and step == STEP:
        fail()


def fail():
    if FAULT == "zero":
        os._exit(0)
    elif FAULT == "code":
        os._exit(3)
    elif FAULT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
        # Another thread may have taken it; this one must not answer before it stops as well.
        threading.Event().wait()
    elif FAULT == "close":
        Failing.lives_on = True
        connection().shutdown(socket.SHUT_RDWR)
    elif FAULT == "garbage":
        connection().sendall(b"\xff" * 64)


def connection():
    return plugin._inherited


plugin = Failing(ID)


@plugin.method(idempotent=True)
def pid() -> int:
    "Its process."
    return os.getpid()


@plugin.method
def plain() -> int:
    "Its process, by a method that is not made again."
    return os.getpid()


@plugin.method(idempotent=True)
def again() -> int:
    "Waits in the first process; its process."
    return wait("again")


@plugin.method
def once() -> int:
    "The same, by a method that is not made again."
    return wait("once")


def wait(gate):
    if NUMBER == 1:
        plugin.call("witness.wait", gate="%s/%s" % (ID, gate))
        reach("retiring")
    return os.getpid()


@plugin.method
def act(first: int) -> None:
    "Does what belongs to the step, before something goes wrong."
    if STEP == "serving":
        reach("serving")
    elif STEP == "calling":
        threading.Thread(target=wait, args=("made",), daemon=True).start()
    elif STEP == "sent":
        for number in range(first, first + 5):
            plugin.send("witness/held", number)


@plugin.on("fail." + ID)
def on_fail(_event):
    if FAILS:
        fail()


@plugin.channel("work")
def on_work(message):
    note("seen", "%d %d" % (NUMBER, message.value))
    if message.value == 3:
        reach("receiving")


try:
    reach("start")
    plugin.run()
finally:
    # Whoever closes its connection does not end, whatever the SDK thinks of that.
    while Failing.lives_on:
        signal.pause()
