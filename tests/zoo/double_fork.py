"""Starts a daemon, then serves."""

import offspring

offspring.as_a_daemon()
offspring.serve()
