"""Packets of telephone events, for tests of taps."""

import struct


def event_packet(timestamp, *, code=5, is_end=False, duration=400, payload_type=101, sequence=0, ssrc=7):
    """One packet of an event (RFC 4733)."""
    head = struct.pack(">BBHII", 0x80, payload_type, sequence, timestamp, ssrc)
    return head + struct.pack(">BBH", code, is_end << 7 | 10, duration)


def pressed(timestamp, **fields):
    """The fewest packets that make an event."""
    return [event_packet(timestamp, **fields), event_packet(timestamp, is_end=True, duration=800, **fields)]
