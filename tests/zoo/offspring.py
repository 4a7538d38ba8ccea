"""Processes that outlive whoever starts them, for the plugins of this folder."""

import os
import signal
import sys


def stay(told=None):
    """Waits to be killed, deaf to polite requests. `told` is a pipe to whoever waits for that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    print("started", os.getpid(), flush=True)
    if told is not None:
        os.write(told, b"x")
    while True:
        signal.pause()


def in_the_group():
    """A child, as `subprocess` starts it."""
    if os.fork() == 0:
        stay()


def in_a_session():
    """A child in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        stay()


def as_a_daemon():
    """A grandchild in another session, whose parent is gone."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            stay()
        os._exit(0)
    os.waitpid(child, 0)


def serve():
    """Serves the method `ping`, and nothing else."""
    import plugbus

    plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])
    plugin.method(ping)
    sys.exit(plugin.run())


def ping() -> str:
    "Answers."
    return "pong"
