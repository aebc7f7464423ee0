import numpy as np
import pytest
from generator.frames import FIRST_SEQUENCE, Kind, Marking, read_marks, scapy_frame
from generator.words import get
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.rtcp import RTCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.rtp import RTP

from tests.vm_test.streams import flows, frames, payload

QINQ = ((0x88A8, 200), (0x8100, 100))
everywhere = pytest.mark.parametrize(
    ("version", "kind", "tags"),
    [(4, Kind.RTP, ()), (6, Kind.RTP, ()), (4, Kind.RTCP, QINQ), (6, Kind.RTCP, ((0x8100, 5),)), (4, Kind.RTP, QINQ)],
)


@everywhere
def test_a_frame_that_was_filled_in_is_one_that_scapy_builds(version, kind, tags):
    built = frames(version, kind, tags)
    number, place = 70_001, 70_123
    (row,) = built.fill(np.array([2]), np.array([number]), np.array([place]))
    offset = built.layout.payload
    expected = scapy_frame(flows(version, 3)[2], tags, Marking(0xB8, 64), row[offset:].tobytes())
    assert row.tobytes() == expected
    assert len(expected) == built.layout.length


def test_a_packet_says_which_it_is():
    built = frames()
    rows = built.fill(np.array([0, 2]), np.array([1, 70_000]), np.array([3, 70_002]))
    magics, streams, numbers, places = read_marks(rows, built.layout.mark)
    assert len(set(magics)) == 1
    assert (list(streams), list(numbers), list(places)) == ([0, 2], [1, 70_000], [3, 70_002])


def test_rtp_counts_on_over_the_end_of_the_numbers():
    built = frames()
    rows = built.fill(np.array([0, 0]), np.array([0, 600]), np.array([0, 600]))
    first, later = (RTP(row[built.layout.payload :].tobytes()) for row in rows)
    assert (first.sequence, later.sequence) == (FIRST_SEQUENCE, (FIRST_SEQUENCE + 600) % 65536)
    assert (later.timestamp, later.payload_type, later.sourcesync) == (600 * 160, 0, 0x10000000)


def test_rtcp_is_a_report_with_a_name():
    data = payload(Kind.RTCP)
    report, description = RTCP(data[:52]), RTCP(data[52:76])
    assert (report.packet_type, report.count, report.length) == (200, 1, 12)
    assert (description.packet_type, description.count, description.length) == (202, 1, 5)
    assert description.sdes_chunks[0].items[0].value == b"phone@tester"
    assert (data[77], int.from_bytes(data[78:80]) * 4 + 4) == (204, len(data) - 76)


BUILT = [(4, frames(4, Kind.RTP)), (6, frames(6, Kind.RTCP))]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_checksums_are_right_whatever_is_filled_in(number, place):
    for version, built in BUILT:
        (row,) = built.fill(np.array([1]), np.array([number]), np.array([place]))
        packet = Ether(row.tobytes())
        given_sum = packet[UDP].chksum
        del packet[UDP].chksum
        assert Ether(bytes(packet))[UDP].chksum == given_sum
        if version == 4:
            given_sum = packet[IP].chksum
            del packet[IP].chksum
            assert Ether(bytes(packet))[IP].chksum == given_sum


def test_a_checksum_of_zero_is_written_as_ones():
    """Zero would say that there is none."""
    built = frames()
    places = np.arange(200_000)
    rows = built.fill(np.zeros_like(places), places, places)
    checksums = get(rows, built.layout.udp + 6, 2)
    assert 0 not in checksums
    row = rows[np.flatnonzero(checksums == 0xFFFF)[0]].tobytes()
    packet = Ether(row)
    del packet[UDP].chksum
    assert bytes(packet) == row
