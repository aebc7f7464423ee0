"""Recorded streams: what the tee takes from the kernel tier, and how many records one core writes to a file.

No command tees yet, so the rows are written here, through the maps of the program that the daemon attached.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rtpproxy.config import Config
from rtpproxy.offload.loader import Loaded, OnDemand
from rtpproxy.offload.maps import MappedArray
from rtpproxy.offload.syscall import describe_map
from rtpproxy.offload.tee import Tee
from tests.bench.attached import attached_program, maps_of
from tests.bench.plan import Plan
from tests.bench.programs import pin
from tests.bench.progress import say
from tests.bench.relays import IPV4, Subject, in_kernel
from tests.bench.runs import run_once, settle
from tests.bpf.row_writer import NOTHING
from tests.conftest import load_programs

CALL_PACKETS_PER_S = 100
"""Both directions of a call with 20 ms; here each call has one stream that sends as much."""
Result = dict[str, Any]


class _Written(NamedTuple):
    """What the reader has written so far, and the processor time that it took, in seconds."""

    records: int
    processor_s: float


class _Reader:
    """The process that writes records to a file, on the core of the controller."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def written(self) -> _Written:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        records, processor_s = self._process.stdout.readline().split()
        return _Written(int(records), float(processor_s))


class _Teeing:
    """Changes which of a subject's streams are teed, and counts what found no room."""

    def __init__(self, rows: MappedArray, events: MappedArray) -> None:
        self._tee = rows.column("tee")
        self._missed = events.column("tee_missed")
        self._forwarding = [row for row, has_entry in enumerate(rows.column("is_forwarding")) if has_entry]

    def tee(self, streams: int) -> None:
        """Tee so many streams, evenly spread."""
        every = len(self._forwarding)
        for place, row in enumerate(self._forwarding):
            number = (place + 1) * streams // every
            self._tee[row] = number if number > place * streams // every else 0

    def missed(self) -> int:
        return int(self._missed.sum())

    def close(self) -> None:
        del self._tee, self._missed


def measure_teed(plan: Plan) -> list[Result]:
    """Each kernel tier with no, some and all of its streams teed: at full speed in turn, then at a pace."""
    return [result for tier in ("xdp", "tc") for result in _measure_tier(plan, tier)]


def _measure_tier(plan: Plan, tier: str) -> Iterator[Result]:
    calls = max(plan.sizes)
    say(f"{calls:,} calls: setting up {tier.upper()} with streams that are teed")
    numbers = [number for number in plan.teed if number < calls] + [calls]
    with in_kernel(calls, tier, IPV4) as subject, _teeing(subject, tier) as (teeing, reader):
        fast: dict[int, list[float]] = {number: [] for number in numbers}
        for round_number in range(plan.rounds):
            say(f"{tier.upper()}: round {round_number + 1} of {plan.rounds} at full speed")
            for number in sorted(numbers, reverse=bool(round_number % 2)):
                teeing.tee(number)
                fast[number].append(run_once(subject.generator, subject.sink, plan.run_s, 0).packet_ns)
                settle(lambda: reader.written().records, sys.maxsize)
        say(f"{tier.upper()}: {calls * CALL_PACKETS_PER_S:,} packets/s")
        for number in numbers:
            teeing.tee(number)
            of_none = [plain / teed for teed, plain in zip(fast[number], fast[numbers[0]], strict=True)]
            yield {
                "relay": tier.upper(),
                "calls": calls,
                "teed": number,
                "packets_per_s": round(1e9 / statistics.median(fast[number])),
                "of_none": round(statistics.median(of_none), 3),
                **_paced(plan, subject, teeing, reader, number, calls),
            }


def _paced(plan: Plan, subject: Subject, teeing: _Teeing, reader: _Reader, teed: int, calls: int) -> Result:
    """Each call at its usual rate: what of it was not forwarded, and what of the teed ones not written."""
    before, missed_before, sent_before = reader.written(), teeing.missed(), subject.generator.total
    run = run_once(subject.generator, subject.sink, plan.teed_s, round(1e9 / (calls * CALL_PACKETS_PER_S)))
    records = settle(lambda: reader.written().records - before.records, sys.maxsize)
    sent = subject.generator.total - sent_before
    return {
        "paced_packets_per_s": round(run.rate),
        "lost": round(run.loss, 6),
        "records_per_s": round(records * run.rate / sent),
        "missed": teeing.missed() - missed_before,
        "reader_share": round((reader.written().processor_s - before.processor_s) * run.rate / sent, 3),
    }


@contextmanager
def _teeing(subject: Subject, tier: str) -> Iterator[tuple[_Teeing, _Reader]]:
    with contextlib.closing(load_programs()) as described, ExitStack() as stack:
        layouts = described.layouts
        program_fd = attached_program(subject, tier)
        stack.callback(os.close, program_fd)
        fds = maps_of(program_fd, stack)
        arrays = []
        for name in ("port_rows", "port_events"):
            entries = describe_map(fds[name]).entries
            arrays.append(
                MappedArray(fds[name], layouts[name].__class__(layouts[name].key, layouts[name].value, entries))
            )
            stack.callback(arrays[-1].close)
        teeing = _Teeing(*arrays)
        stack.callback(teeing.close)
        tee = Tee(Loaded(OnDemand(NOTHING, (), {}), fds, layouts, ""), Config().tee_memory_mb << 20)
        stack.callback(tee.close)
        opened = tee.open()
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.tee_reader", str(Path(directory) / "pcap"), *map(str, opened)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[opened.fd],
        )
        stack.callback(process.communicate)
        pin(process)
        yield teeing, _Reader(process)
