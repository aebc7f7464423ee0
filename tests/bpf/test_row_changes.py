"""A row changes as a whole: a frame that leaves while its row is being changed is made by one content, never by a mix.

Two ways to look. One frame at a time, every byte of every result compared. And millions of times on one frame inside
the kernel, so that the program reads while the row is stored: there the contents are chosen so that the frame that they
make is accepted again, and a mix, once made, stays in the frame.
"""

from collections import Counter
from dataclasses import replace

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import NextHop, XdpWay
from tests.bpf.data_plane import INGRESS
from tests.bpf.frames import CALLER, HOP, RELAY_IN, forwarded, received, rtp
from tests.bpf.prog_run import XDP_PASS, XDP_REDIRECT, run
from tests.bpf.row_writer import row_writer
from tests.bpf.tee_ring import Written, open_ring
from tests.conftest import RELAY_MAC, TTL

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FRAMES = 50_000
ROUNDS, RUNS_A_ROUND = 20, 500_000
OTHER_HOP = NextHop(22, "02:55:55:55:55:55", "02:66:66:66:66:66", 1500, XdpWay(22))
OTHER_WAY = {"from_host": "172.31.255.9", "from_port": 65001, "to": Endpoint("192.168.77.66", 40404)}
MULTICAST_HOP = NextHop(21, "03:55:55:55:55:55", "02:66:66:66:66:66", 100, XdpWay(21))


BACK_HOP = replace(HOP, to_mac=RELAY_MAC)
"""Back to the relay itself, where the frame came from."""


@pytest.fixture
def loaded(unlimited):
    return unlimited


@pytest.fixture
def tables(unlimited_tables):
    return unlimited_tables


# One frame at a time


def changing_entry(plane):
    """The received frame, the frames that may leave for it, and the changes between the two contents."""
    number = plane.next_hop()
    a = plane.install_by(number)
    b = plane.install_by(number, port=a.port, **OTHER_WAY)
    whole = {(XDP_REDIRECT, forwarded(entry, rtp())) for entry in (a, b)}
    return (
        received(a.port, rtp()),
        whole,
        [("ports.install", (entry, entry.from_host, number, TTL, INGRESS)) for entry in (a, b)],
    )


def changing_next_hop(plane):
    number = plane.next_hop()
    entry = plane.install_by(number)
    whole = {(XDP_REDIRECT, forwarded(entry, rtp(), hop=hop)) for hop in (HOP, OTHER_HOP)}
    return received(entry.port, rtp()), whole, [("next_hops.write", (number, hop)) for hop in (HOP, OTHER_HOP)]


def entry_that_comes_and_goes(plane):
    number = plane.next_hop()
    entry = plane.install_by(number)
    changes = [("ports.install", (entry, entry.from_host, number, TTL, INGRESS)), ("ports.withdraw", (entry.port,))]
    return received(entry.port, rtp()), {(XDP_REDIRECT, forwarded(entry, rtp()))}, changes


def next_hop_that_comes_and_goes(plane):
    number = plane.next_hop()
    entry = plane.install_by(number)
    changes = [("next_hops.write", (number, hop)) for hop in (HOP, None)]
    return received(entry.port, rtp()), {(XDP_REDIRECT, forwarded(entry, rtp()))}, changes


def results(loaded, frame):
    """Run many equal frames; how often each result occurred."""
    return Counter(run(loaded.xdp_fd, frame)[:2] for _ in range(FRAMES))


@pytest.mark.parametrize(
    "changing", [changing_entry, changing_next_hop, entry_that_comes_and_goes, next_hop_that_comes_and_goes]
)
def test_every_frame_is_whole(plane, loaded, changing):
    frame, whole, changes = changing(plane)
    before = plane.tables.counts.verdicts()
    with row_writer(loaded, changes):
        seen = results(loaded, frame)
    after = plane.tables.counts.verdicts()
    moved = {name: after[name] - before[name] for name in after}

    assert set(seen) == whole | {(XDP_PASS, frame)}
    assert moved["up_entry_changing"] > 0
    assert moved["forwarded"] == sum(seen[result] for result in whole)
    assert sum(moved.values()) == FRAMES


@pytest.mark.parametrize("changing", [changing_entry, changing_next_hop])
def test_frames_are_mixed_without_the_sequence_number(plane, loaded, changing):
    frame, whole, changes = changing(plane)
    with row_writer(loaded, changes, is_sequenced=False):
        seen = results(loaded, frame)
    assert set(seen) - whole - {(XDP_PASS, frame)}


def test_tee_changes_with_the_rest_of_the_row(plane, loaded):
    """Each record has the number of the content by which its packet left, and there is none without one."""
    number = plane.next_hop()
    a = plane.install_by(number, tee=1)
    b = plane.install_by(number, port=a.port, tee=0, **OTHER_WAY)
    c = plane.install_by(number, port=a.port, tee=3, from_port=31002)
    changes = [("ports.install", (entry, entry.from_host, number, TTL, INGRESS)) for entry in (a, b, c)]
    by_frame = {forwarded(entry, rtp()): entry.tee for entry in (a, b, c)}
    frame = received(a.port, rtp())
    seen = Counter()
    with open_ring(loaded, 1 << 16) as ring, row_writer(loaded, changes):
        for _ in range(FRAMES):
            action, left, _ = run(loaded.xdp_fd, frame)
            tees = [tee for tee, _ in Written(ring)]
            expected = by_frame[left] if action == XDP_REDIRECT else 0
            assert tees == ([expected] if expected else [])
            seen[expected if action == XDP_REDIRECT else "up"] += 1
    assert seen.keys() == {0, 1, 3, "up"}


# Inside the kernel


def round_trip_entry(plane):
    """Two entries that send the caller's packet back to where it was sent, from one port or another.

    A port with the other's checksum delta leaves a wrong checksum, which later runs keep as wrong as it is.
    """
    number = plane.next_hop(BACK_HOP)
    back = {"is_any_source_port": True, "from_host": CALLER.host}
    a = plane.install_by(number, from_port=1000, **back)
    a, b = (
        plane.install_by(number, port=a.port, from_port=port, to=Endpoint(RELAY_IN, a.port), **back)
        for port in (1000, 2000)
    )
    whole = {forwarded(entry, rtp(), hop=BACK_HOP) for entry in (a, b)}
    return (
        received(a.port, rtp()),
        whole,
        [("ports.install", (entry, entry.from_host, number, TTL, INGRESS)) for entry in (a, b)],
    )


def multicast_next_hop(plane):
    """Two next hops: a usable one, and one to a multicast MAC over which every packet is too long.

    The MTU of the first with the MAC of the second leaves a multicast frame, which no later run touches.
    """
    number = plane.next_hop(BACK_HOP)
    port = plane.open_port()
    entry = plane.install_by(
        number, port=port, to=Endpoint(RELAY_IN, port), from_host=CALLER.host, from_port=CALLER.port
    )
    changes = [("next_hops.write", (number, hop)) for hop in (BACK_HOP, MULTICAST_HOP)]
    return received(entry.port, rtp()), {forwarded(entry, rtp(), hop=BACK_HOP)}, changes


def frames_after_many_runs(loaded, frame):
    """Results of running the program on one frame again and again, for several frames."""
    return {run(loaded.xdp_fd, frame, repeat=RUNS_A_ROUND).frame for _ in range(ROUNDS)}


@pytest.mark.parametrize("changing", [round_trip_entry, multicast_next_hop])
def test_no_run_of_millions_makes_a_mix(plane, loaded, changing):
    frame, whole, changes = changing(plane)
    before = plane.tables.counts.verdicts()
    with row_writer(loaded, changes):
        left = frames_after_many_runs(loaded, frame)
    after = plane.tables.counts.verdicts()

    assert left - {frame} == whole  # it stays as it was where the writer was held up all the while
    assert after["up_entry_changing"] > before["up_entry_changing"]
    assert sum(after.values()) - sum(before.values()) == ROUNDS * RUNS_A_ROUND


@pytest.mark.parametrize("changing", [round_trip_entry, multicast_next_hop])
def test_runs_make_mixes_without_the_sequence_number(plane, loaded, changing):
    frame, whole, changes = changing(plane)
    with row_writer(loaded, changes, is_sequenced=False):
        left = frames_after_many_runs(loaded, frame)
    assert left - whole
