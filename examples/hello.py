import plugbus

plugin = plugbus.Plugin("hello")


@plugin.method
def greet(name: str = "world") -> str:
    "Say hello."
    return f"Hello {name}"


plugin.run()
