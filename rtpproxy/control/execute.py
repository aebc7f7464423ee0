"""What every control socket needs to have a command executed, however it came (protocol.md 1.2 to 1.4)."""

from collections.abc import Callable

MAX_COMMAND_BYTES = 8191
"""What one read, or one datagram, may hold; more is cut off."""

Execute = Callable[[bytes, str], bytes]
"""Takes a command and the controller's host, gives the reply with its LF."""
