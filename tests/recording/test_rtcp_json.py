"""RTCP in Homer's JSON (protocol.md 13.2): read back by the `json` of the standard library."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.recording.rtcp_json import bodies
from rtpproxy.rtp.rtcp import read_rtcp
from tests.rtp.rtcp_packets import (
    application,
    block,
    bye,
    chunk,
    description,
    encrypted,
    extended_report,
    metrics_block,
    receiver_report,
    receiver_time,
    sender_report,
)

BLOCK = {
    "source_ssrc": 0x22222222,
    "fraction_lost": 64,
    "packets_lost": -2,
    "highest_seq_no": 70000,
    "ia_jitter": 31,
    "lsr": 0xAABBCCDD,
    "dlsr": 65536,
}
SENDER = {
    "ntp_timestamp_sec": 3900000000,
    "ntp_timestamp_usec": 1 << 31,
    "rtp_timestamp": 160,
    "packets": 50,
    "octets": 8000,
}
SR = {"ssrc": 0x11111111, "sender_information": SENDER, "type": 200, "report_blocks": [BLOCK], "report_count": 1}
RR = {"ssrc": 0x11111111, "type": 201, "report_blocks": [BLOCK], "report_count": 1}
SDES = {
    "sdes_ssrc": 5,
    "sdes_report_count": 2,
    "sdes_information": [
        {"sdes_chunk_ssrc": 5, "type": 1, "text": 'a"\\b\n'},
        {"sdes_chunk_ssrc": 6, "type": 2, "text": "Bärbel �"},
    ],
}
XR = {
    "report_blocks_xr": {
        "type": 7,
        "id": 0x22222222,
        "fraction_lost": 1,
        "fraction_discard": 2,
        "burst_density": 3,
        "gap_density": 4,
        "burst_duration": 500,
        "gap_duration": 600,
        "round_trip_delay": 700,
        "end_system_delay": 800,
    }
}
SOURCES = description(chunk(5, (1, b'a"\\b\n')), chunk(6, (2, "Bärbel ".encode() + b"\xff")))
TWO = [BLOCK, BLOCK | {"source_ssrc": 3}]
BODIES = {
    "sender report": (sender_report(block()), [SR]),
    "receiver report": (receiver_report(block()), [RR]),
    "no block": (receiver_report(), [RR | {"report_blocks": [], "report_count": 0}]),
    "two blocks": (receiver_report(block(), block(ssrc=3)), [RR | {"report_blocks": TWO, "report_count": 2}]),
    "fewer blocks than told": (receiver_report(block(), count=3), [RR]),
    "two reports": (sender_report(block()) + SOURCES + receiver_report(block()), [SR | SDES, RR]),
    "description": (sender_report(block()) + SOURCES, [SR | SDES]),
    "metrics": (sender_report(block()) + extended_report(metrics_block()), [SR | XR]),
    "both": (receiver_report(block()) + SOURCES + extended_report(metrics_block()), [RR | SDES | XR]),
    "metrics alone": (
        extended_report(metrics_block()),
        [{"ssrc": 0x11111111, "type": 207, "report_blocks": [], "report_count": 0} | XR],
    ),
    "extended report without metrics": (receiver_report(block()) + extended_report(receiver_time()), [RR]),
    "goodbye": (sender_report(block()) + bye(1), [SR]),
    "nothing to report": (SOURCES + bye(1) + application(), []),
    "encrypted": (encrypted(sender_report(block()) + SOURCES), []),
    "no rtcp": (b"", []),
}


@pytest.mark.parametrize(("data", "expected"), BODIES.values(), ids=BODIES)
def test_bodies(data, expected):
    assert [json.loads(body) for body in bodies(read_rtcp(data))] == expected


def test_order_of_keys():
    """As in protocol.md 13.2, for readers that are no parsers."""
    (body,) = bodies(read_rtcp(sender_report(block())))
    read = json.loads(body)
    assert list(read) == list(SR)
    assert list(read["sender_information"]) == list(SENDER)
    assert list(read["report_blocks"][0]) == list(BLOCK)
    assert list(json.loads(bodies(read_rtcp(receiver_report(block())))[0])) == list(RR)


def test_longest_body():
    """It fits into a HEP packet, and that into a datagram."""
    items = [(9, b"\xff" * 255)] * 40
    data = sender_report(*[block(0xFFFFFFFF, 255, -1 << 23, *[0xFFFFFFFF] * 4)] * 31)
    (body,) = bodies(read_rtcp(data + description(chunk(0xFFFFFFFF, *items)) + extended_report(metrics_block())))
    assert json.loads(body)["sdes_information"][0]["text"] == "�" * 255
    assert 40_000 < len(body) < 60_000
    assert body.isascii()


@given(st.binary(max_size=100).map(lambda rest: sender_report(block()) + SOURCES[:4] + rest) | st.binary(max_size=100))
def test_any_datagram_gives_json(data):
    for body in bodies(read_rtcp(data)):
        assert body.isascii()
        assert json.loads(body)["type"] in (200, 201, 207)
