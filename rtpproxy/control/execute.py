"""The callable by which every kind of control socket has its commands executed (protocol.md 1.2 to 1.4)."""

from collections.abc import Callable

MAX_COMMAND_BYTES = 8191
"""Limit of one read, or of one datagram; the rest is cut off."""

Execute = Callable[[bytes, str], bytes]
"""Takes a command and the controller's host, which is empty for this host; returns the reply with its LF."""
