"""Compares a frame that arrived with the one that should have: field by field, each by its name.

A relay may choose the IP identification and the IPv6 flow label. The IPv4 header checksum is not compared but worked
out. All else must be as expected, but for what `Expectations` leave open.
"""

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from generator.addresses import ETH_8021AD, ETH_8021Q, Tags
from generator.frames import Kind, Layout
from generator.words import Rows

_TAG_TYPES = (ETH_8021Q, ETH_8021AD)
_MIN_FRAME_BYTES = 60
"""Network cards fill up shorter frames, without the checksum."""
_DF = 0x40


@dataclass(frozen=True)
class Expectations:
    """IP headers of what the relay sends; None for what it may choose. `tos6` is the traffic class of IPv6."""

    tos: int | None = 0xB8
    tos6: int | None = 0xB8
    ttl: int | None = 64
    is_df_set: bool | None = None


class _Field(NamedTuple):
    name: str
    start: int
    end: int
    mask: int = -1
    """Of the bits that count, as a number of the field's width; all by default."""


def _ipv4_fields(at: int, expectations: Expectations) -> list[_Field]:
    fields = [_Field("IP version or header length", at, at + 1)]
    if expectations.tos is not None:
        fields.append(_Field("TOS", at + 1, at + 2))
    fields.append(_Field("IP total length", at + 2, at + 4))
    fields.append(_Field("fragment bits", at + 6, at + 8, 0xFFFF if expectations.is_df_set is not None else 0xBFFF))
    if expectations.ttl is not None:
        fields.append(_Field("TTL", at + 8, at + 9))
    fields.append(_Field("IP protocol", at + 9, at + 10))
    return fields


def _ipv6_fields(at: int, expectations: Expectations) -> list[_Field]:
    fields = [_Field("IP version", at, at + 1, 0xF0)]
    if expectations.tos6 is not None:
        fields.append(_Field("traffic class", at, at + 2, 0x0FF0))
    fields += [_Field("IPv6 payload length", at + 4, at + 6), _Field("IPv6 next header", at + 6, at + 7)]
    if expectations.ttl is not None:
        fields.append(_Field("hop limit", at + 7, at + 8))
    return fields


def _fields(layout: Layout, expectations: Expectations) -> list[_Field]:
    """List the fields that must be as expected, without checksums."""
    ip_fields = _ipv4_fields if layout.version == 4 else _ipv6_fields
    fields = [
        _Field("destination MAC", 0, 6),
        _Field("source MAC", 6, 12),
        *([_Field("VLAN tags", 12, layout.ip - 2)] if layout.tags else []),
        _Field("Ethernet type", layout.ip - 2, layout.ip),
        *ip_fields(layout.ip, expectations),
        _Field("source address", layout.source, layout.destination),
        _Field("destination address", layout.destination, layout.udp),
        _Field("source port", layout.udp, layout.udp + 2),
        _Field("destination port", layout.udp + 2, layout.udp + 4),
        _Field("UDP length", layout.udp + 4, layout.udp + 6),
    ]
    if layout.kind is Kind.RTP:
        fields.append(_Field("RTP header", layout.payload, layout.payload + 12))
        return [*fields, _Field("payload", layout.payload + 12, layout.length)]
    return [*fields, _Field("RTCP", layout.payload, layout.length)]


def mask(layout: Layout, expectations: Expectations) -> Rows:
    """Mark the bits of a frame that must be as expected; among them those of the UDP checksum."""
    bits = np.zeros(layout.length, dtype=np.uint8)
    for field in _fields(layout, expectations):
        width = field.end - field.start
        wanted = field.mask & (1 << 8 * width) - 1
        bits[field.start : field.end] |= np.frombuffer(wanted.to_bytes(width), dtype=np.uint8)
    bits[layout.udp + 6 : layout.udp + 8] = 0xFF
    return bits


def split_tags(frame: bytes) -> tuple[Tags, bytes]:
    """Take the VLAN tags off a frame; priority bits stay with the number, so that they are compared, too."""
    tags = []
    rest = frame
    while len(rest) >= 18 and int.from_bytes(rest[12:14]) in _TAG_TYPES:
        tags.append((int.from_bytes(rest[12:14]), int.from_bytes(rest[14:16])))
        rest = rest[:12] + rest[16:]
    return tuple(tags), rest


def differences(
    expected: bytes, actual: bytes, layout: Layout, expectations: Expectations, *, is_unfinished: bool = False
) -> list[str]:
    """Name the fields in which a frame is not what it should be; nothing if it is right.

    `is_unfinished`: the kernel left the UDP checksum to the network card; the field has the sum of the pseudo header.
    """
    found = []
    tags, bare = split_tags(actual)
    if tags != layout.tags:
        found.append("VLAN tags")
    bare_layout = Layout((), layout.version, layout.length - layout.payload, layout.kind)
    expected = split_tags(expected)[1]
    if len(bare) != len(expected):
        padding = bare[len(expected) :]
        if len(bare) < len(expected) or len(bare) > _MIN_FRAME_BYTES or any(padding):
            found.append("length of the frame")
    for field in _fields(bare_layout, expectations):
        width = field.end - field.start
        wanted = field.mask & (1 << 8 * width) - 1
        given, right = (
            int.from_bytes(frame[field.start : field.end].ljust(width, b"\0")) for frame in (bare, expected)
        )
        if (given ^ right) & wanted:
            found.append(field.name)
    return found + _checksum_faults(bare, bare_layout, is_unfinished)


def _checksum_faults(frame: bytes, layout: Layout, is_unfinished: bool) -> list[str]:
    """Work out the checksums of what arrived, whatever else may be wrong with it."""
    if len(frame) < layout.payload:
        return ["UDP checksum"]
    found = []
    if layout.version == 4 and checksum(frame[layout.ip : layout.udp]):
        found.append("IP checksum")
    udp = frame[layout.udp : min(len(frame), layout.udp + int.from_bytes(frame[layout.udp + 4 : layout.udp + 6]))]
    pseudo = frame[layout.source : layout.udp] + struct.pack("!HH", socket.IPPROTO_UDP, len(udp))
    field = int.from_bytes(udp[6:8])
    if is_unfinished and field == 0xFFFF - checksum(pseudo):
        return found
    if not field:
        found.append("UDP checksum absent")
    elif checksum(pseudo + udp):
        found.append("UDP checksum")
    return found


def checksum(data: bytes) -> int:
    """Work out the internet checksum (RFC 1071); 0 for data that contains its own."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
