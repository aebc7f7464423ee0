"""What taps are for: makes of each kind what looks at the packets, in the process that writes, sends and watches.

To add a kind, write a class with the methods of `Handler`, and name it in `Handlers`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from rtpproxy.recording import collectors
from rtpproxy.recording.dtmf import DtmfHandler
from rtpproxy.recording.packet import Packet


class Handler(Protocol):
    """Looks at the packets of one tap. What it returns goes to the relay, each of it as one message.

    Packets are whatever a stranger sent: no exception may come of them.
    """

    def packet(self, packet: Packet, wall_ns: int) -> Iterable[bytes]:
        """Take a packet that the tap is for, in the order of arrival; `wall_ns` is when, since 1970."""

    def rest(self, now_ns: int) -> Iterable[bytes]:
        """Do what is due, about once a second. `now_ns` is on the packets' clock (CLOCK_MONOTONIC)."""

    def finish(self) -> Iterable[bytes]:
        """Do what is left when the tap ends."""

    def close(self) -> None:
        """Give up what it holds."""


class Handlers:
    """Makes handlers, and keeps what those of one kind share."""

    def __init__(self, collectors_of_rtcp: collectors.Collectors) -> None:
        self._kinds: Mapping[str, Callable[[bytes], Handler]] = {
            "dtmf": DtmfHandler,
            collectors.KIND: collectors_of_rtcp.handler,
        }

    def make(self, kind: str, settings: bytes) -> Handler:
        """Make the handler of one tap."""
        return self._kinds[kind](settings)
