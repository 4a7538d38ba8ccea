"""Prints 64 MiB as fast as it can, half of it in one line."""

import os


def write(data):
    while data:
        data = data[os.write(1, data) :]


line = b"x" * 127 + b"\n"
for _ in range(512):
    write(line * 512)
for _ in range(512):
    write(b"y" * (64 << 10))
write(b"\nlast\n")
