"""Aborts at the third call or message that it gets."""

import os
import threading

import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])
lock = threading.Lock()
seen = 0


def count() -> int:
    global seen
    with lock:
        seen += 1
        if seen == 3:
            os.abort()
        return seen


@plugin.method
def work() -> int:
    "How many calls and messages there were, until the third."
    return count()


@plugin.channel("work")
def on_work(message):
    count()


@plugin.method
def ping() -> str:
    "Answers."
    return "pong"


plugin.run()
