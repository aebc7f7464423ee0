"""Records what streams receive: makes the files, and hands them to the process that writes.

The event loop waits for no disk but to make files, because the reply to a command tells if that worked, and not for
long (`disk`).
"""

import logging
import os
from collections.abc import Callable, Container, Mapping, Sequence

from rtpproxy.config import Config, RecordFormat
from rtpproxy.errors import RecordingError
from rtpproxy.recording import messages, names
from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.directories import Directories
from rtpproxy.recording.messages import Found, ToRelay
from rtpproxy.recording.recording import File, Recording
from rtpproxy.recording.taken import Side, Taken
from rtpproxy.session.session import Component, Role, Session

log = logging.getLogger(__name__)

_EXTENSIONS = {RecordFormat.PCAP: b".pcap", RecordFormat.PCAPNG: b".pcapng"}


class Recorder:
    """All recordings of one relay."""

    def __init__(self, config: Config, directories: Directories, carrier: Carrier) -> None:
        """`carrier` brings packets to the process that has these directories."""
        self._format = config.record_format
        self._components = (Component.RTP,) if config.leaves_rtcp_out else (Component.RTP, Component.RTCP)
        self._directories = directories
        self._carrier = carrier
        carrier.listen(self._on_message)
        self._files: dict[int, tuple[Recording, File]] = {}
        """By number of each file that has not ended."""
        self._active: dict[bytes, Recording] = {}
        """By name of each file that packets go into."""
        self._spooled: set[bytes] = set()
        """Names in the spool of files that have not ended."""
        self._are_directories_untold = False
        """The process does not know yet that others are used."""
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
        self._carrier.ensure()
        is_whole = is_single and self.has_single_files
        recording = self._whole(session, role, name) if is_whole else self._separate(session, role, name)
        leg, peer_leg = session.leg(role), session.leg(role.peer)
        streams = []
        for stream in leg.streams:
            if stream.component in self._components:
                file = recording.files[0 if is_whole else stream.component]
                shown_at = peer_leg if is_whole and stream.component is Component.RTCP else None
                streams.append(self._carrier.take_up(recording, file, stream, shown_at))
        side = Side(self._carrier, recording, streams, on_end, absorb, role)
        recording.sides.append(side)
        return side

    def start(self) -> None:
        """Say what will keep recordings from being made, and finish what a killed relay left in the spool.

        To be called once the process is the user that it will be.
        """
        for objection in self._directories.prepare():
            log.error("recordings will fail: %s", objection)
        if self._directories.has_leftovers():
            self._carrier.ensure()

    def counts(self) -> Mapping[str, int]:
        """Count the files that are open, packets in files, and those that are known to be lost, also by stream."""
        going_on = self._carrier.going_on(Recording)
        opened = [file for one in going_on for file in one.files if file.ended is None]
        streams = [stream for one in going_on for stream in one.streams if stream.sink.ended is None]
        refused = sum(stream.refused for stream in streams)
        taken = sum(file.given for file in opened) - refused + sum(stream.teed_so_far for stream in streams)
        return {
            "files_open": len(opened),
            "packets_recorded": self._packets + taken,
            "packets_lost": self._lost + sum(stream.lost for stream in streams),
            **self._carrier.losses(going_on),
        }

    # As owner of files

    def look_again(self, stream: Taken, now: float) -> None:
        """Take note that the addresses may have changed that packets are shown with."""
        self._carrier.show(stream, now)

    def open_again(self, number: int) -> None:
        """Go on with a file that a dead process began. Raises RecordingError."""
        recording, file = self._files[number]
        found = self._directories.reopen(file.name, file.spool_name, file.identity)
        if found is None or found[1]:
            self._spooled.discard(file.spool_name)
            file.spool_name = b""
        if found is None:
            raise RecordingError("the file is gone")
        made, _ = found
        self._open(recording, file, made.descriptor, is_continued=True)

    def closed(self, number: int) -> None:
        """Let another recording have the name of a file to which nothing more is written."""
        found = self._files.get(number)
        if found is not None:
            self._free_name(*found)

    def ended(self, number: int) -> None:
        """Count a file that ended."""
        recording, file = self._files.pop(number)
        self._free_name(recording, file)
        self._spooled.discard(file.spool_name)
        assert file.ended is not None
        self._packets += file.ended.packets
        self._lost += file.lost

    def _free_name(self, recording: Recording, file: File) -> None:
        if self._active.get(file.name) is recording:
            del self._active[file.name]

    def _on_message(self, message: ToRelay) -> None:
        if isinstance(message, Found):
            file = os.path.join(self._directories.spool_path, repr(message.name)[2:-1])
            if message.is_in_place:
                log.warning("%s was left by a killed relay, and is finished: %d packets", file, message.packets)
            else:
                log.warning("%s was left by a killed relay, and stays there: %s", file, message.why)

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
                recording = Recording(owner=self, title=title, session=session, spool=self._directories.spool_path)
                return self._make_files(recording, one)
        raise RecordingError(f"another recording is being made in {repr(wanted[-1][0])[2:-1]}")

    def _make_files(self, recording: Recording, wanted: list[bytes]) -> Recording:
        numbers = [self._carrier.next_sink() for _ in wanted]
        spool_names: list[bytes] = []
        for name, number in zip(wanted, numbers, strict=True):
            spool_names.append(_free_spool_name(name, number, (self._spooled, spool_names)))
        all_made, has_changed = self._directories.make(spool_names)
        self._are_directories_untold |= has_changed
        if self._are_directories_untold:
            try:
                self._carrier.tell_directories()
            except OSError as error:
                for made in all_made:
                    os.close(made.descriptor)
                raise RecordingError(f"cannot hand the new directory over: {error.strerror}") from error
            self._are_directories_untold = False
        for number, name, made in zip(numbers, wanted, all_made, strict=True):
            file = File(number=number, name=name, spool_name=made.name, identity=made.identity, format=self._format)
            recording.files.append(file)
            self._files[number] = recording, file
            self._active[name] = recording
            self._spooled.add(made.name)
            self._open(recording, file, made.descriptor, is_continued=False)
        log.info("%s begins in %s", recording.title, recording.names)
        return recording

    def _open(self, recording: Recording, file: File, descriptor: int, *, is_continued: bool) -> None:
        streams = recording.streams_of(file)
        message = messages.Open(
            *(file.number, file.format, is_continued, file.given, file.name, file.spool_name, recording.title),
            teed=sum(stream.teed_so_far for stream in streams),
            tees=tuple(tee for stream in streams for tee in stream.tees),
        )
        self._carrier.open(recording, file, message, [descriptor])


def _free_spool_name(name: bytes, number: int, taken: Sequence[Container[bytes]]) -> bytes:
    """Choose the name in the spool: another one while an earlier recording of that name is being finished there."""
    chosen = name
    while any(chosen in some for some in taken):
        chosen = names.numbered(name, number)
        number += 1
    return chosen
