"""Starts a process, and ends as soon as that runs."""

import os

import offspring

reader, writer = os.pipe()
if os.fork() == 0:
    offspring.stay(told=writer)
os.read(reader, 1)
os._exit(7)
