"""HEP read back, by a reader that knows its description only (protocol.md 13.2): tshark has none for it."""

import ipaddress
import json
import struct
from typing import Any, NamedTuple


class Hep(NamedTuple):
    """A packet."""

    source: tuple[str, int]
    to: tuple[str, int]
    time_us: int
    capture_id: int
    correlation: bytes
    body: dict[str, Any]


def read_hep(data):
    """The only packet in some bytes."""
    packet, rest = split_hep(data)
    assert rest == b""
    return packet


def read_all(data):
    """All packets of a TCP connection, and what is left of one that was cut."""
    found = []
    while len(data) >= 6 and len(data) >= struct.unpack_from(">H", data, 4)[0]:
        packet, data = split_hep(data)
        found.append(packet)
    return found, data


def split_hep(data):
    """The first packet, and what follows it."""
    assert data[:4] == b"HEP3"
    (length,) = struct.unpack_from(">H", data, 4)
    chunks, at = {}, 6
    while at < length:
        vendor, kind, size = struct.unpack_from(">HHH", data, at)
        assert vendor == 0
        assert kind not in chunks
        assert size >= 6
        chunks[kind] = data[at + 6 : at + size]
        at += size
    assert at == length <= len(data)
    family, protocol, kind = chunks.pop(1), chunks.pop(2), chunks.pop(11)
    assert (protocol, kind) == (b"\x11", b"\x05")
    source, to = (3, 4) if family == b"\x02" else (5, 6)
    assert family in (b"\x02", b"\x0a")
    hosts = [str(ipaddress.ip_address(chunks.pop(one))) for one in (source, to)]
    source_port, to_port, seconds, micros = (int.from_bytes(chunks.pop(one)) for one in (7, 8, 9, 10))
    assert micros < 1_000_000
    packet = Hep(
        (hosts[0], source_port),
        (hosts[1], to_port),
        seconds * 1_000_000 + micros,
        int.from_bytes(chunks.pop(12)),
        chunks.pop(17),
        json.loads(chunks.pop(15)),
    )
    assert chunks == {}
    return packet, data[length:]
