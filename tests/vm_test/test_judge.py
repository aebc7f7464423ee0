"""The judge against arrivals that are forged: whose they are, and what is wrong with them."""

import numpy as np
import pytest
from generator.frames import STRAY_MAGIC, Kind, Layout, Marking, Streams, build
from generator.judge import Judge
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.vm_test.streams import Wire, flipped, flows, payload, split_tags

TAGS, QINQ = ((0x8100, 5),), ((0x88A8, 200), (0x8100, 100))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tags", [(), TAGS, QINQ])
def test_what_is_right_is_right(version, kind, tags):
    wire = Wire(version, kind, tags)
    for call in (0, 2):
        assert wire.arrive(*wire.send(3, call)) == []
    assert wire.account.received().tolist() == [3, 0, 3]
    assert not wire.account.wrong.any()


def test_a_tag_that_is_missing():
    wire = Wire(tags=TAGS)
    (sent,) = wire.send(1)
    wire.arrive(split_tags(sent)[1])
    assert wire.fields() == {"VLAN tags"}


def test_a_tag_too_many():
    wire = Wire()
    packet = Ether(wire.send(1)[0])
    tagged = Ether(src=packet.src, dst=packet.dst) / Dot1Q(vlan=5) / packet.payload
    wire.arrive(bytes(tagged))
    assert wire.fields() == {"VLAN tags"}


def test_only_the_inner_tag():
    wire = Wire(tags=QINQ)
    (sent,) = wire.send(1)
    wire.arrive(sent[:12] + sent[16:])
    assert wire.fields() == {"VLAN tags"}


@pytest.mark.parametrize("offset", [0, 6, 15, 22, 24, 26, 30, 35, 37, 40, 42, 44, 46, 50, 54, 56, 58, 62, 66, 213])
def test_a_byte_that_is_wrong(offset):
    """Of each header, of the mark, and of the payload: the packet has arrived, once, and is wrong."""
    wire = Wire()
    sent = wire.send(3)
    wire.arrive(sent[0], flipped(sent[1], offset), sent[2])
    assert wire.account.wrong.tolist() == [1, 0, 0]
    assert wire.account.received()[0] + wire.account.opening()[0] == 3


@given(st.data())
def test_no_byte_may_be_wrong(data):
    wire = Wire(data.draw(st.sampled_from([4, 6])), data.draw(st.sampled_from(Kind)))
    sent = wire.send(2)
    offset = data.draw(st.integers(0, len(sent[0]) - 1))
    is_free = offset in ((18, 19) if wire.account.frames.layout.version == 4 else (15, 16, 17))
    wire.arrive(flipped(sent[0], offset, 0x10 if offset == 15 else 0x01))
    # What is no UDP over IP any more, or has another destination and no mark, is none of ours, and so lost.
    is_seen = wire.account.wrong.sum() or not wire.account.received().sum()
    assert is_seen or is_free


def test_examples_of_wrong_frames_are_kept():
    wire = Wire()
    wire.arrive(*(flipped(frame, 213) for frame in wire.send(20)))
    assert len(wire.judge.examples) == 5
    assert wire.judge.examples[0].startswith(
        "call 0 caller to callee rtp packet 0: payload, UDP checksum: 0a0000000102"
    )
    assert wire.account.faults[0] == {"payload": 20, "UDP checksum": 20}


def test_a_packet_for_another_phone():
    wire = Wire()
    first, second = wire.send(1, 0)[0], wire.send(1, 1)[0]
    swapped = Ether(first)
    swapped[UDP].dport = Ether(second)[UDP].dport
    del swapped[UDP].chksum
    wire.arrive(bytes(swapped))
    assert wire.fields() == {"destination port"}
    assert wire.account.wrong.tolist() == [1, 0, 0]


def test_a_packet_at_another_interface():
    wire = Wire()
    wire.judge.accounts["out0"] = []
    wire.arrive(*wire.send(1), interface="out0")
    assert wire.fields() == {"interface"}


def test_a_packet_that_nobody_sent():
    wire = Wire()
    (sent,) = wire.send(1)
    other = Ether(sent)
    other[UDP].payload = UDP(sport=1, dport=2) / b"something else"
    del other[UDP].len, other[UDP].chksum, other[IP].len, other[IP].chksum
    wire.arrive(bytes(other))
    assert wire.account.wrong.tolist() == [1, 0, 0]
    assert "payload" in wire.fields()
    assert wire.lost() + wire.account.opening().sum() == 1


def test_a_packet_of_a_number_that_was_not_sent_yet():
    wire, ahead = Wire(), Wire()
    wire.send(1)
    wire.arrive(ahead.send(3)[2])
    assert wire.account.wrong.tolist() == [1, 0, 0]
    assert wire.account.received().tolist() == [0, 0, 0]


def test_a_packet_with_the_mark_of_another():
    """Its checksum is right; but the packet of that number had another sequence number."""
    wire = Wire()
    sent = wire.send(2)
    (forged,) = wire.account.frames.fill(np.array([0]), np.array([0]), np.array([1]))
    wire.arrive(forged.tobytes(), sent[0])
    assert wire.account.wrong.tolist() == [1, 0, 0]
    assert "RTP header" in wire.fields()


def test_before_anything_was_sent():
    wire, ahead = Wire(), Wire()
    wire.arrive(*ahead.send(1))
    assert wire.fields() == {"a packet of nobody"}


@pytest.mark.parametrize("offset", [42, 100])
def test_strays(offset):
    layout = Layout((), 4, 172, Kind.RTP)
    streams = Streams(0, 1, 0, STRAY_MAGIC)
    strays = build(flows(4, 3), layout, Marking(0xB8, 64), payload(Kind.RTP), streams, 160)
    wire = Wire()
    (stray,) = strays.fill(np.array([1]), np.array([0]), np.array([0]))
    wire.arrive(flipped(stray.tobytes(), offset))
    assert wire.judge.strays == 1
    assert dict(wire.judge.strays_by_phone) == {"10.0.1.10:40002": 1}
    assert not wire.account.wrong.any()


def test_unreachable():
    wire = Wire()
    headers = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    wire.arrive(bytes(headers / IP(dst="10.0.1.10") / ICMP(type=3, code=3) / (b"x" * 28)))
    wire.arrive(bytes(headers / IPv6(dst="fd00::1") / ICMPv6DestUnreach(code=4) / (b"x" * 48)))
    wire.arrive(bytes(headers / IP(dst="10.0.1.10") / ICMP(type=8) / (b"x" * 28)))
    assert wire.judge.refused == 2


def test_what_is_no_media_is_for_others():
    wire = Wire()
    arp = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:01") / ARP(pdst="10.0.1.10"))
    dns = bytes(Ether() / IP(dst="10.9.9.9") / UDP(dport=53) / b"question")
    assert wire.arrive(arp, *wire.send(1), dns) == [arp, dns]


@given(st.lists(st.binary(min_size=14, max_size=120), min_size=1, max_size=5))
def test_any_bytes_may_arrive(arrived):
    wire = Wire()
    wire.send(1)
    assert wire.arrive(*arrived) == arrived


def test_two_directions_at_one_interface():
    """As with one interface for both sides."""
    one, other = Wire(), Wire(6)
    other.account.first_stream = 3
    judge = Judge({"eth0": [one.account, other.account]})
    judge.expect_at_phones(one.account)
    one.judge = judge
    one.arrive(*one.send(2), interface="eth0")
    assert one.account.received()[0] == 2


def test_checksums_that_are_left_to_the_card():
    wire = Wire()
    (sent,) = wire.send(1)
    total = int(wire.account.frames.pseudo_sums[0])
    total = (total & 0xFFFF) + (total >> 16)
    wire.arrive(sent[:40] + total.to_bytes(2) + sent[42:], unfinished=True)
    assert wire.account.received()[0] == 1
    assert not wire.account.wrong.any()
