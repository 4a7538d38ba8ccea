"""`python -m plugbus run FILE`: runs a single-file plugin.

What goes wrong while the file is loaded is shown as if Python had been started with the file
itself, without the frames of this runner, and ends with a non-zero exit.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback


def main(arguments: list[str]) -> int:
    """Runs the file that the arguments name; the exit status."""
    if len(arguments) < 2 or arguments[0] != "run":
        print("usage: python -m plugbus run FILE [ARGUMENT…]", file=sys.stderr)
        return 2
    path = arguments[1]
    sys.argv = arguments[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != path:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
