"""Where packets go in the process that writes, sends and watches: of which stream to which outputs, and when.

An output is a file (`FileOutput`), a copy (`CopyOutput`) or a tap (`TapOutput`). Pure but for these. Packets and the
ends of streams and outputs are put into the order of their times (`merge`), so that it does not matter by which way a
packet came.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from rtpproxy.recording.copy_output import CopyOutput
from rtpproxy.recording.file_output import FileOutput
from rtpproxy.recording.live_output import LiveOutput
from rtpproxy.recording.merge import Merge
from rtpproxy.recording.messages import Aim, Close, Join, Leave, Lost, Sent, Teed
from rtpproxy.recording.packet import Packet, Place
from rtpproxy.recording.tap_output import TapOutput

WINDOW_NS = 20_000_000
"""Time by which a packet may come later than one that arrived after it."""
FLUSH_NS = 1_000_000_000
"""Time after which everything is written that waits: a file is never further behind."""
EARLY_NS = 10_000_000_000
"""Time by which a packet of the ring may come earlier than the message about its number."""

Output = FileOutput | CopyOutput | TapOutput


class _Stream(NamedTuple):
    output: Output
    outgoing: tuple[Place, Place] | None


class Outputs:
    """All open outputs."""

    def __init__(self, since_1970: Callable[[int], int], on_end: Callable[[Output], None]) -> None:
        """`since_1970` tells the time of day of a monotonic time.

        `on_end` is called for an output that is complete, or to which no more can be written, before it is closed.
        """
        self._since_1970 = since_1970
        self._on_end = on_end
        self._outputs: dict[int, Output] = {}
        self._streams: dict[int, _Stream] = {}
        self._of_output: dict[int, list[int]] = {}
        """Streams that ever went to an output."""
        self._merge: Merge[tuple[int, Packet, bool] | Join | Lost | Leave | Close] = Merge()
        """Of packets: number of the stream or, for those of the ring (True), of the tee; the packet."""
        self._tees: dict[int, tuple[int, ...]] = {}
        """Streams of open outputs, by number of the tee."""
        self._tees_of: dict[int, list[int]] = {}
        """Numbers of tees, by stream."""
        self._early: dict[int, list[Packet]] = {}
        """Packets of the ring, by number of the tee, of which no message has told yet."""
        self._taps = 0
        """Open taps: they have something to do once a second."""
        self._flushed_ns = 0
        self._is_waiting = False
        """Something may wait to be written."""

    def __len__(self) -> int:
        return len(self._outputs)

    def open(self, output: Output) -> None:
        """Take an open output."""
        self._outputs[output.about.output] = output
        self._taps += isinstance(output, TapOutput)
        self._is_waiting = True
        output.begin(sum(len(self._early.get(tee, ())) for tee in output.about.tees))
        self._look_after(output)

    def aim(self, message: Aim, descriptor: int | None) -> None:
        """Aim a copy at another place. The descriptor becomes that copy's, or is closed if it has ended by itself."""
        output = self._outputs.get(message.output)
        if isinstance(output, CopyOutput):
            output.aim(message, descriptor)
            self._look_after(output)
        elif descriptor is not None:
            os.close(descriptor)

    def packet(self, stream: int, packet: Packet) -> None:
        """Take a packet of a stream."""
        self._merge.add(packet.arrived_ns, (stream, packet, False))

    def teed(self, tee: int, packet: Packet) -> None:
        """Take a packet of the ring, which may come before the message about its number."""
        if tee in self._tees:
            self._merge.add(packet.arrived_ns, (tee, packet, True))
        else:
            self._early.setdefault(tee, []).append(packet)

    def tee(self, message: Teed) -> None:
        """Take note of whose packets the ring has under a number."""
        self._tees[message.tee] = message.streams
        for stream in message.streams:
            self._tees_of.setdefault(stream, []).append(message.tee)
        for packet in self._early.pop(message.tee, ()):
            self._merge.add(packet.arrived_ns, (message.tee, packet, True))

    def note(self, message: Join | Lost | Leave | Close) -> None:
        """Take a message that has its place among the packets."""
        self._merge.add(message.at_ns, message)

    def work(self, now_ns: int, read_ns: int | None = None) -> bool:
        """Do what is due at a time. Where packets wait to be read, all that arrived up to `read_ns` were read.

        True if that was to write what waits, as about once a second while there is something.
        """
        self._do_until((now_ns if read_ns is None else read_ns) - WINDOW_NS)
        if now_ns - self._flushed_ns >= FLUSH_NS:
            self._flushed_ns = now_ns
            self._is_waiting = False
            for output in list(self._outputs.values()):
                output.flush(now_ns)
                self._look_after(output)
            for tee in [tee for tee, early in self._early.items() if early[0].arrived_ns < now_ns - EARLY_NS]:
                del self._early[tee]
            return True
        return False

    def due_ns(self, now_ns: int) -> int | None:
        """Return the time until something is due, in nanoseconds; None if nothing is."""
        if len(self._merge):
            return WINDOW_NS
        if self._is_waiting or self._taps:
            return max(0, self._flushed_ns + FLUSH_NS - now_ns)
        return None

    def progress(self) -> list[Sent]:
        """List the copies and taps that went on since this was asked last."""
        live = (output for output in self._outputs.values() if isinstance(output, LiveOutput))
        return [sent for output in live if (sent := output.progress()) is not None]

    def finish(self, now_ns: int) -> None:
        """Write and send everything, and close all outputs."""
        self._do_until(now_ns)
        for output in list(self._outputs):
            self._close(output, now_ns)

    def _do_until(self, until_ns: int) -> None:
        streams, tees, since_1970 = self._streams, self._tees, self._since_1970
        for at_ns, thing in self._merge.ripe(until_ns):
            if type(thing) is not tuple:
                self._do(thing, at_ns)
                continue
            number, packet, is_teed = thing
            for one in tees.get(number, ()) if is_teed else (number,):
                stream = streams.get(one)
                if stream is None:
                    continue
                output, outgoing = stream
                shown = packet if outgoing is None else packet._replace(source=outgoing[0], to=outgoing[1])
                self._is_waiting = True
                output.teed += is_teed
                output.take(shown, since_1970(at_ns))
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
                self._close(message.output, at_ns)

    def _join(self, message: Join) -> None:
        output = self._outputs.get(message.output)
        if output is not None:
            if message.stream not in self._streams:
                self._of_output.setdefault(message.output, []).append(message.stream)
            self._streams[message.stream] = _Stream(output, message.outgoing)

    def _look_after(self, output: Output) -> None:
        """Give up an output that nothing more can be written to."""
        if output.is_over and output.about.output in self._outputs:
            self._close(output.about.output, 0)

    def _close(self, number: int, at_ns: int) -> None:
        output = self._outputs.pop(number, None)
        if output is None:
            return
        self._taps -= isinstance(output, TapOutput)
        for stream in self._of_output.pop(number, ()):
            self._streams.pop(stream, None)
            self._forget_tees(stream)
        output.finish(self._since_1970(at_ns))
        self._on_end(output)
        output.close()

    def _forget_tees(self, stream: int) -> None:
        """Forget that packets of the ring are for a stream, and numbers under which they are for no other."""
        for tee in self._tees_of.pop(stream, ()):
            if left := tuple(one for one in self._tees.pop(tee, ()) if one != stream):
                self._tees[tee] = left
