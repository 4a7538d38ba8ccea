"""What the plugin {id} does."""

import plugbus

plugin = plugbus.Plugin("{id}")


@plugin.method
def greet(name: str = "world") -> str:
    "Say hello."
    return f"Hello {name}"


if __name__ == "__main__":
    plugin.run()
