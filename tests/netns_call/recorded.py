"""Recordings of calls under traffic, and a model of them: which packets must be in which file, and which may be.

The model knows when each packet was sent and when the other phone had it, and when each command was given and
answered. A packet that was sent after the reply to start and had arrived before the command to stop must be in the
file, once. One that had arrived before the command to start, or was sent after the reply to stop, must not.
"""

import errno
import math
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import UNFINISHED
from rtpproxy.session.session import Component, Role
from tests.netns_call.call import DEADLINE_S, Address, Call, Party, PhonePort, number_of, numbered, rtcp
from tests.recording.packets import read_adhoc, read_pcap
from tests.running import RunningRelay
from tests.waiting import wait_for

FIRST = 10
"""Number of the first packet: those before it are of `Call.establish`."""
INTERVAL_S = 1 / 150
TOLERANCE_S = 0.01
"""A file's times differ by microseconds from the phones'. On a busy machine it takes some looks at the clocks, between
which the process is held up, until they are known so exactly."""
_ROLES = tuple(Role)
_LINK_ERRORS = (errno.ENETUNREACH, errno.ENETDOWN, errno.EAGAIN)
_TAGS = {Role.CALLER: "f t", Role.CALLEE: "t f"}
_SIDES = {Role.CALLER: "o", Role.CALLEE: "a"}
_ENDINGS = (".rtp", ".rtcp")


class TimedStream:
    """Numbered packets of one stream: when each was sent, and when it had arrived, by the monotonic clock."""

    def __init__(self, call: Call, role: Role, component: Component) -> None:
        self.call, self.role, self.component = call, role, component
        self.sent_at: dict[int, float] = {}
        self.taken_at: dict[int, float] = {}
        self.doubled: list[int] = []

    @property
    def sender(self) -> PhonePort:
        return self._port(self.role)

    @property
    def receiver(self) -> PhonePort:
        return self._port(self.role.peer)

    @property
    def to(self) -> Address:
        """The relay's address that the packets are sent to."""
        return self.relay_end(self.role)

    def relay_end(self, role: Role) -> Address:
        """The relay's address that a party sends to."""
        party = self._party(role)
        return party.to_rtcp if self.component else party.to

    def packet(self, number: int) -> bytes:
        return rtcp(number) if self.component else numbered(number)

    def number_of(self, data: bytes) -> int:
        return int.from_bytes(data[4:8]) if self.component else number_of(data)

    def send(self) -> None:
        """Send the next."""
        number = FIRST + len(self.sent_at)
        self.sent_at[number] = time.monotonic()
        try:
            self.sender.send(self.packet(number), self.to)
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
            del self.sent_at[number]

    def take(self) -> None:
        """Take note of what has arrived."""
        arrived = [self.number_of(data) for data, _ in self.receiver.take()]
        now = time.monotonic()
        for number in arrived:
            if number in self.taken_at:
                self.doubled.append(number)
            self.taken_at.setdefault(number, now)

    def cross(self, count: int) -> None:
        """Send so many, and wait until they have arrived."""
        for _ in range(count):
            self.send()

        def have_arrived() -> bool:
            self.take()
            return not self.missing

        wait_for(have_arrived, DEADLINE_S, f"{count} packets")

    @property
    def missing(self) -> set[int]:
        """Packets that have not arrived."""
        return self.sent_at.keys() - self.taken_at.keys()

    def _party(self, role: Role) -> Party:
        return self.call.caller if role is Role.CALLER else self.call.callee

    def _port(self, role: Role) -> PhonePort:
        party = self._party(role)
        return party.rtcp if self.component else party.rtp


def streams_of(calls: Iterable[Call]) -> list[TimedStream]:
    """The four streams of each call."""
    return [TimedStream(call, role, component) for call in calls for role in _ROLES for component in Component]


class TimedTraffic:
    """Streams under way, in a thread, from entering the context until its end."""

    def __init__(self, streams: Iterable[TimedStream]) -> None:
        self._streams = list(streams)
        self._by_receiver = {stream.receiver: stream for stream in self._streams}
        self._is_sending = self._is_open = True
        self._rounds = 0
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "TimedTraffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._thread.join()
        assert not self._failures, self._failures

    def more(self, count: int) -> None:
        """Wait until so many more packets of each stream were sent."""
        until = self._rounds + count
        self._wait(lambda: self._rounds >= until, f"{count} packets to be sent")

    def finish(self) -> None:
        """Stop sending, and wait until everything has arrived, each packet once."""
        self._is_sending = False
        self._wait(lambda: not any(stream.missing for stream in self._streams), "every packet to arrive")
        assert not any(stream.doubled for stream in self._streams)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(lambda: self._failures or condition(), DEADLINE_S, what)
        assert not self._failures, self._failures

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while self._is_open:
                now = time.monotonic()
                if due <= now and self._is_sending:
                    for stream in self._streams:
                        stream.send()
                    self._rounds += 1
                    due = max(due + INTERVAL_S, now)
                pause_s = max(0.0, due - time.monotonic()) if self._is_sending else INTERVAL_S
                readable, _, _ = select.select(list(self._by_receiver), [], [], pause_s)
                for receiver in readable:
                    self._by_receiver[receiver].take()
        except Exception as error:  # raised again by the waiting thread
            self._failures.append(error)


@dataclass
class Interval:
    """One side's part in a recording, by when its commands were given and answered."""

    role: Role
    asked_at: float
    begun_at: float
    stop_asked_at: float = math.inf
    stopped_at: float = math.inf

    def must(self, stream: TimedStream) -> set[int]:
        """The packets that must be in the file."""
        taken_at = stream.taken_at
        return {
            number
            for number, sent_at in stream.sent_at.items()
            if sent_at > self.begun_at and taken_at.get(number, math.inf) < self.stop_asked_at
        }

    def may(self, stream: TimedStream) -> set[int]:
        """Those that may be there."""
        taken_at = stream.taken_at
        return {
            number
            for number, sent_at in stream.sent_at.items()
            if taken_at.get(number, math.inf) > self.asked_at and sent_at < self.stopped_at
        }


@dataclass(eq=False)
class Recorded:
    """A recording, of which each file has a name."""

    call: Call
    names: dict[str, tuple[Component, ...]]
    """The components that are in each file."""
    is_whole: bool
    """All streams of the call are in one file."""
    intervals: list[Interval] = field(default_factory=list)
    kept: dict[str, Path] = field(default_factory=dict)
    """Files that were put aside before others got their names."""

    @property
    def going_on(self) -> set[Role]:
        """Sides that have not been stopped."""
        return {one.role for one in self.intervals if one.stopped_at == math.inf}


class Seen(NamedTuple):
    """A packet as a file has it. `to` is None where the format has no place for it."""

    source: Address
    to: Address | None
    time_s: float
    payload: bytes


class Recordings:
    """Starts and stops recordings of calls, and knows what the files must have."""

    def __init__(self, relay: RunningRelay, calls: list[Call], kind: RecordFormat, place: Path) -> None:
        """`place` is the directory of recordings."""
        self.relay = relay
        self.calls = calls
        self.kind = kind
        self.all: list[Recorded] = []
        self._place = place
        self._kept = place.parent / "kept"
        self._kept.mkdir()
        self._sides: dict[tuple[Call, Role], Recorded] = {}
        self._latest: dict[str, Recorded] = {}
        """By the name of each file that was not put aside."""

    @property
    def count(self) -> int:
        """Sides that were begun to be recorded."""
        return sum(len(one.intervals) for one in self.all)

    def act(self, rng: Random) -> None:
        """Give a command at random."""
        call, role = rng.choice(self.calls), rng.choice(_ROLES)
        match rng.randrange(8):
            case 0 | 1:
                self.stop(call, role, is_both=rng.randrange(3) == 0)
            case 2:
                call.update(*call.caller.rtp.address)
            case choice:
                self.begin(call, role, is_single=rng.randrange(2) == 0, is_named=choice > 4)

    def begin(self, call: Call, role: Role, *, is_single: bool, is_named: bool) -> None:
        """`R` or `C NAME`. A side that is recorded already stays as it is."""
        is_whole = is_single and self.kind is not RecordFormat.ADHOC
        stem, joined = self._stem(call, role, is_whole=is_whole, is_named=is_named)
        letters = ("C" if is_named else "R") + "s" * is_single
        words = [letters, call.name, *([stem] if is_named else []), _TAGS[role]]
        error = "E65" if is_named else "E50"
        if (call, role) in self._sides:
            assert self.relay.ask(" ".join(words)) == (error if is_whole else "0")
            return
        recorded = joined or Recorded(call, _names(stem, is_whole=is_whole), is_whole)
        if joined is None:
            for name in recorded.names:
                self._put_aside(name)
                self._latest[name] = recorded
            self.all.append(recorded)
        asked_at = time.monotonic()
        assert self.relay.ask(" ".join(words)) == "0"
        recorded.intervals.append(Interval(role, asked_at, time.monotonic()))
        self._sides[call, role] = recorded

    def stop(self, call: Call, role: Role, *, is_both: bool = False) -> None:
        """`N` or `Na`."""
        keys = [(call, one) for one in _ROLES if is_both or one is role]
        with self._stopping(*(key for key in keys if key in self._sides)) as had_any:
            assert self.relay.ask(f"N{'a' * is_both} {call.name} {_TAGS[role]}") == ("0" if had_any else "E50")

    def end(self, call: Call) -> None:
        """`D`."""
        with self._stopping(*((call, role) for role in _ROLES if (call, role) in self._sides)):
            assert self.relay.ask(f"D {call.tags}") == "0"

    def wait_until_all_ended(self) -> None:
        """Wait until each file is complete and each recording told of in the log."""
        wait_for(lambda: len(self._lines()) == len(self.all), DEADLINE_S, "the end of all recordings")

    def check(self, streams: Iterable[TimedStream], *, is_host_known: bool = True) -> dict[str, list[tuple[str, int]]]:
        """Check every file against the model. Returns what is in each: sender, component and number of the packets.

        Where the relay's host may not be known, as with ports that are bound on all addresses, files may have zeros.
        """
        by_call: dict[Call, list[TimedStream]] = {call: [] for call in self.calls}
        for stream in streams:
            by_call[stream.call].append(stream)
        found, packets = {}, []
        for number, recorded in enumerate(self.all):
            count = 0
            for name, components in recorded.names.items():
                path = recorded.kept.get(name, self._place / name)
                wanted = [one for one in by_call[recorded.call] if one.component in components]
                seen = self._check_file(path, recorded, wanted, is_host_known)
                found[f"{number} {name}"] = seen
                count += len(seen)
            packets.append(f"{count} packets in {', '.join(recorded.names)}")
        assert Counter(self._lines()) == Counter(packets)
        assert {path.name for path in self._place.iterdir()} - {UNFINISHED} == self._latest.keys()
        return found

    def _check_file(
        self, path: Path, recorded: Recorded, streams: list[TimedStream], is_host_known: bool
    ) -> list[tuple[str, int]]:
        by_source = {self._ends(recorded, one): one for one in streams}
        if not is_host_known:
            by_source |= {self._ends(recorded, one, is_host_known=False): one for one in streams}
        found = []
        for source, to, time_s, payload in self._read(path):
            stream = by_source[source, to]
            number = stream.number_of(payload)
            assert payload == stream.packet(number)
            sent_at, taken_at = stream.sent_at[number], stream.taken_at.get(number, math.inf)
            assert sent_at - TOLERANCE_S <= time_s <= taken_at + TOLERANCE_S, (path, number, sent_at, time_s, taken_at)
            found.append((stream, number))
        for stream in streams:
            intervals = [one for one in recorded.intervals if one.role is stream.role]
            numbers = [number for one, number in found if one is stream]
            assert len(set(numbers)) == len(numbers), path
            must = set().union(*(one.must(stream) for one in intervals))
            may = set().union(*(one.may(stream) for one in intervals))
            assert must - set(numbers) == set(), f"missing in {path}"
            assert set(numbers) - may == set(), f"not to be in {path}"
        return [(f"{one.call.name} {one.role.name} {one.component.name}", number) for one, number in found]

    def _ends(
        self, recorded: Recorded, stream: TimedStream, *, is_host_known: bool = True
    ) -> tuple[Address, Address | None]:
        """Source and destination of a stream's packets in the file (protocol.md 8.3, 8.5)."""

        def ours(role: Role) -> Address:
            host, port = stream.relay_end(role)
            return (host if is_host_known else "::" if ":" in host else "0.0.0.0"), port

        source = stream.sender.address
        if self.kind is RecordFormat.ADHOC:
            return source, None
        if recorded.is_whole and stream.component is Component.RTCP:
            return ours(stream.role.peer), stream.receiver.address
        return source, ours(stream.role)

    def _read(self, path: Path) -> list[Seen]:
        ahead_s = time.time() - time.monotonic()
        if self.kind is RecordFormat.ADHOC:
            read = read_adhoc(path.read_bytes())
            return [
                Seen((_text(one.source[0]), one.source[1]), None, one.arrived - ahead_s, one.payload) for one in read
            ]
        frames = read_pcap(path)
        return [Seen(one.source, one.to, one.time_us / 1e6 - ahead_s, one.payload) for one in frames]

    def _stem(self, call: Call, role: Role, *, is_whole: bool, is_named: bool) -> tuple[str, Recorded | None]:
        """The name, without what is added for components; and the recording that the side joins, if there is one."""
        theirs = self._sides.get((call, role.peer))
        if is_named:
            if is_whole and theirs is not None and theirs.is_whole and next(iter(theirs.names)).startswith("name"):
                return next(iter(theirs.names)), theirs
            return f"name{len(self.all)}", None
        if not is_whole:
            return f"{call.name}=f.{_SIDES[role]}", None
        name = f"{call.name}=f.{self.kind.value}"
        return name, theirs if theirs is not None and name in theirs.names else None

    def _put_aside(self, name: str) -> None:
        """Give an earlier file another name, once it is complete."""
        earlier = self._latest.pop(name, None)
        if earlier is None:
            return
        told = f"in {', '.join(earlier.names)}"
        count = sum(one.names == earlier.names for one in self.all)
        wait_for(lambda: sum(told in line for line in self._lines()) == count, DEADLINE_S, f"{name} to end")
        earlier.kept[name] = (self._place / name).rename(self._kept / f"{len(self.all)} {name}")

    def _lines(self) -> list[str]:
        """What the log tells of recordings that have ended."""
        lines = self.relay.log.splitlines()
        return [line.rpartition(": ")[2] for line in lines if ": recording of " in line and " packets in " in line]

    @contextmanager
    def _stopping(self, *keys: tuple[Call, Role]) -> Iterator[bool]:
        """While the command is under way that stops these sides, which are recorded."""
        recordeds = [(self._sides.pop(key), key[1]) for key in keys]
        parts = [
            part
            for recorded, role in recordeds
            for part in recorded.intervals
            if part.role is role and part.stopped_at == math.inf
        ]
        asked_at = time.monotonic()
        yield bool(keys)
        for part in parts:
            part.stop_asked_at, part.stopped_at = asked_at, time.monotonic()


def _names(stem: str, *, is_whole: bool) -> dict[str, tuple[Component, ...]]:
    """The files of a recording, and the components in each."""
    if is_whole:
        return {stem: tuple(Component)}
    return {stem + ending: (component,) for component, ending in zip(Component, _ENDINGS, strict=True)}


def _text(host: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(host) == 16 else socket.AF_INET, host)
