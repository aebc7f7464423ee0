"""Recordings that are started and stopped at random: every file has the packets between, no more and no fewer.

Calls between all kinds of phones are recorded in all formats, by name and without, in one file and in several, while
all their streams go on. The model is in `recorded`.
"""

from contextlib import ExitStack
from random import Random

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import UNFINISHED
from rtpproxy.session.session import Role
from tests.fuzzing import SEED
from tests.netns_call.call import BOUND, KERNEL, STEERED, TC, WAYS, Call
from tests.netns_call.dual_stack.families import EVERYWHERE, PAIRS
from tests.netns_call.recorded import Recordings, TimedTraffic, streams_of
from tests.recording import tshark

RECORDINGS = 100
STEPS = 60
CASES = {
    f"{way.name}-{kind.value}{'-spool' * has_spool}": (way, kind, has_spool)
    for way, kind, has_spool in (
        (KERNEL, RecordFormat.ADHOC, True),
        (KERNEL, RecordFormat.PCAP, False),
        (KERNEL, RecordFormat.PCAPNG, True),
        (TC, RecordFormat.ADHOC, False),
        (TC, RecordFormat.PCAP, True),
        (STEERED, RecordFormat.ADHOC, False),
        (STEERED, RecordFormat.PCAPNG, True),
        (BOUND, RecordFormat.ADHOC, True),
        (BOUND, RecordFormat.PCAP, False),
    )
}


@pytest.fixture
def places(tmp_path):
    """The directory of recordings, and the spool."""
    made = tmp_path / "recordings", tmp_path / "spool"
    for place in made:
        place.mkdir()
    return made


def begin_calls(stack, topology, relay, way):
    """A call of each pair of families."""
    calls = []
    for number, pair in enumerate(PAIRS.values(), 1):
        at = [
            (phone.ip6 if is_ipv6 else phone.ip, port + 10 * number)
            for phone, is_ipv6, port in zip((topology.caller, topology.callee), pair, (4000, 5000), strict=True)
        ]
        calls.append(Call(relay, topology.caller, topology.callee, f"c{number}", caller_at=at[0], callee_at=at[1]))
        stack.enter_context(calls[-1])
        calls[-1].establish(way)
    return calls


def told(relay):
    """The lines of `It`."""
    return dict(line.split(": ") for line in relay.ask("It").splitlines())


@pytest.mark.seeded
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_started_and_stopped_at_random_under_traffic(start, topology, places, case):
    way, kind, has_spool = case
    options = ["-r", str(places[0]), *(("-S", str(places[1])) if has_spool else ()), "--record-format", kind.value]
    relay = start(*way.options, *EVERYWHERE, *options)
    rng = Random(f"{SEED} {case}")
    with ExitStack() as stack:
        calls = begin_calls(stack, topology, relay, way)
        streams = streams_of(calls)
        recordings = Recordings(relay, calls, kind, places[0])
        with TimedTraffic(streams[:8]) as traffic, TimedTraffic(streams[8:]) as others:
            while recordings.count < RECORDINGS:
                traffic.more(rng.randrange(4))
                recordings.act(rng)
            for call in calls[2:]:
                recordings.end(call)
            for call in calls[:2]:
                recordings.stop(call, rng.choice(list(Role)), is_both=True)
            others.more(4)
            traffic.more(4)
            traffic.finish()
        if way.is_kernel:
            lines = told(relay)
            assert int(lines["frames forwarded"]) > 0.8 * int(lines["packets received"])
        recordings.wait_until_all_ended()
        found = recordings.check(streams, is_host_known=way is not BOUND)
        lines = told(relay)
        assert int(lines["recording packets_recorded"]) == sum(map(len, found.values())) > 1000
        assert (lines["recording packets_lost"], lines["recording files_open"]) == ("0", "0")
    assert list((places[1] if has_spool else places[0] / UNFINISHED).iterdir()) == []
    if not way.is_kernel:
        # What comes by two ways may change its order between them, as it may for the other phone.
        for name, packets in found.items():
            assert all(numbers == sorted(numbers) for numbers in by_stream(packets).values()), name
    if kind is not RecordFormat.ADHOC:
        assert len(tshark.read(max(places[0].glob("[!.]*"), key=lambda path: path.stat().st_size))) > 0


def by_stream(packets):
    """Numbers of packets by stream, in the order of the file."""
    found = {}
    for stream, number in packets:
        found.setdefault(stream, []).append(number)
    return found


@pytest.mark.seeded
@pytest.mark.parametrize("kind", RecordFormat, ids=lambda kind: kind.value)
def test_every_way_records_the_same(start, topology, tmp_path, kind):
    """Each packet is waited for here, so that it is known for each whether it belongs into a file.

    Not so its place: where userspace relayed one among others of the kernel, it may be late by more than is waited for.
    """
    found = {}
    for way in WAYS:
        places = [tmp_path / f"{way.name}-{what}" / "files" for what in ("recordings", "spool")]
        for place in places:
            place.mkdir(parents=True)
        options = ("-r", str(places[0]), "-S", str(places[1]), "--record-format", kind.value)
        relay = start(*way.options, *EVERYWHERE, *options, name=way.name)
        rng = Random(f"{SEED} {kind}")
        with ExitStack() as stack:
            calls = begin_calls(stack, topology, relay, way)
            streams = streams_of(calls)
            recordings = Recordings(relay, calls, kind, places[0])
            for _ in range(STEPS):
                recordings.act(rng)
                for stream in rng.sample(streams, 4):
                    stream.cross(rng.randrange(4))
            for call in calls:
                recordings.end(call)
            recordings.wait_until_all_ended()
            found[way.name] = recordings.check(streams, is_host_known=way is not BOUND)
        assert relay.stop() == 0
    first, *others = ({name: sorted(packets) for name, packets in files.items()} for files in found.values())
    assert sum(map(len, first.values())) > 100
    for other in others:
        assert [(name, packets, first[name]) for name, packets in other.items() if packets != first[name]] == []
