"""Keeps memory and a descriptor for each call."""

import os

import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])
kept = []


@plugin.method
def ping() -> str:
    "Answers."
    return "pong"


@plugin.method
def work() -> int:
    "How many calls there were."
    kept.append((bytearray(os.urandom(1 << 20)), os.open("/dev/null", os.O_RDONLY)))
    return len(kept)


plugin.run()
