"""RTCP packets, put together from words as the RFCs draw them."""

import struct


def header(kind, count, body, *, words=None, padding=0):
    """A packet; `words` is another length than the true one, `padding` bytes are appended, the last is their number."""
    filled = body + (bytes(padding - 1) + bytes((padding,)) if padding else b"")
    assert len(filled) % 4 == 0 or words is not None
    length = len(filled) // 4 if words is None else words
    return struct.pack(">BBH", 0x80 | (0x20 if padding else 0) | count, kind, length) + filled


def block(ssrc=0x22222222, fraction=64, lost=-2, highest=70000, jitter=31, lsr=0xAABBCCDD, dlsr=65536):
    """A report block (RFC 3550 6.4.1)."""
    return struct.pack(">IB3sIIII", ssrc, fraction, (lost & 0xFFFFFF).to_bytes(3), highest, jitter, lsr, dlsr)


def sender_report(*blocks, ssrc=0x11111111, info=(3900000000, 1 << 31, 160, 50, 8000), count=None, **more):
    """A sender report; `count` is another number than that of the blocks."""
    body = struct.pack(">IIIIII", ssrc, *info) + b"".join(blocks)
    return header(200, len(blocks) if count is None else count, body, **more)


def receiver_report(*blocks, ssrc=0x11111111, count=None, **more):
    """A receiver report."""
    body = struct.pack(">I", ssrc) + b"".join(blocks)
    return header(201, len(blocks) if count is None else count, body, **more)


def chunk(ssrc, *items):
    """A source with its items, each a number and a text (RFC 3550 6.5)."""
    data = struct.pack(">I", ssrc) + b"".join(bytes((kind, len(text))) + text for kind, text in items) + b"\0"
    return data + bytes(-len(data) % 4)


def description(*chunks, count=None, **more):
    """A description of sources."""
    return header(202, len(chunks) if count is None else count, b"".join(chunks), **more)


def bye(*sources, reason=b"", count=None):
    """A goodbye."""
    tail = bytes((len(reason),)) + reason if reason else b""
    body = b"".join(struct.pack(">I", source) for source in sources) + tail
    return header(203, len(sources) if count is None else count, body + bytes(-len(body) % 4))


def application(ssrc=1, name=b"PoC1", data=b"1234"):
    """An application-defined packet."""
    return header(204, 1, struct.pack(">I4s", ssrc, name) + data)


def metrics_block(ssrc=0x22222222, values=(1, 2, 3, 4, 500, 600, 700, 800)):
    """A VoIP metrics block (RFC 3611 4.7)."""
    return struct.pack(">BBHIBBBBHHHH", 7, 0, 8, ssrc, *values) + bytes(range(16))


def extended_report(*blocks, ssrc=0x11111111, **more):
    """An extended report (RFC 3611 2)."""
    return header(207, 0, struct.pack(">I", ssrc) + b"".join(blocks), **more)


def receiver_time():
    """A receiver reference time block (RFC 3611 4.4)."""
    return struct.pack(">BBHII", 4, 0, 2, 3900000000, 0)


def encrypted(plain, *, index=7, tag=b"0123456789", key_id=b"", scramble=0x5C):
    """SRTCP (RFC 3711 3.4): all behind the first eight bytes is unreadable. No real cipher: a mask does."""
    hidden = bytes(byte ^ scramble ^ (at * 37 & 0xFF) for at, byte in enumerate(plain[8:]))
    return plain[:8] + hidden + struct.pack(">I", 1 << 31 | index) + key_id + tag
