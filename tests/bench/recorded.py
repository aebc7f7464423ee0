"""Recorded calls: what recording takes from the kernel tier, and how many calls one core writes to files, whole.

All by the relay's own commands, and by the process of its own that writes. Files are in memory, so that no disk is
measured, and every one of them is counted: what was sent must be there, or the relay must say that it is lost.
"""

import re
import resource
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rtpproxy.config import Config, RecordFormat
from rtpproxy.recording.formats import find_whole
from tests.bench.generator import AT_ONCE_NS, NEVER_NS, Generator, Sent
from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import DEADLINE_S, Subject, relayed, told, wait_for_kernel
from tests.bench.runs import Measured, MeasuringError, measure, quartiles
from tests.waiting import wait_for

CALL_PACKETS_PER_S = 100
"""Both directions of a call with 20 ms. Here one stream of each call sends as much."""
_LEAST_STEADY = 0.95
"""Of the packets that steady calls should send beside others at full speed."""
KEEPS_UP = 0.95
"""Of a core: a process that writes and is busier than this falls behind, though the ring may hide that for seconds."""
_TIERS = "xdp", "tc"
_COMMANDS = {RecordFormat.ADHOC: "R", RecordFormat.PCAP: "Rs", RecordFormat.PCAPNG: "Rs"}
"""Records one side of a call: in the formats that permit it, both into one file."""
_CALL_FILES = 4
"""Files of a recorded call in RTPproxy's own format; the others have one."""
_OTHER_FILES = 1000
"""That a process may need to have open beside them, and more."""
_MOST_BYTES = 2 << 30
"""Of all files at a time. The longest run writes half of it."""
_RING_SHARE = 0.75
"""Of the ring, filled at once where the time for a teed packet is measured: nothing of that may be missed."""
_RECORD_BYTES = 264
"""That a packet of the generator takes in the ring."""
_LOOK_S = 0.02
Result = dict[str, Any]


class _Run(NamedTuple):
    """What was sent in a run, and what came of it."""

    sent: Sent
    measured: Measured
    writer_ns: int
    """Processor time that the process which writes took while it was sent."""

    @property
    def others_per_s(self) -> float:
        """Packets a second that arrived of streams that are not steady."""
        return self.measured.rate - self.sent.steady_packets / self.sent.elapsed_s


class _Sent(NamedTuple):
    """Packets sent so far, of the steady streams and of the others."""

    steady: int
    others: int


class _Files(NamedTuple):
    """What should have been in the files of recordings that are over, and what of it was not."""

    packets: int
    missing: int


class _Recordings:
    """Records calls of a subject, the first of all, and counts what is in their files."""

    def __init__(self, subject: Subject, tier: str, kind: RecordFormat, directory: Path, steady: int) -> None:
        assert subject.relay is not None
        self._subject, self._relay = subject, subject.relay
        self._tier, self._kind, self._directory, self._steady = tier, kind, directory, steady
        self._begun: list[_Sent] = []
        """By number of each call that is recorded."""
        self._expected: Counter[int] = Counter()
        """Packets that should be in the files of each call whose recording was stopped."""
        self._lost_on_the_way = self._lost_before = 0
        self._log_read = len(self._relay.log)

    def record(self, calls: int) -> None:
        """Record so many calls, and stop those beyond. A call may be recorded once between two calls of `finish`."""
        command = _COMMANDS[self._kind]
        for number in range(len(self._begun), calls):
            self._ask(f"{command} call{number} f t")
            self._ask(f"{command} call{number} t f")
            self._begun.append(self._sent)
        while len(self._begun) > calls:
            number = len(self._begun) - 1
            self._ask(f"Na call{number} f t")
            self._expected[number] = self._packets_of(number, self._begun.pop())
        wait_for_kernel(self._subject, self._tier, len(self._subject.streams))

    def run(self, send: Callable[[Generator], Sent]) -> _Run:
        """Send, and compare with what arrived."""
        sink = self._subject.sink
        assert sink is not None
        sink.reset()
        before_ns = self._writer_ns()
        sent = send(self._subject.generator)
        writer_ns = self._writer_ns() - before_ns
        measured = measure(sent, sink)
        self._lost_on_the_way += measured.lost_packets
        return _Run(sent, measured, writer_ns)

    def finish(self) -> _Files:
        """Stop all recordings, count the packets in each file, and remove it.

        Raises MeasuringError where files and relay tell different things.
        """
        self.record(0)
        wait_for(lambda: told(self._subject)["recording files_open"] == 0, DEADLINE_S, "files to be closed", _LOOK_S)
        found = _take_files(self._directory, self._kind)
        missing = sum((self._expected - found).values())
        too_many = sum((found - self._expected).values())
        said = told(self._subject)["recording packets_lost"] - self._lost_before
        logged = sum(map(int, re.findall(r", (\d+) lost", self._new_log())))
        if too_many or said != logged or not said <= missing <= said + self._lost_on_the_way:
            raise MeasuringError(
                f"{missing:,} packets are missing in the files and {too_many:,} too many; `It` tells of {said:,} "
                f"lost, the log of {logged:,}, and {self._lost_on_the_way:,} were lost on the way"
            )
        packets = sum(self._expected.values())
        self._expected.clear()
        self._lost_before += said
        self._lost_on_the_way = 0
        return _Files(packets, missing)

    def _writer_ns(self) -> int:
        """Processor time that the process which writes, the relay's only child, has taken so far; 0 without it."""
        pid = self._relay.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) for child in children)

    @property
    def _sent(self) -> _Sent:
        generator = self._subject.generator
        return _Sent(generator.steady_total, generator.total - generator.steady_total)

    def _packets_of(self, call: int, before: _Sent) -> int:
        """Packets that a call sent since then."""
        now, others = self._sent, len(self._subject.streams) - self._steady
        if call < self._steady:
            return sent_in_turn(call, self._steady, before.steady, now.steady)
        return sent_in_turn(call - self._steady, others, before.others, now.others)

    def _ask(self, command: str) -> None:
        reply = self._relay.ask(command)
        if reply != "0":
            raise MeasuringError(f"{command} was answered {reply}: {self._new_log()}")

    def _new_log(self) -> str:
        log = self._relay.log
        new, self._log_read = log[self._log_read :], len(log)
        if "failed: " in new:
            raise MeasuringError(f"files could not be written: {new.splitlines()[-1]}")
        return new


def measure_recorded(plan: Plan) -> Result:
    """Calls recorded in each format: the speed of the others, the time of a teed packet, and what is in the files."""
    with _memory_for_files() as directory:
        speeds, added = [], []
        for tier in _TIERS:
            for kind in RecordFormat:
                with _recording(plan, tier, kind, directory) as recordings:
                    speeds.append(_speed(plan, recordings, tier, kind))
                    if kind is RecordFormat.ADHOC:  # the kernel does not know of formats
                        added.append(_added(plan, recordings, tier))
        written = [result for kind in RecordFormat for result in _most(plan, kind, directory)]
    return {"calls": max(plan.sizes), "keeps_up": KEEPS_UP, "speed": speeds, "added": added, "written": written}


def sent_in_turn(place: int, streams: int, before: int, after: int) -> int:
    """Packets of the stream at that place, of so many that send in turn, from when `before` were sent till `after`."""
    return (after - place + streams - 1) // streams - (before - place + streams - 1) // streams


def _speed(plan: Plan, recordings: _Recordings, tier: str, kind: RecordFormat) -> Result:
    """The others at full speed, in turn, while none, some and all of the steady calls are recorded."""
    steady_ns = round(1e9 / (max(plan.recorded) * CALL_PACKETS_PER_S))
    rounds: list[dict[int, _Run]] = []
    files = []
    for number in range(plan.recorded_rounds):
        say(f"{tier.upper()}, {kind.value}: round {number + 1} of {plan.recorded_rounds}")
        runs = {}
        for recorded in sorted(plan.recorded, reverse=bool(number % 2)):
            recordings.record(recorded)
            runs[recorded] = recordings.run(lambda generator: generator.run(plan.run_s, 0, steady_ns))
            _check_steady(runs[recorded].sent, steady_ns)
        rounds.append(runs)
        files.append(recordings.finish())
    least, *more = plan.recorded
    return {
        "relay": tier.upper(),
        "format": kind.value,
        "others_per_s": round(statistics.median(one[least].others_per_s for one in rounds)),
        "recorded": [_compared(rounds, recorded, least) for recorded in more],
        "lost": max(run.measured.loss for one in rounds for run in one.values()),
        "packets": sum(one.packets for one in files),
        "missing": sum(one.missing for one in files),
    }


def _check_steady(sent: Sent, interval_ns: int) -> None:
    """Raise MeasuringError unless the steady calls sent as much as they should."""
    wanted = sent.elapsed_s * 1e9 / interval_ns
    if sent.steady_packets < _LEAST_STEADY * wanted:
        raise MeasuringError(f"the calls to be recorded sent {sent.steady_packets:,} of {wanted:,.0f} packets")


def _compared(rounds: list[dict[int, _Run]], recorded: int, least: int) -> Result:
    ratios = [one[recorded].others_per_s / one[least].others_per_s for one in rounds]
    return {
        "recorded": recorded,
        "of_none": round(statistics.median(ratios), 3),
        "of_none_quartiles": quartiles(ratios, 3),
    }


def _added(plan: Plan, recordings: _Recordings, tier: str) -> Result:
    """The steady calls alone at full speed, recorded or not in turn, for as many packets as the ring has room for."""
    packets = round(_RING_SHARE * (Config().tee_memory_mb << 20) / _RECORD_BYTES)
    say(f"{tier.upper()}: {packets:,} packets at full speed, {plan.rounds} times")
    plain, teed, files = [], [], []
    for number in range(plan.rounds):
        for is_teed in (bool(number % 2), not number % 2):
            recordings.record(max(plan.recorded) if is_teed else 0)
            run = recordings.run(lambda generator: generator.send(packets, NEVER_NS, AT_ONCE_NS))
            (teed if is_teed else plain).append(run.measured.packet_ns)
            files.append(recordings.finish())
    more = [one - other for one, other in zip(teed, plain, strict=True)]
    return {
        "relay": tier.upper(),
        "packet_ns": round(statistics.median(plain), 1),
        "added_ns": round(statistics.median(more), 1),
        "added_ns_quartiles": quartiles(more),
        "packets": sum(one.packets for one in files),
        "missing": sum(one.missing for one in files),
    }


def _most(plan: Plan, kind: RecordFormat, directory: Path) -> Iterator[Result]:
    """All calls at their usual rate, with more and more of them recorded until one core cannot write them whole."""
    with _recording(plan, _TIERS[0], kind, directory) as recordings:
        most = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _OTHER_FILES) // _CALL_FILES
        for recorded in [step for step in plan.recorded_steps if step <= most]:
            say(f"{kind.value}: {recorded:,} calls recorded")
            result = _at_call_rate(plan, recordings, recorded)
            yield {"format": kind.value, "recorded": recorded, **result}
            if not result["is_whole"]:
                return


def _at_call_rate(plan: Plan, recordings: _Recordings, recorded: int) -> Result:
    steady = max(plan.recorded)
    others_ns, steady_ns = (round(1e9 / (calls * CALL_PACKETS_PER_S)) for calls in (max(plan.sizes) - steady, steady))
    recordings.record(recorded)
    run = recordings.run(lambda generator: generator.run(plan.recorded_s, others_ns, steady_ns))
    files = recordings.finish()
    share = run.writer_ns / 1e9 / run.sent.elapsed_s
    return {
        "packets_per_s": round(files.packets / run.sent.elapsed_s),
        "packets": files.packets,
        "missing": files.missing,
        "lost": run.measured.loss,
        "core_share": round(share, 3),
        "packet_us": round(run.writer_ns / 1e3 / files.packets, 2),
        "is_whole": share <= KEEPS_UP and not files.missing,
    }


@contextmanager
def _recording(plan: Plan, tier: str, kind: RecordFormat, directory: Path) -> Iterator[_Recordings]:
    """The daemon with calls in the kernel, some of which send steadily, and which can be recorded in a format."""
    calls, steady = max(plan.sizes), max(plan.recorded)
    say(f"{calls:,} calls: setting up {tier.upper()} that records in the format {kind.value}")
    recording = "-r", str(directory), "--record-format", kind.value
    with relayed(calls, "--offload", tier, *recording, steady=steady) as subject:
        wait_for_kernel(subject, tier, calls)
        yield _Recordings(subject, tier, kind, directory, steady)


@contextmanager
def _memory_for_files() -> Iterator[Path]:
    """A file system in memory, of limited size. Only this process and those that it starts see it."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_MOST_BYTES}", "tmpfs", directory], check=True)
        stack.callback(subprocess.run, ["umount", directory], check=True)
        yield Path(directory)


def _take_files(directory: Path, kind: RecordFormat) -> Counter[int]:
    """Count the packets in the files of each call, and remove them. Raises MeasuringError for a file that is torn."""
    found: Counter[int] = Counter()
    for path in directory.glob("[!.]*"):
        call = re.match(r"call(\d+)=f\.", path.name)
        data = path.read_bytes()
        whole = find_whole(kind, data)
        if call is None or whole.kept_bytes != len(data):
            raise MeasuringError(f"{path.name} is no whole recording")
        found[int(call[1])] += whole.packets
        path.unlink()
    return found
