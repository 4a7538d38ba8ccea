"""Serves until `work` is called, which stops the whole interpreter."""

import ctypes
import os

import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])


@plugin.method
def ping() -> str:
    "Answers."
    return "pong"


@plugin.method
def work() -> None:
    "Never returns. `PyDLL` keeps the interpreter's lock, so that no other thread runs either."
    print("hangs", flush=True)
    while True:
        ctypes.PyDLL(None).sleep(1 << 30)


plugin.run()
