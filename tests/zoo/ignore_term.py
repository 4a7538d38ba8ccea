"""Serves, and does not end unless it is killed."""

import os
import signal

import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])


@plugin.method
def ping() -> str:
    "Answers."
    return "pong"


@plugin.signal("shutdown")
def on_shutdown(_signal):
    "Nothing."


signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
plugin.start()
while True:
    signal.pause()
