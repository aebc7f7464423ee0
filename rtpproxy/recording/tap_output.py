"""One tap, in the process that writes, sends and watches: hands packets to what looks at them, and tells its finds."""

from collections.abc import Callable, Iterable

from rtpproxy.recording.handlers import Handler
from rtpproxy.recording.live_output import LiveOutput
from rtpproxy.recording.messages import Noticed, OpenTap
from rtpproxy.recording.packet import Packet
from rtpproxy.rtp.header import parse_rtp


class TapOutput(LiveOutput):
    """Hands packets on as they come."""

    def __init__(self, about: OpenTap, handler: Handler, tell: Callable[[Noticed], None]) -> None:
        super().__init__(about)
        self.about = about
        self._handler = handler
        self._tell = tell

    def take(self, packet: Packet, wall_ns: int) -> None:
        """Take a packet; others get more packets of the stream than this tap is for."""
        self.packets += 1
        if self.about.payload_type is not None:
            header = parse_rtp(packet.payload)
            if header is None or header.payload_type != self.about.payload_type:
                return
        self._tell_all(self._handler.packet(packet, wall_ns))

    def flush(self, now_ns: int) -> None:
        """Let what is due be done."""
        self._tell_all(self._handler.rest(now_ns))

    def finish(self, wall_ns: int) -> None:
        """Let the rest be done: nothing more comes."""
        self._tell_all(self._handler.finish())

    def close(self) -> None:
        """Close what looks at the packets."""
        self._handler.close()

    def _tell_all(self, found: Iterable[bytes]) -> None:
        for data in found:
            self._tell(Noticed(self.about.output, data))
