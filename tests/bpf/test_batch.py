"""Frames that a driver hands over together came together: the list of what waits to be sent tells (bpf/batch.h)."""

import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bcc import BPF

from rtpproxy.errors import OffloadError
from rtpproxy.offload.btf import member_offsets
from rtpproxy.offload.entry import XdpWay
from rtpproxy.offload.kept import TYPES_OF_KERNEL
from tests.bench.xdp import compile_xdp
from tests.bpf.frames import HOP, received, rtp
from tests.bpf.prog_run import run_live
from tests.bpf.tee_ring import Written, open_ring

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.vm]

BATCH = 64
"""The most frames that a driver hands over at once."""


@pytest.fixture(scope="module")
def hop():
    """A neighbour on an interface that takes redirected frames; they arrive at its peer and are dropped there."""
    try:
        member_offsets(TYPES_OF_KERNEL.read_bytes(), {"": ("bpf_net_context", "dev_map_flush_list")})
    except OffloadError:
        pytest.skip("before Linux 6.11 no program can tell which frames came together")
    subprocess.run(["ip", "link", "add", "batch0", "up", "type", "veth", "peer", "name", "batch1"], check=True)
    try:
        subprocess.run(["ip", "link", "set", "batch1", "up"], check=True)
        subprocess.run(["ethtool", "-K", "batch1", "gro", "on"], check=True, capture_output=True)
        yield replace(HOP, xdp_way=XdpWay(socket.if_nametoindex("batch0")))
    finally:
        subprocess.run(["ip", "link", "delete", "batch0"], check=True)


def test_one_time_for_a_batch(plane, hop):
    """The first packet is measured, the others repeat it: its arrival is theirs. The next batch has its own."""
    entry = plane.install(hop)
    frame = received(entry.port, rtp(payload_type=8))
    seen = [time.monotonic_ns()]
    for batches in (1, 2):
        run_live(plane.program_fd, frame, repeat=BATCH, batch_size=BATCH)
        seen += [plane.peek("port_counters", entry.port, "last_seen_ns"), time.monotonic_ns()]
        assert plane.tables.counts.counters(entry.port).packets == batches * BATCH
    assert seen == sorted(set(seen))
    assert plane.peek("port_counters", entry.port, "arrived_ns") == seen[1]


PAYLOAD_AT = 14 + 20 + 8


def test_a_batch_that_begins_with_a_packet_without_jitter(plane, hop):
    """For such a packet no precise clock is read, and the next one must not take the time of an earlier batch."""
    earlier, entry = plane.install(hop), plane.install(hop)
    run_live(plane.program_fd, received(earlier.port, rtp()), repeat=BATCH, batch_size=BATCH)
    mixer = compile_xdp(str(Path(__file__).parent / "mixer.c"), PAYLOAD_AT=PAYLOAD_AT)
    try:
        program = mixer.load_func(b"mix", BPF.XDP)
        programs = mixer[b"programs"]
        programs[programs.Key(0)] = programs.Leaf(plane.program_fd)
        before = time.monotonic_ns()
        run_live(program.fd, received(entry.port, rtp(), chksum=0), repeat=BATCH, batch_size=BATCH)
    finally:
        mixer.cleanup()
    assert plane.tables.counts.counters(entry.port).packets == BATCH
    assert before < plane.peek("port_counters", entry.port, "arrived_ns") < time.monotonic_ns()


def test_records_have_times_of_their_own(loaded, plane, hop):
    """A batch takes microseconds, and a recording is true to one."""
    entry = plane.install(hop, tee=5)
    with open_ring(loaded, 1 << 16) as ring:
        before = time.monotonic_ns()
        run_live(plane.program_fd, received(entry.port, rtp(payload_type=8)), repeat=BATCH, batch_size=BATCH)
        times = Written(ring).times
    assert len(times) == BATCH
    assert times == sorted(set(times))
    assert before < times[0] < times[-1] < time.monotonic_ns()
    assert times[0] > plane.peek("port_counters", entry.port, "last_seen_ns")
