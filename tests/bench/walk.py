"""Nanoseconds that the XDP program itself takes for a packet, by BPF_PROG_TEST_RUN, over rows that leave the caches.

A small program (`walk` in generator.c) turns the frame into the next stream's next packet and tail-calls the program to
be measured, so that one system call walks over all rows, in the order in which the calls got their random ports. That
program is the very one that runs in the daemon: found by its number at the interface, with the daemon's own maps, whose
rows the daemon filled. The same walk ending in an empty program says what walking costs.
"""

import ctypes
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from bcc import BPF

from tests.bench.attached import attached_program
from tests.bench.frames import FILLER, frame_bytes
from tests.bench.generator import compile_generator
from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import GENERATOR_CPU, Subject, relayed, told, wait_for_kernel
from tests.bench.runs import MeasuringError
from tests.bpf.prog_run import XDP_REDIRECT, run

_PORTS = 2048, 65000
_PACKETS = 20_000
"""Of a walk, at least."""


class _Walk(NamedTuple):
    """A walk over the rows of a subject's first streams, and then into its program, or an empty one."""

    subject: Subject
    bpf: BPF
    program_fd: int
    rows: int

    def packet_ns(self) -> int:
        """The mean of a walk, after one over all rows that brings their sequence numbers up to the walk's."""
        passes = max(1, _PACKETS // self.rows)
        self.run(self.rows)
        return self.run(self.rows * passes)

    def run(self, packets: int) -> int:
        """Nanoseconds a packet."""
        topology = self.subject.topology
        frame = bytes([FILLER]) * frame_bytes(4)

        def on_core() -> Any:
            os.sched_setaffinity(0, {GENERATOR_CPU})
            return run(self.program_fd, frame, ingress_ifindex=topology.caller.gateway.ifindex, repeat=packets)

        result = topology.relay.call(on_core)
        if result.verdict != XDP_REDIRECT:
            raise MeasuringError(f"the program did not forward a packet that it was run on: {result.verdict}")
        return result.duration_ns


def measure_walks(plan: Plan, programs: dict[str, str]) -> list[dict[str, Any]]:
    """The programs of several daemons (name -> path of the program), in turn; a result for each and number of rows."""
    calls = max(plan.rows)
    with ExitStack() as stack:
        walks: dict[tuple[str, int], tuple[_Walk, _Walk]] = {}
        for name, program in programs.items():
            say(f"XDP program by test-run: setting up {calls:,} calls")
            subject = stack.enter_context(_all_in_kernel(calls, program))
            program_fd = attached_program(subject)
            stack.callback(os.close, program_fd)
            for rows in plan.rows:
                walks[name, rows] = (
                    stack.enter_context(_walking(subject, rows, program_fd)),
                    stack.enter_context(_walking(subject, rows, None)),
                )
        say(f"XDP program by test-run: {plan.walks} walks over each number of rows")
        forwarded_before = {name: _forwarded(subject) for name, subject in _subjects(walks).items()}
        times: dict[tuple[str, int], list[tuple[int, int]]] = {key: [] for key in walks}
        for number in range(plan.walks):
            for key in sorted(walks, reverse=bool(number % 2)):
                times[key].append((walks[key][0].packet_ns(), walks[key][1].packet_ns()))
        for name, subject in _subjects(walks).items():
            wanted = sum(plan.walks * rows * (1 + max(1, _PACKETS // rows)) for rows in plan.rows)
            forwarded = _forwarded(subject) - forwarded_before[name]
            if forwarded != wanted:
                raise MeasuringError(f"the program forwarded {forwarded:,} of {wanted:,} packets that it was run on")
    return [_result(name, rows, of_walks) for (name, rows), of_walks in times.items()]


def _subjects(walks: dict[tuple[str, int], tuple[_Walk, _Walk]]) -> dict[str, Subject]:
    return {name: walk.subject for (name, _), (walk, _) in walks.items()}


def _forwarded(subject: Subject) -> int:
    return told(subject).get("frames forwarded", 0)


def _result(name: str, rows: int, of_walks: list[tuple[int, int]]) -> dict[str, Any]:
    of_program = sorted(walked - empty for walked, empty in of_walks)
    quarter = len(of_program) // 4
    return {
        "relay": name,
        "rows": rows,
        "program_ns": statistics.median(of_program),
        "program_ns_quartiles": [of_program[quarter], of_program[-1 - quarter]],
        "walking_ns": statistics.median(empty for _, empty in of_walks),
    }


@contextmanager
def _all_in_kernel(calls: int, program: str) -> Iterator[Subject]:
    """A daemon in bridge mode, where each side has all ports for itself, and so room for 31,000 calls."""
    options = "--offload", "xdp", "-l", "10.0.1.1/10.0.2.1", "--bridge_symmetric"
    with relayed(calls, *options, program=program, ports=_PORTS, modifiers="ie") as subject:
        wait_for_kernel(subject, "xdp", calls)
        yield subject


@contextmanager
def _walking(subject: Subject, rows: int, program_fd: int | None) -> Iterator[_Walk]:
    """A walk over so many rows to the program, or to an empty one for None."""
    module = compile_generator(subject.topology.caller, subject.streams[:rows])
    try:
        walk = module.load_func(b"walk", BPF.XDP)
        target = module.load_func(b"nothing", BPF.XDP).fd if program_fd is None else program_fd
        module[b"walked"][ctypes.c_int(0)] = ctypes.c_int(target)
        yield _Walk(subject, module, walk.fd, rows)
    finally:
        module.cleanup()
