"""Speaks a version of the protocol that nobody else does."""

import os
import socket
import sys

from plugbus import _msgpack, _wire

connection = socket.socket(fileno=int(os.environ["PLUGBUS_FD"]))
hello = {"versions": [99], "features": [], "id": os.environ["PLUGBUS_ID"], "role": "plugin"}
body = _wire.MAGIC + _msgpack.pack(hello)
connection.sendall(_wire.encode(_wire.HELLO, 0, 0, 1, 0, 0, body))
for frame in _wire.Decoder().feed(connection.recv(1 << 16)):
    print(_wire.control(frame[-1])["message"] if frame[0] == _wire.ERROR else frame[0])
sys.exit(2)
