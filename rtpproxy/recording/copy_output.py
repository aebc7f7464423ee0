"""One copy while it is sent, in the process that writes recordings and sends copies.

The relay says where to, and hands the socket over: what may be sent where is judged there.
"""

import errno
import os
import socket

from rtpproxy.recording.live_output import LiveOutput
from rtpproxy.recording.messages import Aim, OpenCopy
from rtpproxy.recording.packet import Packet


class CopyOutput(LiveOutput):
    """Sends packets as they come. What the kernel does not take is lost, as on any other way of packets.

    Its packets were sent or, while there was no place to send them to, withheld.
    """

    def __init__(self, about: OpenCopy) -> None:
        super().__init__(about)
        self.about = about
        self._socket: socket.socket | None = None
        self._to: tuple[str, int] | tuple[str, int, int, int] | None = None

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

    def flush(self, now_ns: int) -> None:
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
