"""Asks how many queues an interface sends by (ethtool's channels)."""

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946
_GET_CHANNELS = 0x3C
_CHANNELS = struct.Struct("=9I")
"""struct ethtool_channels: command; at most receiving, sending, other, combined; the same now."""
_REQUEST = struct.Struct("=16sQ")
"""struct ifreq: the interface's name, and where the answer goes."""


@dataclass(frozen=True, slots=True)
class TransmitQueues:
    """The queues that an interface sends by."""

    count: int
    most: int
    """As many as there can be."""
    kind: str
    """ethtool's word for them: `combined` where they receive, too, else `tx`."""


def transmit_queues(name: str) -> TransmitQueues | None:
    """Ask for the queues of an interface; None when its driver does not tell, or it is gone, or we cannot ask."""
    answer = array.array("B", _CHANNELS.pack(_GET_CHANNELS, *[0] * 8))
    request = _REQUEST.pack(name.encode(), answer.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return None
    _, _, most_tx, _, most_combined, _, tx, _, combined = _CHANNELS.unpack(answer)
    return TransmitQueues(tx + combined, most_tx + most_combined, "combined" if most_combined else "tx")
