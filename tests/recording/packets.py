"""Packets to record, and files of recordings read back."""

import struct
from typing import NamedTuple

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from rtpproxy.recording.packet import Packet, Place

OUR_PLACE = Place(bytes((10, 0, 0, 1)), 20000)
PHONE = Place(bytes((10, 0, 1, 2)), 4000)
OUR_PLACE_6 = Place(bytes.fromhex("20010db8000000000000000000000001"), 20000)
PHONE_6 = Place(bytes.fromhex("20010db8000000010000000000000002"), 4000)
BEGIN_NS = 1_790_000_000_123_456_789
"""A time of day."""


def packet(number, *, is_ipv6=False, payload=None, arrived_ns=None):
    """The packet of that number, of 20 ms each."""
    data = b"%06d" % number + bytes(number % 40) if payload is None else payload
    places = (PHONE_6, OUR_PLACE_6) if is_ipv6 else (PHONE, OUR_PLACE)
    return Packet(number * 20_000_000 if arrived_ns is None else arrived_ns, *places, data)


class Read(NamedTuple):
    """A packet as an ad-hoc file has it."""

    source: tuple[bytes, int]
    arrived: float
    payload: bytes


def read_adhoc(data):
    """All packets of a file in RTPproxy's own format, by the description in protocol.md 8.3."""
    found, at = [], 0
    while at < len(data):
        family, port = struct.unpack_from("=H", data, at)[0], struct.unpack_from("!H", data, at + 2)[0]
        host = data[at + 4 : at + (8 if family == 2 else 20)]
        assert family in (2, 10)
        assert family == 10 or data[at + 8 : at + 20] == bytes(12)
        (arrived,) = struct.unpack_from("=d", data, at + 20)
        (length,) = struct.unpack_from("=H", data, at + 28)
        payload = data[at + 30 : at + 30 + length]
        assert len(payload) == length
        found.append(Read((host, port), arrived, payload))
        at += 30 + length
    return found


class ReadFrame(NamedTuple):
    """A packet as a pcap or pcapng file has it."""

    source: tuple[str, int]
    to: tuple[str, int]
    time_us: int
    payload: bytes


def read_pcap(path):
    """All packets of a file, read by scapy, which needs to know Ethernet for that (it does not import it by itself)."""
    found = []
    for frame in rdpcap(str(path)):
        assert isinstance(frame, Ether)
        ip, udp = frame[IP if IP in frame else IPv6], frame[UDP]
        time_us = int(frame.time * 1_000_000)
        found.append(ReadFrame((ip.src, udp.sport), (ip.dst, udp.dport), time_us, bytes(udp.payload)))
    return found
