"""Starts a process in a session of its own, then serves."""

import offspring

offspring.in_a_session()
offspring.serve()
