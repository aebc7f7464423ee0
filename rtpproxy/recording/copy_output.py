"""One copy while it is sent, in the process that writes recordings and sends copies.

The relay says where to, and hands the socket over: what may be sent where is judged there.
"""

import errno
import os
import socket

from rtpproxy.recording.messages import Aim, OpenCopy, Sent
from rtpproxy.recording.packet import Packet


class CopyOutput:
    """Sends packets as they come. What the kernel does not take is lost, as on any other way of packets."""

    def __init__(self, about: OpenCopy) -> None:
        self.about = about
        self.packets = about.packets
        """Packets that were sent or withheld."""
        self.withheld = about.withheld
        """Of these, packets that came while there was no place to send them to."""
        self.teed = 0
        """Packets of the ring that belong to the copy."""
        self.lost = 0
        """Packets that should have been sent and were not."""
        self.why = ""
        """Why packets were not sent, in words; empty while all is well."""
        self.is_over = False
        """True once nothing more is sent."""
        self._socket: socket.socket | None = None
        self._to: tuple[str, int] | tuple[str, int, int, int] | None = None
        self._told = self.packets

    def begin(self, unread: int = 0) -> None:
        """Find out what is lost of a copy that another process began.

        That one is known not to have read `unread` packets of the ring: they are still to come.
        """
        self.teed = max(0, self.about.teed - unread)
        self.miss(max(0, self.about.given + self.teed - self.packets))

    def aim(self, message: Aim, descriptor: int | None) -> None:
        """Send to another place from now on. The descriptor, a UDP socket that does not block, becomes the copy's."""
        if descriptor is not None:
            self.close()
            self._socket = socket.socket(fileno=descriptor)
        elif message.has_socket:
            # The kernel closes descriptors that there is no room for (unix(7)).
            self._end(os.strerror(errno.EMFILE))
            return
        self._to = None
        if message.to is not None and self._socket is not None:
            host, port, zone = message.to
            self._to = (host, port, 0, zone) if self._socket.family == socket.AF_INET6 else (host, port)

    def take(self, packet: Packet, wall_ns: int) -> None:
        """Send the payload of a packet. When it arrived does not matter."""
        if self._to is None or self._socket is None:
            self.packets += 1
            self.withheld += 1
            return
        try:
            self._socket.sendto(packet.payload, self._to)
        except OSError as error:
            self.lost += 1
            self.why = error.strerror or str(error)
        else:
            self.packets += 1

    def miss(self, packets: int) -> None:
        """Take note of packets that were lost on the way."""
        self.lost += packets

    def progress(self) -> Sent | None:
        """Tell how far it is, if it went on since this was asked last."""
        if self.packets == self._told:
            return None
        self._told = self.packets
        return Sent(self.about.output, self.packets, self.withheld)

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def finish(self, wall_ns: int) -> None:
        """Do nothing: what was to be sent is sent."""

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end(self, why: str) -> None:
        self.why = why
        self.is_over = True
