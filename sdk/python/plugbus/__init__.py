"""plugbus for Python: plugins that call, send and publish through a broker.

    import plugbus
    plugin = plugbus.Plugin("hello")

    @plugin.method
    def greet(name: str = "world") -> str:
        "Say hello."
        return f"Hello {name}"

    plugin.run()

A script that only calls: `plugbus.connect().call("hello.greet", name="Ann")`.
"""

from ._client import VERSION, AsyncEndpoint, Client, Endpoint, Subscription, connect
from ._errors import (
    BrokerGone,
    Cancelled,
    Denied,
    HandlerFailed,
    HandshakeRefused,
    InvalidArgument,
    MessageLost,
    NoBroker,
    NotFound,
    Offline,
    PeerDied,
    PlugbusError,
    ProtocolError,
    Refused,
    ShuttingDown,
    Timeout,
)
from ._plugin import Plugin
from ._types import Context, Event, Gap, Message, Signal, current

__version__ = VERSION
__all__ = [
    "AsyncEndpoint",
    "BrokerGone",
    "Cancelled",
    "Client",
    "Context",
    "Denied",
    "Endpoint",
    "Event",
    "Gap",
    "HandlerFailed",
    "HandshakeRefused",
    "InvalidArgument",
    "Message",
    "MessageLost",
    "NoBroker",
    "NotFound",
    "Offline",
    "PeerDied",
    "Plugin",
    "PlugbusError",
    "ProtocolError",
    "Refused",
    "ShuttingDown",
    "Signal",
    "Subscription",
    "Timeout",
    "connect",
    "current",
]
