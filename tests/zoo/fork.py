"""Starts a process in its own group, then serves."""

import offspring

offspring.in_the_group()
offspring.serve()
