"""The files of all recordings in the process that writes them: which stream is in which, and their order of events.

Pure but for the files, which are `Output`s. Packets and the ends of streams and files are put into the order of their
times (`merge`), so that it does not matter by which way a packet came.
"""

from collections.abc import Callable
from typing import NamedTuple

from rtpproxy.recording.merge import Merge
from rtpproxy.recording.messages import Close, Join, Leave, Lost
from rtpproxy.recording.output import Output
from rtpproxy.recording.packet import Packet, Place

WINDOW_NS = 20_000_000
"""Time by which a packet may come later than one that arrived after it."""
FLUSH_NS = 1_000_000_000
"""Time after which everything is written that waits: a file is never further behind."""
EARLY_NS = 10_000_000_000
"""Time by which a packet of the ring may come earlier than the message about its stream."""


class _Stream(NamedTuple):
    output: Output
    outgoing: tuple[Place, Place] | None


class Files:
    """All open files."""

    def __init__(self, since_1970: Callable[[int], int], on_end: Callable[[Output], None]) -> None:
        """`since_1970` tells the time of day of a monotonic time.

        `on_end` is called for a file that is complete, or to which no more can be written, before it is closed.
        """
        self._since_1970 = since_1970
        self._on_end = on_end
        self._outputs: dict[int, Output] = {}
        self._streams: dict[int, _Stream] = {}
        self._of_file: dict[int, list[int]] = {}
        """Streams that were ever written to a file."""
        self._merge: Merge[tuple[int, Packet, bool] | Join | Lost | Leave | Close] = Merge()
        """Of packets: number of the stream, the packet, and whether the ring had it."""
        self._joined: set[int] = set()
        """Streams of open files that are or were written to them."""
        self._early: dict[int, list[Packet]] = {}
        """Packets of the ring, by stream, of which no message has told yet."""
        self._flushed_ns = 0
        self._is_waiting = False
        """Something may wait to be written."""

    def __len__(self) -> int:
        return len(self._outputs)

    def open(self, output: Output) -> None:
        """Take an open file."""
        self._outputs[output.about.file] = output
        self._is_waiting = True
        output.begin(sum(len(self._early.get(number, ())) for number in output.about.streams))
        self._look_after(output)

    def packet(self, stream: int, packet: Packet) -> None:
        """Take a packet of a stream."""
        self._merge.add(packet.arrived_ns, (stream, packet, False))

    def teed(self, stream: int, packet: Packet) -> None:
        """Take a packet of the ring, which may come before the message about its stream."""
        if stream in self._joined:
            self._merge.add(packet.arrived_ns, (stream, packet, True))
        else:
            self._early.setdefault(stream, []).append(packet)

    def note(self, message: Join | Lost | Leave | Close) -> None:
        """Take a message that has its place among the packets."""
        self._merge.add(message.at_ns, message)
        if isinstance(message, Join):
            self._joined.add(message.stream)
            for packet in self._early.pop(message.stream, ()):
                self._merge.add(packet.arrived_ns, (message.stream, packet, True))

    def work(self, now_ns: int, read_ns: int | None = None) -> None:
        """Do what is due at a time. Where packets wait to be read, all that arrived up to `read_ns` were read."""
        self._do_until((now_ns if read_ns is None else read_ns) - WINDOW_NS)
        if now_ns - self._flushed_ns >= FLUSH_NS:
            self._flushed_ns = now_ns
            self._is_waiting = False
            for output in list(self._outputs.values()):
                output.flush()
                self._look_after(output)
            for number in [number for number, early in self._early.items() if early[0].arrived_ns < now_ns - EARLY_NS]:
                del self._early[number]

    def due_ns(self, now_ns: int) -> int | None:
        """Return the time until something is due, in nanoseconds; None if nothing is."""
        if len(self._merge):
            return WINDOW_NS
        if self._is_waiting:
            return max(0, self._flushed_ns + FLUSH_NS - now_ns)
        return None

    def finish(self, now_ns: int) -> None:
        """Write everything, and close all files."""
        self._do_until(now_ns)
        for file in list(self._outputs):
            self._close(file, now_ns)

    def _do_until(self, until_ns: int) -> None:
        streams, since_1970 = self._streams, self._since_1970
        for at_ns, thing in self._merge.ripe(until_ns):
            if type(thing) is not tuple:
                self._do(thing, at_ns)
                continue
            number, packet, is_teed = thing
            stream = streams.get(number)
            if stream is None:
                continue
            output, outgoing = stream
            if outgoing is not None:
                packet = packet._replace(source=outgoing[0], to=outgoing[1])
            self._is_waiting = True
            output.teed += is_teed
            output.take(packet, since_1970(at_ns))
            if output.is_over:
                self._look_after(output)

    def _do(self, message: object, at_ns: int) -> None:
        match message:
            case Join():
                self._join(message)
            case Lost() if message.stream in self._streams:
                self._streams[message.stream].output.miss(message.packets)
            case Leave():
                self._streams.pop(message.stream, None)
            case Close():
                self._close(message.file, at_ns)

    def _join(self, message: Join) -> None:
        output = self._outputs.get(message.file)
        if output is not None:
            if message.stream not in self._streams:
                self._of_file.setdefault(message.file, []).append(message.stream)
            self._streams[message.stream] = _Stream(output, message.outgoing)

    def _look_after(self, output: Output) -> None:
        """Give up a file that nothing more can be written to."""
        if output.is_over and output.about.file in self._outputs:
            self._close(output.about.file, 0)

    def _close(self, file: int, at_ns: int) -> None:
        output = self._outputs.pop(file, None)
        if output is None:
            return
        for stream in self._of_file.pop(file, ()):
            self._streams.pop(stream, None)
            self._joined.discard(stream)
        output.finish(self._since_1970(at_ns))
        self._on_end(output)
        output.close()
