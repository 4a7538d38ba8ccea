"""A plugin of the demo, in Python. `src/cli/demo/peer.rs` is the same in Rust."""

from __future__ import annotations

import os
import threading
from typing import Any

import plugbus

# A file says that this plugin ran before.
trace = os.path.join(os.environ["TMPDIR"], os.environ["PLUGBUS_ID"] + ".ran")
is_first_run = not os.path.exists(trace)
open(trace, "w").close()

plugin = plugbus.Plugin()
seen: dict[str, list[Any]] = {"news": [], "notices": [], "tasks": []}
changed = threading.Condition()
released = threading.Event()


@plugin.method
def echo(value: int) -> int:
    "Gives back what it got."
    return value


@plugin.method
def double(number: int, hold: bool = False, ballast: str = "") -> int:
    "Twice the number; with `hold` only once the caller has given up, in the first run."
    if hold and is_first_run:
        # Long enough that the caller has been told that the handler runs.
        if not plugbus.current().wait_cancelled(0.1):
            plugin.publish("demo.holding", number)
            plugbus.current().wait_cancelled()
    return 2 * number


@plugin.method(idempotent=True)
def square(number: int) -> int:
    "The number times itself; in the first run only once the caller has given up."
    if is_first_run:
        plugbus.current().wait_cancelled()
    return number * number


@plugin.method
def report(news: int = 0, notices: int = 0, tasks: int = 0) -> dict:
    "What was seen so far, once there are at least so many of each."
    wanted = {"news": news, "notices": notices, "tasks": tasks}
    with changed:
        changed.wait_for(
            lambda: all(len(seen[kind]) >= count for kind, count in wanted.items()),
            plugbus.current().remaining,
        )
        return {kind: list(values) for kind, values in seen.items()}


@plugin.method
def release() -> None:
    "Lets the first task end."
    released.set()


@plugin.channel("tasks")
def on_task(message: plugbus.Message) -> None:
    "Numbers; the first one takes until `release`."
    released.wait()
    note("tasks", message.value)


@plugin.on("demo.news")
def on_news(event: plugbus.Event) -> None:
    note("news", event.value)


@plugin.on("demo.notice")
def on_notice(event: plugbus.Event) -> None:
    note("notices", event.value)


def note(kind: str, value: Any) -> None:
    with changed:
        seen[kind].append(value)
        changed.notify_all()


plugin.run()
