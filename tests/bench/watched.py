"""Streams that are watched for DTMF: what that takes from packets that are no events, and that every event is told.

All by the relay's own commands. Of the calls of one relay one half is watched. Both halves send as fast as possible in
turn, before and after that: so what their rows and ports differ by is not taken for it.
"""

import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.generator import AT_ONCE_NS, NEVER_NS
from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import DEADLINE_S, Subject, relayed, told, wait_for_kernel
from tests.bench.runs import Measured, MeasuringError, measure, quartiles
from tests.outbound.listeners import Controller
from tests.recording.dtmf_packets import event_packet
from tests.waiting import wait_for

TYPE = 101
"""Payload type of events; the generator's packets have another."""
_TIERS = "xdp", "tc"
_UPDATES, _ENDS = 4, 3
"""Packets of an event."""
_EVENT_PAUSE_S = 0.0005
"""After the packets of a stream: 2,000 streams take a second at least, as the keys of so many callers would."""
Result = dict[str, Any]


def measure_watched(plan: Plan) -> list[Result]:
    """The two halves in turn, before and while one of them is watched; then an event of each watched stream."""
    return [_in_tier(plan, tier) for tier in _TIERS]


def _in_tier(plan: Plan, tier: str) -> Result:
    streams = plan.watched
    say(f"{tier.upper()}: setting up {2 * streams:,} calls, of which {streams:,} will be watched for DTMF")
    with _watching(streams, tier) as (subject, controller):
        before = [_both(plan, subject) for _ in range(plan.rounds)]
        _watch(subject, streams)
        wait_for_kernel(subject, tier, 2 * streams)
        after = [_both(plan, subject) for _ in range(plan.rounds)]
        say(f"{tier.upper()}: an event of each of {streams:,} streams")
        events = _events(subject, controller, streams)
    bias = statistics.median(one.packet_ns - other.packet_ns for one, other in before)
    added = [one.packet_ns - other.packet_ns - bias for one, other in after]
    ratios = [one.rate / other.rate for one, other in after]
    bias_ratio = statistics.median(one.rate / other.rate for one, other in before)
    return {
        "relay": tier.upper(),
        "streams": streams,
        "packet_ns": round(statistics.median(other.packet_ns for _, other in after), 1),
        "added_ns": round(statistics.median(added), 1),
        "added_ns_quartiles": quartiles(added),
        "of_unwatched": round(statistics.median(ratios) / bias_ratio, 3),
        "lost": max(one.loss for pair in (*before, *after) for one in pair),
        **events,
    }


def _both(plan: Plan, subject: Subject) -> tuple[Measured, Measured]:
    """The half that is to be watched, and the other."""
    sink, generator = subject.sink, subject.generator
    assert sink is not None
    sink.reset()
    one = measure(generator.run(plan.run_s, NEVER_NS, AT_ONCE_NS), sink)
    sink.reset()
    return one, measure(generator.run(plan.run_s), sink)


def _watch(subject: Subject, streams: int) -> None:
    assert subject.relay is not None
    for number, spec in enumerate(subject.streams[:streams]):
        reply = subject.relay.ask(f"U call{number} {spec.src_ip} {spec.src_port} f t && M3:1 call{number} {TYPE}")
        if reply.startswith("E") or "&&" in reply:
            raise MeasuringError(f"a stream is not watched: {reply}")


def _events(subject: Subject, controller: Controller, streams: int) -> Result:
    """One event of each stream: how many were told, and what the process took for it."""
    before, before_ns = told(subject), _watcher_ns(subject)
    for number, spec in enumerate(subject.streams[:streams]):
        with subject.topology.caller.socket() as phone:
            phone.bind((spec.src_ip, spec.src_port))
            for packet in range(_UPDATES + _ENDS):
                fields = {"is_end": packet >= _UPDATES, "duration": 400 * (packet + 1), "sequence": packet}
                phone.sendto(
                    event_packet(1 << 20, payload_type=TYPE, ssrc=number + 1, **fields), (spec.dst_ip, spec.dst_port)
                )
        time.sleep(_EVENT_PAUSE_S)
    found = controller.accept().lines(streams)
    packets = streams * (_UPDATES + _ENDS)
    wait_for(lambda: told(subject)["recording taps_packets"] >= packets, DEADLINE_S, "the process to be done")
    after = told(subject)
    if len(set(found)) != streams:
        raise MeasuringError(f"{len(set(found)):,} of {streams:,} events were told")
    return {
        "events": len(found),
        "teed": after["recording taps_packets"],
        "missing": after.get("recording taps_lost", 0),
        "forwarded": after["frames forwarded"] - before["frames forwarded"],
        "watcher_us": round((_watcher_ns(subject) - before_ns) / 1e3 / packets, 1),
    }


def _watcher_ns(subject: Subject) -> int:
    """Processor time that the process which watches, the relay's only child, has taken so far."""
    assert subject.relay is not None
    pid = subject.relay.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(Path(f"/proc/{child}/schedstat").read_text().split()[0])


@contextmanager
def _watching(streams: int, tier: str) -> Iterator[tuple[Subject, Controller]]:
    """The daemon with twice so many calls in the kernel, and who is told of DTMF."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        controller = Controller(socket.AF_UNIX, str(directory / "notify"))
        stack.callback(controller.close)
        options = "--offload", tier, "--dtmf-notify", f"unix:{directory / 'notify'}"
        subject = stack.enter_context(relayed(2 * streams, *options, steady=streams))
        wait_for_kernel(subject, tier, 2 * streams)
        yield subject, controller
