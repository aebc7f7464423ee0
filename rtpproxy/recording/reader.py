"""The process that writes recordings, sends copies and watches streams: takes packets where it is told to.

It has no privileges, and gets descriptors of two directories, of open files and of sockets from the relay. A slow disk
holds up this process alone. When the relay is gone, however it ended, the socket is closed: then all files are
finished.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from rtpproxy.process.clock import monotonic_offset_ns
from rtpproxy.process.privileges import become, forbid_new, nobody
from rtpproxy.recording import formats, spool
from rtpproxy.recording.clock_steps import ClockSteps
from rtpproxy.recording.collectors import Collectors
from rtpproxy.recording.copy_output import CopyOutput
from rtpproxy.recording.file_output import FileOutput
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.handlers import Handlers
from rtpproxy.recording.live_output import LiveOutput
from rtpproxy.recording.messages import (
    MAX_BYTES,
    ROOM_BYTES,
    Aim,
    Close,
    Directories,
    Ended,
    Join,
    Leave,
    Lost,
    MapRing,
    Message,
    NoDirectory,
    Open,
    OpenCopy,
    OpenTap,
    Packets,
    Progress,
    Several,
    Teed,
    ToRelay,
    decode,
    encode,
)
from rtpproxy.recording.outputs import Output, Outputs
from rtpproxy.recording.ring import Ring, read_ip
from rtpproxy.recording.tap_output import TapOutput
from rtpproxy.recording.wall_clock import WallClock

BATCH = 64
"""Messages that are read before what is due is done."""
_MOST_DESCRIPTORS = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals for the relay, which a terminal or a service manager may send to all its processes. Its end is ours."""
_NS_PER_MS = 1_000_000
_PROGRESS = MAX_BYTES // 32
"""Copies and taps of which one message tells how far they are."""
RECORDS = 10_000
"""Packets of the ring that are read before what is due is done."""
HELD_UP_NS = 1_000_000_000
"""Time that a processor may take to finish a packet in the ring, while this process has to begin or to end."""
RING_NS = 10_000_000
"""Time between two looks at the ring while there is an output; no more than the window of `outputs`."""


class _Directories:
    """Descriptors of the directory of recordings and of the spool; none before the relay sent them."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)
        self.files = 0
        """Open files that are to be moved from the one to the other."""

    def close_if_unused(self) -> None:
        """Close them, unless there are such files."""
        if not self.files:
            for descriptor in self.descriptors:
                os.close(descriptor)


class Reader:
    """The process' state: the socket to the relay, the directories, the outputs."""

    def __init__(self, relay: socket.socket, clock_offset_ns: int, steps: ClockSteps) -> None:
        """`clock_offset_ns` is by how much this process' monotonic clock is ahead of the kernel's."""
        self._relay = relay
        self._clock_offset_ns = clock_offset_ns
        self._steps = steps
        self._poll = select.poll()
        for one in (relay, steps):
            self._poll.register(one, select.POLLIN)
        self._wall_clock = WallClock()
        self._frames = Frames()
        self._directories = _Directories(())
        self._directories_of: dict[int, _Directories] = {}
        """By number of each open file: where it was made, which later ones may not be."""
        self._outputs = Outputs(self._wall_clock.since_1970, self._ended)
        self._collectors = Collectors()
        self._handlers = Handlers(self._collectors)
        self._ring: Ring | None = None
        self._ring_read_ns = 0
        """Time up to which everything that arrived was taken out of the ring."""
        self._is_behind = False
        """The ring had more packets than are read in one turn."""
        self._has_privileges = True
        self._buffer = bytearray(ROOM_BYTES)

    def run(self) -> None:
        """Read and write until the relay is gone."""
        is_open = True
        while is_open:
            self.wait()
            is_open = self.turn()

    def wait(self) -> None:
        """Wait until there is something to do, or somebody steps the clock."""
        due_ns = self._due_ns(self._look_at_clocks())
        ready = self._poll.poll(None if due_ns is None else due_ns / _NS_PER_MS)
        self._look_at_clocks(has_waited=True)
        if any(descriptor == self._steps.fileno() for descriptor, _ in ready):
            self._steps.take()

    def turn(self) -> bool:
        """Do what is to be done; False if the relay is gone, and all files are finished."""
        is_open = self._read()
        now_ns = self._look_at_clocks()
        read_ns = self._read_ring(now_ns)
        if is_open:
            if self._outputs.work(now_ns, read_ns):
                self._tell_progress()
        else:
            self._read_rest(now_ns)
            self._outputs.finish(now_ns)
        self._tell_news(now_ns, is_last=not is_open)
        return is_open

    def _due_ns(self, now_ns: int) -> int | None:
        """Return the time until something is due, in nanoseconds; None if nothing is."""
        if self._is_behind:
            return 0
        dues = self._outputs.due_ns(now_ns), self._collectors.due_ns(now_ns)
        due_ns = min((due for due in dues if due is not None), default=None)
        if self._ring is None or not len(self._outputs):
            return due_ns
        # Also where packets came while others were written: a look that finds only a few costs more than they do.
        return RING_NS if due_ns is None else min(due_ns, RING_NS)

    def _read_ring(self, now_ns: int) -> int:
        """Take packets that are in the ring now, at `now_ns`. Returns up to which time there are no more."""
        if self._ring is None:
            return now_ns
        count, arrived_ns, teed = 0, self._ring_read_ns, self._outputs.teed
        for arrived_ns, tee, ip_packet in self._ring.records(RECORDS):
            teed(tee, read_ip(arrived_ns, ip_packet))
            count += 1
        self._is_behind = count == RECORDS
        if self._ring.consumed == self._ring.produced:
            self._ring_read_ns = now_ns
        else:
            # There are more, or a processor that was held up has not finished one, and others wait behind that.
            self._ring_read_ns = min(now_ns, max(self._ring_read_ns, arrived_ns))
        return self._ring_read_ns

    def _read_rest(self, until_ns: int) -> None:
        """Take all packets that were in the ring at a time; no longer than `HELD_UP_NS` wait for one to be finished."""
        ring, consumed, waits_since_ns = self._ring, -1, 0
        while ring is not None and self._read_ring(until_ns) < until_ns:
            now_ns = self._look_at_clocks()
            if ring.consumed != consumed:
                consumed, waits_since_ns = ring.consumed, now_ns
            elif now_ns - waits_since_ns >= HELD_UP_NS:
                waiting = f"{ring.produced - consumed} bytes of the ring wait"
                with contextlib.suppress(OSError):  # nobody may read it
                    print(f"recordings: {waiting} for a packet that is not finished", file=sys.stderr, flush=True)
                return

    def _look_at_clocks(self, *, has_waited: bool = False) -> int:
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        offset_ns = self._clock_offset_ns
        self._wall_clock.measure(before_ns - offset_ns, wall_ns, after_ns - offset_ns, has_waited=has_waited)
        return after_ns - offset_ns

    def _read(self) -> bool:
        """Take messages that wait; False if the relay is gone."""
        for _ in range(BATCH):
            try:
                size, descriptors = self._receive()
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not size:
                return False
            self._take(decode(bytes(memoryview(self._buffer)[:size])), descriptors)
        return True

    def _receive(self) -> tuple[int, list[int]]:
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        size, ancillary, _, _ = self._relay.recvmsg_into([self._buffer], _ANCILLARY_BYTES, flags)
        descriptors: list[int] = []
        for _, _, data in ancillary:
            descriptors += memoryview(data[: len(data) - len(data) % 4]).cast("i")
        return size, descriptors

    def _take(self, message: Message, descriptors: Sequence[int]) -> None:
        match message:
            case Packets():
                for stream, packet in message.packets:
                    self._outputs.packet(stream, packet)
            case Several():
                for one in message.messages:
                    self._take(one, ())
            case Join() | Lost() | Leave() | Close():
                self._outputs.note(message)
            case Teed():
                self._outputs.tee(message)
            case OpenCopy():
                self._outputs.open(CopyOutput(message))
            case OpenTap():
                self._outputs.open(TapOutput(message, self._handlers.make(message.kind, message.settings), self._tell))
            case NoDirectory():
                self._give_up(None)
                os.chdir("/")
            case _:
                self._take_over(message, descriptors)

    def _take_over(self, message: Message, descriptors: Sequence[int]) -> None:
        """Take a message that descriptors belong to."""
        match message:
            case MapRing():
                self._map(message, descriptors)
            case Open():
                self._open(message, descriptors)
            case Aim():
                self._outputs.aim(message, descriptors[0] if descriptors else None)
            case Directories():
                self._enter(message, descriptors)

    def _open(self, message: Open, descriptors: Sequence[int]) -> None:
        if not descriptors:
            # The kernel closes descriptors that there is no room for (unix(7)).
            self._tell(Ended(message.output, 0, not message.spool_name, os.strerror(errno.EMFILE)))
            return
        self._directories_of[message.output] = self._directories
        self._directories.files += 1
        form = formats.make(message.format, self._frames, message.title)
        self._outputs.open(FileOutput(descriptors[0], message, form))

    def _map(self, message: MapRing, descriptors: Sequence[int]) -> None:
        """Read the ring from now on. What a dead process did not read is read before the files are opened again."""
        (descriptor,) = descriptors  # without it, this process must end: the next one may have room for a descriptor
        self._ring = Ring(descriptor, message.size_bytes, message.numbers, message.record_bytes)
        os.close(descriptor)
        self._read_rest(self._look_at_clocks())

    def _enter(self, message: Directories, descriptors: Sequence[int]) -> None:
        """Work in the directories from now on, and finish what a killed relay left in the spool, if told to."""
        if len(descriptors) != 1 + message.has_spool:
            return
        before, self._directories = self._directories, _Directories(descriptors)
        before.close_if_unused()
        self._give_up(descriptors[0])
        os.fchdir(descriptors[0])
        if message.has_spool and message.finishes:
            for found in spool.finish_all(descriptors[1], descriptors[0]):
                self._tell(found)

    def _give_up(self, directory: int | None) -> None:
        if self._has_privileges:
            _give_up_privileges(directory)
            self._has_privileges = False

    def _ended(self, output: Output) -> None:
        about = output.about
        if isinstance(about, Open):
            why, is_in_place = self._move(about, output.why)
            self._tell(Ended(about.output, output.packets, is_in_place, why, output.teed))
        else:
            withheld = output.withheld if isinstance(output, LiveOutput) else 0
            self._tell(Ended(about.output, output.packets, True, output.why, output.teed, withheld))

    def _move(self, about: Open, why: str) -> tuple[str, bool]:
        """Move a file out of the spool, unless something went wrong. Returns what did, and whether it is in place."""
        made_in = self._directories_of.pop(about.output)
        made_in.files -= 1
        try:
            if not about.spool_name or why:
                return why, not about.spool_name
            directory, spooled = made_in.descriptors
            os.rename(about.spool_name, about.name, src_dir_fd=spooled, dst_dir_fd=directory)
        except OSError as error:
            return f"it cannot be moved out of the spool: {error.strerror}", False
        finally:
            if made_in is not self._directories:
                made_in.close_if_unused()
        return "", True

    def _tell_progress(self) -> None:
        sent = self._outputs.progress()
        for first in range(0, len(sent), _PROGRESS):
            self._tell(Progress(tuple(sent[first : first + _PROGRESS])))

    def _tell_news(self, now_ns: int, *, is_last: bool) -> None:
        """Go on with what is under way to collectors, or end it, and tell what became of it."""
        if is_last:
            news = self._collectors.close(now_ns)
        else:
            self._collectors.work(now_ns)
            news = self._collectors.news(now_ns)
        if news is not None:
            self._tell(news)

    def _tell(self, message: ToRelay) -> None:
        try:
            self._relay.sendall(encode(message))
        except OSError as error:
            # The relay is gone, which the next reading tells, too.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise


def _give_up_privileges(directory: int | None) -> None:
    """Become the owner of the directory of recordings, without one nobody, if we are root. Keep no capability."""
    if os.geteuid() != 0:
        forbid_new()
    elif directory is None:
        become(*nobody(), 0, is_traceable=False)
    else:
        owner = os.fstat(directory)
        become(owner.st_uid, owner.st_gid, 0)


def _close_inherited(kept: int) -> None:
    """Close what came from those who started the relay, as its listening sockets: they must not outlive it here."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > sys.stderr.fileno() and int(name) != kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def main() -> None:
    """Serve the relay at the other end of standard input."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # A relay with real-time scheduling must not be held up by its recordings.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    relay = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    _close_inherited(relay.fileno())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)
    Reader(relay, monotonic_offset_ns(), ClockSteps()).run()
