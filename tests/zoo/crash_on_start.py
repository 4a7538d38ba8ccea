"""Ends before it says hello, with a traceback."""

raise RuntimeError("this plugin never starts")
