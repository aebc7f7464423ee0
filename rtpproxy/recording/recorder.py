"""Records what streams receive: makes the files, and hands them and the packets to the process that writes.

The event loop waits for no disk but to make files, because the reply to a command tells if that worked, and not for
long (`disk`).
"""

import logging
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

from rtpproxy.addr import is_ipv6
from rtpproxy.config import Config, RecordFormat
from rtpproxy.errors import OffloadError, RecordingError
from rtpproxy.recording import messages, names
from rtpproxy.recording.arrivals import when_read
from rtpproxy.recording.directories import Directories
from rtpproxy.recording.messages import Ended, Found, ToRelay, encode_packet
from rtpproxy.recording.packet import Packet, Place
from rtpproxy.recording.recording import File, RecordedStream, Recording, Side
from rtpproxy.recording.supervisor import OpenRing, Supervisor
from rtpproxy.session.session import Component, Leg, Role, Session

log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""Time that a relay which ends waits for its recordings to be written."""
_EXTENSIONS = {RecordFormat.PCAP: b".pcap", RecordFormat.PCAPNG: b".pcapng"}
_NS_PER_S = 1_000_000_000
_MAX_REMEMBERED = 10_000
_ANY = {False: "0.0.0.0", True: "::"}


class Recorder:
    """All recordings of one relay."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        config: Config,
        directories: Directories,
        clock: Callable[[], float],
        open_ring: Callable[[], OpenRing] | None = None,
        arrived_ns: Callable[[float], int] = when_read,
    ) -> None:
        """`clock` is that of packets: monotonic, in seconds.

        `open_ring` makes the ring, or raises OffloadError. Without it every packet has to come to userspace.
        `arrived_ns` tells when a packet arrived that is just being handed on, and was read at a time.
        """
        self._clock = clock
        self._arrived_ns = arrived_ns
        self._format = config.record_format
        self._components = (Component.RTP,) if config.leaves_rtcp_out else (Component.RTP, Component.RTCP)
        self._directories = directories
        self._open_ring = open_ring
        self._ring: OpenRing | None = None
        self._supervisor = Supervisor(loop, directories, self._on_message, lambda: len(self._recordings), self._resume)
        self._recordings: dict[int, Recording] = {}
        """By number of each file that has not ended."""
        self._active: dict[bytes, Recording] = {}
        """By name of each file that packets go into."""
        self._spooled: set[bytes] = set()
        """Names in the spool of files that have not ended."""
        self._last_file = self._last_stream = self._latest_ns = 0
        self._hosts: dict[str, bytes] = {}
        self._packets = self._lost = 0

    @property
    def has_single_files(self) -> bool:
        """True if the format permits all streams of a session in one file (protocol.md 8.2)."""
        return self._format in _EXTENSIONS

    def record(
        self,
        session: Session,
        role: Role,
        name: bytes | None,
        *,
        is_single: bool,
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> Side:
        """Record what one leg receives, in files named after the session or, if given, `name` (protocol.md 8.2).

        `is_single` asks for one file for all streams of the session, where the format permits it. `on_end` is called
        if the recording ends by itself; `absorb` brings the counts of the leg's streams up to date. It begins with
        `Side.begin`.

        Raises RecordingError.
        """
        self._supervisor.ensure()
        self._ensure_ring()
        is_whole = is_single and self.has_single_files
        recording = self._whole(session, role, name) if is_whole else self._separate(session, role, name)
        leg, peer_leg = session.leg(role), session.leg(role.peer)
        streams = []
        for stream in leg.streams:
            if stream.component in self._components:
                file = recording.files[0 if is_whole else stream.component]
                shown_at = peer_leg if is_whole and stream.component is Component.RTCP else None
                self._last_stream += 1
                tee = self._last_stream if self._ring is not None else 0
                streams.append(RecordedStream(self, self._last_stream, file, stream, tee, shown_at))
        side = Side(self, recording, role, streams, on_end, absorb)
        recording.sides.append(side)
        recording.streams += streams
        for one in streams:
            self._join(one)
            self.look_again(one, 0.0)
        return side

    def look_again(self, stream: RecordedStream, now: float) -> None:
        """Take note that the addresses may have changed that packets are shown with."""
        if stream.shown_at is not None:
            self._show(stream, stream.shown_at, int(now * _NS_PER_S))

    def take(self, stream: RecordedStream, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Record a packet."""
        stream.file.given += 1
        stream.given += 1
        process = self._supervisor.process
        if process is None:
            stream.file.refused += 1
            return
        if not process.has_room:
            stream.file.refused += 1
            stream.missing += 1
            return
        arrived_ns = stream.latest_ns = max(stream.latest_ns, self._arrived_ns(now))
        self._latest_ns = max(self._latest_ns, arrived_ns)
        if stream.shown_at is not None:
            self._show(stream, stream.shown_at, arrived_ns)
        if stream.missing:
            process.send(messages.Lost(stream.number, arrived_ns, stream.missing))
            stream.missing = 0
        host, port = source
        to = self._place(local_host or _ANY[is_ipv6(host)], stream.stream.local_port)
        process.add_packet(encode_packet(stream.number, Packet(arrived_ns, self._place(host, port), to, data)))

    def stop(self, side: Side, now: float) -> None:
        """End one side of a recording, and with the last side the recording."""
        # Packets may have been taken after the command was: they arrived before its reply.
        recording, at_ns = side.recording, max(int(now * _NS_PER_S), self._latest_ns)
        if side not in recording.sides:
            return
        if any(stream.tee for stream in side.streams):
            at_ns = max(at_ns, int(self._clock() * _NS_PER_S))
        recording.sides.remove(side)
        side.absorb(now)
        for stream in side.streams:
            stream.teed = stream.teed_so_far
            stream.missing += stream.missed
            stream.file.given += stream.missed
            stream.file.refused += stream.missed
            if stream.missing:
                self._supervisor.send(messages.Lost(stream.number, at_ns, stream.missing))
                stream.missing = 0
            self._supervisor.send(messages.Leave(stream.number, at_ns))
        if not recording.sides:
            self._close(recording, at_ns)

    def start(self) -> None:
        """Say what will keep recordings from being made, and finish what a killed relay left in the spool.

        To be called once the process is the user that it will be.
        """
        for objection in self._directories.objections():
            log.error("recordings will fail: %s", objection)
        if self._directories.has_leftovers():
            self._supervisor.ensure()

    def counts(self) -> Mapping[str, int]:
        """Count the files that are open, packets in files, and those that are known to be lost."""
        going_on = set(self._recordings.values())
        for recording in going_on:
            for side in recording.sides:
                side.absorb(self._clock())
        opened = [file for one in going_on for file in one.files if file.ended is None]
        streams = [stream for one in going_on for stream in one.streams if stream.file.ended is None]
        refused = sum(file.refused for file in opened)
        taken = sum(file.given for file in opened) - refused + sum(stream.teed_so_far for stream in streams)
        missed = sum(stream.missed for stream in streams if stream.teed is None)
        return {
            "files_open": len(opened),
            "packets_recorded": self._packets + taken,
            "packets_lost": self._lost + refused + missed,
        }

    def close(self, now: float) -> None:
        """End all recordings, and the process that writes."""
        for recording in set(self._recordings.values()):
            for side in tuple(recording.sides):
                self.stop(side, now)
        self._supervisor.close(CLOSE_S)
        self._directories.close()

    # Making files

    def _separate(self, session: Session, role: Role, name: bytes | None) -> Recording:
        """Make a file for each component of one leg."""
        stems = [name]
        if name is None:
            about = session.call_id, session.from_tag, role
            # Two media lines of one call must not write to one file.
            stems = [names.automatic(*about), names.automatic(*about, with_media_number=True)]
        sender = "caller" if role is Role.CALLER else "callee"
        wanted = [[names.of_component(stem, one) for one in self._components] for stem in stems if stem is not None]
        return self._make(f"{session.label}: recording of what the {sender} sends", wanted)

    def _whole(self, session: Session, role: Role, name: bytes | None) -> Recording:
        """Find the recording of a session in one file, or make it."""
        wanted = [name]
        if name is None:
            about, extension = (session.call_id, session.from_tag), _EXTENSIONS[self._format]
            wanted = [names.whole_call(*about) + extension]
            wanted.append(names.whole_call(*about, with_media_number=True) + extension)
        title = f"{session.label}: recording of both sides"
        for one in wanted:
            found = self._active.get(one) if one is not None else None
            if found is not None and found.session is session and role not in [side.role for side in found.sides]:
                return found
        return self._make(title, [[one] for one in wanted if one is not None], session)

    def _make(self, title: str, wanted: list[list[bytes]], session: Session | None = None) -> Recording:
        """Make the first of some sets of files of which none is being recorded."""
        for one in wanted:
            for name in one:
                names.check(name)
            if not any(name in self._active for name in one):
                return self._make_files(Recording(title, session), one)
        raise RecordingError(f"another recording is being made in {repr(wanted[-1][0])[2:-1]}")

    def _make_files(self, recording: Recording, wanted: list[bytes]) -> Recording:
        first = self._last_file + 1
        self._last_file += len(wanted)
        spool_names = [self._spool_name(name, number) for number, name in enumerate(wanted, first)]
        all_made, has_changed = self._directories.make([spool_names[at] or name for at, name in enumerate(wanted)])
        if has_changed:
            try:
                self._supervisor.tell_directories()
            except OSError as error:
                for made in all_made:
                    os.close(made.descriptor)
                raise RecordingError(f"cannot hand the new directory over: {error.strerror}") from error
        for number, (name, spool_name, made) in enumerate(zip(wanted, spool_names, all_made, strict=True), first):
            file = File(number, name, spool_name, made.identity, self._format)
            recording.files.append(file)
            self._recordings[number] = self._active[name] = recording
            self._spooled.add(spool_name)
            self._open(recording, file, made.descriptor, is_continued=False)
        return recording

    def _spool_name(self, name: bytes, number: int) -> bytes:
        """Choose the name in the spool: another one while an earlier recording of that name is being finished there."""
        if not self._directories.is_spooling:
            return b""
        return b"%s.%d" % (name, number) if name in self._spooled else name

    # Telling the process

    def _open(self, recording: Recording, file: File, descriptor: int, *, is_continued: bool) -> None:
        streams = [stream for stream in recording.streams if stream.file is file]
        about = messages.Open(
            *(file.number, file.format, is_continued, file.given, file.name, file.spool_name, recording.title),
            teed=sum(stream.teed_so_far for stream in streams),
            streams=tuple(stream.number for stream in streams),
        )
        self._supervisor.open(about, descriptor)

    def _join(self, stream: RecordedStream) -> None:
        self._supervisor.send(messages.Join(stream.number, stream.file.number, 0))

    def _show(self, stream: RecordedStream, leg: Leg, at_ns: int) -> None:
        """Show packets as if they left for the other party (protocol.md 8.5), once it is known where that is."""
        to = leg.rtcp.latch.remote
        if to is None or not leg.has_ports:
            return
        host = leg.rtcp.local_host or leg.rtp.local_host or _ANY[is_ipv6(to.host)]
        shown = (host, leg.rtcp.local_port, *to)
        if shown != stream.shown:
            stream.shown = shown
            outgoing = self._place(*shown[:2]), self._place(*shown[2:])
            self._supervisor.send(messages.Join(stream.number, stream.file.number, at_ns, outgoing))

    def _close(self, recording: Recording, at_ns: int) -> None:
        recording.closed_at_ns = at_ns
        for file in recording.files:
            if self._active.get(file.name) is recording:
                del self._active[file.name]
            self._supervisor.send(messages.Close(file.number, at_ns))

    def _place(self, host: str, port: int) -> Place:
        packed = self._hosts.get(host)
        if packed is None:
            if len(self._hosts) >= _MAX_REMEMBERED:
                self._hosts.clear()
            family = socket.AF_INET6 if is_ipv6(host) else socket.AF_INET
            packed = self._hosts[host] = socket.inet_pton(family, host.partition("%")[0])
        return Place(packed, port)

    # Hearing from the process

    def _on_message(self, message: ToRelay) -> None:
        if isinstance(message, Found):
            name = repr(message.name)[2:-1]
            if message.is_in_place:
                log.warning("spool: %s was left by a killed relay, and is finished: %d packets", name, message.packets)
            else:
                log.warning("spool: %s was left by a killed relay, and stays there: %s", name, message.why)
        elif isinstance(message, Ended):
            self._on_ended(message)

    def _on_ended(self, ended: Ended) -> None:
        recording = self._recordings.pop(ended.file, None)
        if recording is None:
            return
        for file in recording.files:
            if file.number == ended.file:
                file.ended = ended
                self._spooled.discard(file.spool_name)
                self._packets += ended.packets
                self._lost += file.lost
        if recording.closed_at_ns is None:
            # It ended by itself: the sides stop what goes on, and with the last of them the other file is closed.
            for side in tuple(recording.sides):
                side.on_end(self._clock())
        if recording.has_ended:
            text, is_well = recording.outcome()
            log.log(logging.INFO if is_well else logging.ERROR, "%s: %s", recording.title, text)

    # The process and the ring

    def _ensure_ring(self) -> None:
        """Make the ring, if there is none and one can be made. Without it, what is recorded comes to userspace."""
        if self._ring is not None or self._open_ring is None:
            return
        try:
            ring = self._open_ring()
            self._supervisor.read_ring(ring)
        except (OffloadError, OSError) as error:
            log.warning("userspace relays streams that are recorded: %s", error)
        else:
            self._ring = ring

    def _resume(self) -> None:
        """Hand everything that goes on to a process that was started anew."""
        for number, recording in tuple(self._recordings.items()):
            self._continue(number, recording)

    def _continue(self, number: int, recording: Recording) -> None:
        """Go on with a file that a dead process began."""
        file = next(one for one in recording.files if one.number == number)
        found = self._directories.reopen(file.name, file.spool_name, file.identity)
        if found is None:
            self._on_ended(Ended(number, 0, False, "the file is gone"))
            return
        made, is_in_place = found
        if is_in_place:
            self._spooled.discard(file.spool_name)
            file.spool_name = b""
        for side in recording.sides:
            side.absorb(self._clock())
        self._open(recording, file, made.descriptor, is_continued=True)
        for stream in recording.streams:
            if stream.file is file:
                stream.missing, stream.shown = 0, None
                self._join(stream)
        if recording.closed_at_ns is not None:
            self._supervisor.send(messages.Close(number, recording.closed_at_ns))
