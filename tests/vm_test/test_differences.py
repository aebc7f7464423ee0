import pytest
from generator.differences import Expectations, checksum, differences, split_tags
from generator.frames import Kind, Layout
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from tests.vm_test.streams import Wire, flipped, frames, payload

EXACT = Expectations()
TAGS = ((0x8100, 5),)


def one(version=4, kind=Kind.RTP, tags=()):
    """A frame as it should arrive, and its layout."""
    wire = Wire(version, kind, tags)
    return wire.send(1)[0], wire.account.frames.layout


def found(change, *, version=4, kind=Kind.RTP, expectations=EXACT, tags=()):
    """What is said of a right frame after a change; lengths and checksums stay unless the change mends them."""
    frame, layout = one(version, kind, tags)
    return differences(frame, change(frame), layout, expectations)


def rebuilt(**fields):
    """A change of fields of the IP header, with the header's checksum worked out again."""

    def change(frame):
        packet = Ether(frame)
        header = packet[IPv6] if IPv6 in packet else packet[IP]
        for name, value in fields.items():
            setattr(header, name, value)
        if IP in packet:
            del packet[IP].chksum
        return bytes(packet)

    return change


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tags", [(), TAGS])
def test_a_right_frame_has_no_differences(version, kind, tags):
    assert found(lambda frame: frame, version=version, kind=kind, tags=tags) == []


@pytest.mark.parametrize(
    ("offset", "name"),
    [
        *((0, "destination MAC"), (6, "source MAC"), (12, "Ethernet type"), (14, "IP version or header length")),
        *((34, "source port"), (36, "destination port"), (38, "UDP length"), (42, "RTP header"), (60, "payload")),
        *((53, "RTP header"), (213, "payload"), (40, "UDP checksum"), (24, "IP checksum")),
    ],
)
def test_each_field_has_a_name(offset, name):
    assert name in found(lambda frame: flipped(frame, offset, 0x01))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tos": 0}, ["TOS"]),
        ({"ttl": 63}, ["TTL"]),
        ({"len": 201}, ["IP total length"]),
        ({"frag": 3}, ["fragment bits"]),
        ({"flags": "MF"}, ["fragment bits"]),
        ({"proto": 6}, ["IP protocol"]),
        ({"src": "10.0.1.2"}, ["source address", "UDP checksum"]),
        ({"dst": "10.0.1.11"}, ["destination address", "UDP checksum"]),
        ({"id": 4711}, []),
        ({"flags": 0}, []),
    ],
)
def test_fields_of_ipv4(fields, names):
    """With a header checksum that is right for them."""
    assert found(rebuilt(**fields)) == names


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tc": 0}, ["traffic class"]),
        ({"hlim": 63}, ["hop limit"]),
        ({"plen": 100}, ["IPv6 payload length"]),
        ({"nh": 6}, ["IPv6 next header"]),
        ({"version": 5}, ["IP version"]),
        ({"src": "fd00::2"}, ["source address", "UDP checksum"]),
        ({"fl": 4711}, []),
    ],
)
def test_fields_of_ipv6(fields, names):
    assert found(rebuilt(**fields), version=6) == names


def test_what_may_be_as_the_relay_likes():
    free = Expectations(tos=None, tos6=None, ttl=None)
    assert found(rebuilt(tos=3, ttl=9), expectations=free) == []
    assert found(rebuilt(tc=3, hlim=9), version=6, expectations=free) == []


def test_the_df_bit_counts_if_wanted():
    assert found(rebuilt(flags=0), expectations=Expectations(is_df_set=True)) == ["fragment bits"]
    assert found(rebuilt(flags="DF"), expectations=Expectations(is_df_set=True)) == []


def test_tags():
    def without(frame):
        return split_tags(frame)[1]

    def other(frame):
        packet = Ether(frame)
        packet[Dot1Q].vlan = 6
        return bytes(packet)

    def with_priority(frame):
        packet = Ether(frame)
        packet[Dot1Q].prio = 3
        return bytes(packet)

    for change in (without, other, with_priority):
        assert found(change, tags=TAGS) == ["VLAN tags"]
    tagged, _ = one(tags=TAGS)
    assert found(lambda _: tagged) == ["VLAN tags"]


def test_lengths():
    assert "length of the frame" in found(lambda frame: frame[:-1])
    assert found(lambda frame: frame + b"\0") == ["length of the frame"]


def test_short_frames_may_be_filled_up_with_zeros():
    layout = Layout((), 4, 12, Kind.RTP)
    bare = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.1.1", dst="10.0.1.2", tos=0xB8)
    frame = bytes(bare / UDP(sport=1, dport=2) / (b"\x80" + bytes(11)))
    assert differences(frame, frame.ljust(60, b"\0"), layout, EXACT) == []
    assert differences(frame, frame.ljust(60, b"x"), layout, EXACT) == ["length of the frame"]


def test_checksums_may_be_left_to_the_card_if_the_kernel_says_so():
    frame, layout = one()
    pseudo = frame[26:34] + b"\0\x11" + (layout.length - 34).to_bytes(2)
    unfinished = frame[:40] + (0xFFFF - checksum(pseudo)).to_bytes(2) + frame[42:]
    assert differences(frame, unfinished, layout, EXACT, is_unfinished=True) == []
    assert differences(frame, unfinished, layout, EXACT) == ["UDP checksum"]
    assert differences(frame, flipped(unfinished, 40), layout, EXACT, is_unfinished=True) == ["UDP checksum"]


def test_a_checksum_that_is_missing():
    assert found(lambda frame: frame[:40] + b"\0\0" + frame[42:]) == ["UDP checksum absent"]


@given(st.data())
def test_a_bit_that_flips_is_seen(data):
    """Wherever it is, but for the IP identification, the DF bit and the flow label."""
    version = data.draw(st.sampled_from([4, 6]))
    kind = data.draw(st.sampled_from(Kind))
    frame, layout = one(version, kind)
    offset = data.draw(st.integers(0, len(frame) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    free = {(20, 0x40)} if version == 4 else {(15, 1 << n) for n in range(4)}
    free_bytes = {18, 19} if version == 4 else {16, 17}
    changed = flipped(frame, offset, bit)
    names = differences(frame, changed, layout, EXACT)
    is_free = (offset, bit) in free or offset in free_bytes
    if version == 4 and is_free:
        assert names == ["IP checksum"]  # which covers them
    else:
        assert bool(names) is not is_free


@given(st.binary(max_size=300))
def test_any_bytes_may_arrive(data):
    frame, layout = one()
    assert data == frame or differences(frame, data, layout, EXACT)


def test_the_checksum_of_rfc_1071():
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert checksum(b"\x01") == 0xFFFF - 0x0100


def test_the_layout_says_where_the_payload_is():
    for tags in ((), TAGS):
        layout = frames(tags=tags).layout
        assert one(tags=tags)[0][layout.payload + 12 + 12 :] == payload(Kind.RTP)[24:]
