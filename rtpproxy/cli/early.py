"""Binds UDP control sockets before all else, because a SIP proxy that is refused asks the relay no more for a minute.

Importing what a relay consists of takes 0.3 s of processor time, and coming here 0.02 s. So this file needs little but
`socket`, and understands the usual case only: `-s udp:ADDRESS:PORT` or `udp6:`, with a numeric address. Whatever cannot
be bound here is bound, or refused with a reason, once the options are read.
"""

import itertools
import socket

_STANDARD = 3
"""Descriptors below are standard input, output and error, even if they are closed now."""
_FAMILIES = {"udp": socket.AF_INET, "udp6": socket.AF_INET6}
_MOST_DIGITS = 5
"""Of a port."""


def bind_early(arguments: list[str]) -> list[int]:
    """Bind the UDP sockets that these arguments of the program name, and return their descriptors.

    Nobody closes these: so the sockets stay bound until the process has ended, when a successor may be about to start.
    """
    texts = [text for option, text in itertools.pairwise(arguments) if option == "-s"]
    texts += [argument[2:] for argument in arguments if argument.startswith("-s")]
    return [opened.detach() for opened in map(_bind, texts) if opened is not None]


def _bind(text: str) -> socket.socket | None:
    """Bind the socket that the argument of a `-s` names; None where that is not possible here."""
    prefix, _, place = text.partition(":")
    host, _, port = place.rpartition(":")
    is_number = port.isascii() and port.isdecimal() and len(port) <= _MOST_DIGITS
    if prefix not in _FAMILIES or not (host.isascii() and host and is_number):
        return None
    try:
        opened = socket.socket(_FAMILIES[prefix], socket.SOCK_DGRAM)
    except OSError:  # no such family on this host, or no free descriptor
        return None
    try:
        _bind_to(opened, "" if host == "*" else host.removeprefix("[").removesuffix("]"), int(port))
    except (OSError, OverflowError):
        opened.close()
        return None
    if opened.fileno() < _STANDARD:
        opened.close()
        return None
    return opened


def _bind_to(opened: socket.socket, host: str, port: int) -> None:
    """Bind a socket to a numeric address, an empty one for all. Raises OSError, and OverflowError for a wrong port.

    The host must be ASCII.
    """
    if host:
        socket.inet_pton(opened.family, host)  # a name would be looked up
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((host, port))
