"""Reading of RTCP (RFC 3550 6, RFC 3611 4.7), whole, malformed and encrypted (RFC 3711 3.4)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.rtp.rtcp import (
    MOST_ITEMS,
    MOST_REPORTS,
    Item,
    Report,
    ReportBlock,
    Rtcp,
    SenderInformation,
    VoipMetrics,
    read_rtcp,
)
from tests.rtp.rtcp_packets import (
    application,
    block,
    bye,
    chunk,
    description,
    encrypted,
    extended_report,
    header,
    metrics_block,
    receiver_report,
    receiver_time,
    sender_report,
)

SENDER = SenderInformation(3900000000, 1 << 31, 160, 50, 8000)
BLOCK = ReportBlock(0x22222222, 64, -2, 70000, 31, 0xAABBCCDD, 65536)
METRICS = VoipMetrics(0x11111111, 0x22222222, 1, 2, 3, 4, 500, 600, 700, 800)
SR = Report(200, 0x11111111, SENDER, (BLOCK,))
RR = Report(201, 0x11111111, None, (BLOCK,))
CNAME = chunk(0x11111111, (1, b"alice@10.0.1.2"))

WHOLE = {
    "sender report": (sender_report(block()), Rtcp((SR,))),
    "sender report without blocks": (sender_report(), Rtcp((SR._replace(blocks=()),))),
    "receiver report": (receiver_report(block()), Rtcp((RR,))),
    "empty receiver report": (receiver_report(), Rtcp((RR._replace(blocks=()),))),
    "two blocks": (
        receiver_report(block(), block(ssrc=3)),
        Rtcp((RR._replace(blocks=(BLOCK, BLOCK._replace(ssrc=3))),)),
    ),
    "padding": (receiver_report(block(), padding=8), Rtcp((RR,))),
    "extension of a profile": (
        header(201, 1, struct.pack(">I", 0x11111111) + block() + b"more"),
        Rtcp((RR,)),
    ),
    "with a description": (
        sender_report(block()) + description(CNAME),
        Rtcp((SR,), 1, 0x11111111, (Item(0x11111111, 1, b"alice@10.0.1.2"),)),
    ),
    "two sources and an empty one": (
        receiver_report() + description(chunk(5, (1, b"a"), (6, b"phone")), chunk(6, (2, b"Bob")), chunk(7)),
        Rtcp((RR._replace(blocks=()),), 3, 5, (Item(5, 1, b"a"), Item(5, 6, b"phone"), Item(6, 2, b"Bob"))),
    ),
    "empty description": (receiver_report(block()) + description(), Rtcp((RR,))),
    "with a goodbye": (receiver_report(block()) + bye(0x11111111, reason=b"tired"), Rtcp((RR,))),
    "with an application's": (receiver_report(block()) + application(), Rtcp((RR,))),
    "with feedback": (receiver_report(block()) + header(206, 1, bytes(8)), Rtcp((RR,))),
    "with metrics": (
        sender_report(block()) + extended_report(receiver_time(), metrics_block(), metrics_block(ssrc=9)),
        Rtcp((SR,), metrics=METRICS),
    ),
    "metrics alone": (extended_report(metrics_block()), Rtcp(metrics=METRICS)),
    "extended report without metrics": (extended_report(receiver_time()), Rtcp()),
    "two reports": (sender_report(block()) + receiver_report(block()), Rtcp((SR, RR))),
    "goodbye alone": (bye(1), Rtcp()),
}
MALFORMED = {
    "nothing": (b"", Rtcp()),
    "less than a header": (b"\x80\xc8\0", Rtcp()),
    "version 1": (b"\x40" + sender_report(block())[1:], Rtcp()),
    "rtp": (struct.pack(">BBHII", 0x80, 0, 1, 160, 1) + bytes(160), Rtcp()),
    "stun": (bytes.fromhex("000100002112a442") + bytes(12), Rtcp()),
    "zeros": (bytes(64), Rtcp()),
    "sender report without information": (header(200, 0, bytes(20)), Rtcp()),
    "receiver report without a source": (header(201, 0, b""), Rtcp()),
    "more blocks told than there are": (sender_report(block(), count=2), Rtcp((SR,))),
    "31 blocks told": (receiver_report(count=31), Rtcp((RR._replace(blocks=()),))),
    "half a block": (
        header(201, 2, struct.pack(">I", 0x11111111) + block() + bytes(12)),
        Rtcp((RR,)),
    ),
    "longer than the datagram": (sender_report(block(), words=99), Rtcp((SR,))),
    "the longest length": (receiver_report(block(), words=65535), Rtcp((RR,))),
    "cut in the second block": (sender_report(block(), block())[:-4], Rtcp((SR,))),
    "something behind": (sender_report(block()) + b"junk", Rtcp((SR,))),
    "zeros behind": (sender_report(block()) + bytes(18), Rtcp((SR,))),
    "version 0 behind": (sender_report(block()) + bytes(4) + receiver_report(block()), Rtcp((SR,))),
    "padding of none": (header(201, 0, bytes(8))[:-1].replace(b"\x80", b"\xa0", 1) + b"\0", Rtcp()),
    "padding longer than the packet": (header(201, 0, b"\1\1\1\xff").replace(b"\x80", b"\xa0", 1), Rtcp()),
    "description without its source": (receiver_report(block()) + description(count=1), Rtcp((RR,), 1)),
    "item longer than its packet": (
        receiver_report(block()) + header(202, 1, struct.pack(">IBB", 5, 1, 200) + b"ab"),
        Rtcp((RR,), 1, 5),
    ),
    "item without a length": (
        receiver_report(block()) + header(202, 1, struct.pack(">IBB", 5, 1, 1) + b"a\1"),
        Rtcp((RR,), 1, 5, (Item(5, 1, b"a"),)),
    ),
    "items without an end": (
        receiver_report(block()) + header(202, 1, struct.pack(">IBB", 5, 1, 2) + b"ab"),
        Rtcp((RR,), 1, 5, (Item(5, 1, b"ab"),)),
    ),
    "goodbye of more than there are": (receiver_report(block()) + bye(1, count=2), Rtcp((RR,))),
    "extended report without a source": (receiver_report(block()) + header(207, 0, b""), Rtcp((RR,))),
    "block of metrics too short": (
        receiver_report(block()) + extended_report(struct.pack(">BBH", 7, 0, 1) + bytes(4)),
        Rtcp((RR,)),
    ),
    "block longer than its packet": (
        receiver_report(block()) + extended_report(metrics_block(), struct.pack(">BBH", 4, 0, 2)),
        Rtcp((RR,), metrics=METRICS),
    ),
    "more reports than anybody sends": (receiver_report(block()) * (MOST_REPORTS + 1), Rtcp((RR,) * MOST_REPORTS)),
}


@pytest.mark.parametrize(("data", "expected"), WHOLE.values(), ids=WHOLE)
def test_whole(data, expected):
    assert read_rtcp(data) == expected


@pytest.mark.parametrize(("data", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(data, expected):
    """What is readable up to there is kept."""
    assert read_rtcp(data) == expected._replace(is_malformed=True)


def test_items_are_limited():
    data = receiver_report(block()) + description(chunk(5, *[(7, b"note")] * (MOST_ITEMS + 1)))
    read = read_rtcp(data)
    assert read.is_malformed
    assert (read.reports, len(read.items)) == ((RR,), MOST_ITEMS)


@pytest.mark.parametrize(
    ("tag", "key_id"),
    [
        *((bytes(10), one) for one in (b"", b"\1", b"\0\0\0\1")),  # HMAC-SHA1-80, key identifiers of SDES
        (bytes(4), b""),  # HMAC-SHA1-32
        *((b"", one) for one in (b"", b"\1")),  # AEAD: the tag is before the index
    ],
)
@pytest.mark.parametrize(
    "plain",
    [
        sender_report(block()) + description(CNAME),
        receiver_report(block()),
        receiver_report(),
        sender_report(block()) + description(CNAME) + bye(1),
    ],
    ids=["compound", "receiver report", "empty receiver report", "goodbye"],
)
def test_encrypted(plain, tag, key_id):
    aead_tag = b"" if tag else b"a tag of 16 byte"
    assert read_rtcp(encrypted(plain + aead_tag, tag=tag, key_id=key_id)) == Rtcp(is_encrypted=True)


@pytest.mark.parametrize("index", [0, 1, 255, 65536, (1 << 24) - 1])
def test_indexes(index):
    assert read_rtcp(encrypted(receiver_report(block()), index=index)).is_encrypted


def test_authenticated_only_is_read():
    """Without the flag, it is readable (RFC 3711 3.4)."""
    data = sender_report(block()) + struct.pack(">I", 5) + bytes(10)
    assert read_rtcp(data) == Rtcp((SR,), is_malformed=True)


WORD = st.integers(0, 0xFFFFFFFF)
BLOCKS = st.builds(
    ReportBlock,
    WORD, st.integers(0, 255), st.integers(-(1 << 23), (1 << 23) - 1), WORD, WORD, WORD, WORD,
)  # fmt: skip
INFORMATION = st.builds(SenderInformation, WORD, WORD, WORD, WORD, WORD)


def encode(report):
    """A report as a packet."""
    blocks = [block(*one) for one in report.blocks]
    if report.sender is None:
        return receiver_report(*blocks, ssrc=report.ssrc)
    return sender_report(*blocks, ssrc=report.ssrc, info=report.sender)


REPORTS = st.builds(
    lambda ssrc, sender, blocks: Report(201 if sender is None else 200, ssrc, sender, tuple(blocks)),
    WORD, st.none() | INFORMATION, st.lists(BLOCKS, max_size=31),
)  # fmt: skip
ITEMS = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=255)), max_size=6)


@given(st.lists(REPORTS, min_size=1, max_size=MOST_REPORTS), st.lists(st.tuples(WORD, ITEMS), max_size=4))
def test_round_trip(reports, sources):
    chunks = [chunk(ssrc, *items) for ssrc, items in sources]
    read = read_rtcp(b"".join(map(encode, reports)) + description(*chunks))
    items = tuple(Item(ssrc, *item) for ssrc, those in sources for item in those)
    describer = sources[0][0] if sources else None
    assert read == Rtcp(tuple(reports), len(sources), describer, items)


@given(st.binary(max_size=200))
def test_any_datagram_is_read(data):
    read = read_rtcp(data)
    assert len(read.items) <= MOST_ITEMS
    assert not (read.is_encrypted and read.reports)


@given(REPORTS, st.data())
def test_any_part_is_read(report, data):
    """A datagram cut anywhere gives a part of what was in it; so does one with any byte changed give something."""
    whole = encode(report) + description(CNAME)
    part = read_rtcp(whole[: data.draw(st.integers(0, len(whole) - 1))])
    if not part.is_encrypted and part.reports:
        assert part.reports[0] == report._replace(blocks=report.blocks[: len(part.reports[0].blocks)])
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_rtcp(bytes(changed))
