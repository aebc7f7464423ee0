"""Counters of the kernel, read from the maps, and the state that it is told to go on from."""

from dataclasses import replace

import numpy as np
import pytest

from rtpproxy.offload.entry import PortCounters
from rtpproxy.offload.syscall import map_write, possible_cpus
from rtpproxy.rtp.statistics import RtpState, RtpTotals
from tests.bpf.frames import received, rtp

pytestmark = [pytest.mark.root, pytest.mark.kernel]


def test_counters_of_a_port_that_saw_nothing(tables):
    assert tables.counts.counters(50003) == PortCounters(0, 0, 0, 0.0, 0.0, RtpState(is_jitter_new=False), RtpTotals())


def test_counters_are_seconds_and_host_order(plane, tables):
    port = plane.install().port
    counted = {
        "packets": 1 << 40,
        "jitter_sum": 256 << 32,
        "jitter_count": 8,
        "ssrc": 0xFFFFFFFE,
        "last_seen_ns": 5_250_000_000,
        "arrived_ns": 5_125_000_000,
        "highest": 65536 + 900,
        "timestamp": 0xFFFFFFFD,
        "jitter": 384,
        "jitter_max": 640,
        "longest_gap": 1_000_000,
        "is_running": 1,
        "is_jitter_new": 0,
        "payload_type": 101,
    }
    events = {
        "ssrc_changes": 0xFFFFFFFD,
        "ssrc_changed_ns": 1_500_000_000,
        "sequence_set_ns": 2_000_000_000,
        "sequence": 65535,
        "lost": 0xFFFFFFFF,
        "duplicates": 5,
        "parse_errors": 6,
        "lowest": 65536 + 10,
        "settled": 65536 + 890,
    }
    for map_name, values in (("port_counters", counted), ("port_events", events)):
        for member, value in values.items():
            plane.poke(map_name, port, member, value)
    expected = PortCounters(
        packets=1 << 40,
        ssrc=0xFFFFFFFE,
        sequence=65535,
        ssrc_changed_at=1.5,
        sequence_set_at=2.0,
        state=RtpState(
            ssrc=0xFFFFFFFE,
            highest=65536 + 900,
            lowest=65536 + 10,
            missing=frozenset(),
            seen_at=5.25,
            longest_gap_s=1.024,
            timestamp=0xFFFFFFFD,
            arrived_at=5.125,
            jitter=1.5,
            jitter_max=2.5,
            is_jitter_new=False,
            payload_type=101,
        ),
        totals=RtpTotals(0xFFFFFFFF, 5, 6, float(1 << 32), 8, 0xFFFFFFFD),
    )
    assert tables.counts.counters(port) == expected
    assert tables.counts.last_seen()[tables.ports.row(port)] == tables.counts.seen_at(port) == 5.25
    plane.poke("port_counters", port, "packets", 0)


def test_seed_touches_no_total_and_no_neighbour(plane, tables):
    port, neighbour = plane.install().port, plane.install().port
    for _ in range(2):
        plane.run(received(port, rtp()))
        plane.run(received(neighbour, rtp()))
    before, other = tables.counts.counters(port), tables.counts.counters(neighbour)
    state = RtpState(5, 300, 200, frozenset({250, 299}), 3.0, 0.5, 77, 2.0, 4.0, 6.0, False, 96)
    tables.ports.seed(port, state)
    after = tables.counts.counters(port)
    shifted = {"highest": 65536 + 300, "lowest": 65536 + 200, "missing": {65536 + 250, 65536 + 299}}
    assert after.state._replace(longest_gap_s=0.5) == state._replace(**shifted)
    assert after.state.longest_gap_s == pytest.approx(0.5, abs=1e-6)
    assert after == replace(before, ssrc=5, state=after.state)
    assert tables.counts.counters(neighbour) == other


def test_values_that_the_kernel_cannot_hold(plane, tables):
    port = plane.install().port
    tables.ports.seed(port, RtpState(1, jitter=1e9, jitter_max=1e9, longest_gap_s=1e5, is_jitter_new=False))
    state, most = tables.counts.counters(port).state, 2**32 - 1
    assert (state.jitter, state.jitter_max, state.longest_gap_s) == (most / 256, most / 256, most * 1024 / 1e9)


def test_counters_outlive_the_entry(plane, tables):
    port = plane.install().port
    plane.run(received(port, rtp()))
    before = tables.counts.counters(port)
    tables.ports.withdraw(port)
    tables.ports.close_port(port)
    assert tables.counts.counters(port) == before
    assert before.packets == 1


@pytest.mark.vm
def test_verdicts_over_all_cpus(plane, tables):
    before = tables.counts.verdicts()
    plane.run(received(19999))
    after = tables.counts.verdicts()
    assert after["up_not_ours"] - before["up_not_ours"] == 1
    assert all(type(count) is int for count in after.values())


def test_totals(loaded, plane, tables):
    a, b = plane.install().port, plane.install().port
    before = tables.counts.total_forwarded(), tables.counts.total_dropped()
    for port in (a, a, b):
        plane.run(received(port))
    for port, times in ((a, 11), (b, 10)):
        for _ in range(times):
            plane.run_this_second(port, received(port, sport=9))
    assert (tables.counts.total_forwarded() - before[0], tables.counts.total_dropped() - before[1]) == (3, 3 + 2)


def test_last_seen_is_a_copy(plane, tables):
    port = plane.install().port
    before = tables.counts.last_seen()
    plane.run(received(port))
    assert before[tables.ports.row(port)] == 0.0
    assert before.dtype == np.float64


@pytest.mark.vm
def test_frames_that_were_not_sent_are_not_forwarded(loaded, plane, tables):
    """They are counted after they were forwarded, and the total never runs backwards."""
    port = plane.install().port
    forwarded, dropped = tables.counts.total_forwarded(), tables.counts.total_dropped()
    verdicts = tables.counts.unforwarded_by_verdict()
    for _ in range(5):
        plane.run(received(port))
    assert tables.counts.total_forwarded() == forwarded + 5
    layout, others = loaded.layouts["verdicts"], possible_cpus() - 1
    key = layout.key.pack_number(0)

    def count_not_sent(count):
        values = layout.value.pack({**verdicts, "dropped_not_sent": verdicts["dropped_not_sent"] + count})
        map_write(loaded.map_fds["verdicts"], key, values + others * layout.value.pack({}))

    count_not_sent(2)
    assert (tables.counts.total_forwarded(), tables.counts.total_dropped()) == (forwarded + 5, dropped + 2)
    plane.run(received(port))
    assert tables.counts.total_forwarded() == forwarded + 5
    for _ in range(3):
        plane.run(received(port))
    assert tables.counts.total_forwarded() == forwarded + 7
    assert tables.counts.verdicts()["forwarded"] == forwarded + 7
    count_not_sent(0)


@pytest.mark.parametrize("counter", ["tee_missed", "tee_chosen"])
def test_what_the_tee_missed_and_chose(plane, tables, counter):
    """Of each port by itself, and never set back."""
    port, neighbour = plane.install(tee=3).port, plane.install().port
    counted = getattr(tables.counts, counter)
    assert counted(port) == 0
    plane.poke("port_events", port, counter, 1 << 31)
    assert (counted(port), counted(neighbour)) == (1 << 31, 0)
    tables.ports.seed(port, RtpState())
    tables.ports.withdraw(port)
    assert counted(port) == 1 << 31
