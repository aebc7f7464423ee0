"""Offsets of the kernel's structs: from a description made by hand, and from that of the running kernel."""

import struct
from pathlib import Path

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload.btf import member_offsets

VMLINUX = Path("/sys/kernel/btf/vmlinux")
NAMES = b"\0int\0packet\0size\0flags\0size_t\0"
INT, PACKET, SIZE, FLAGS = (NAMES.index(b"\0" + name + b"\0") + 1 for name in (b"int", b"packet", b"size", b"flags"))
KIND_INT, KIND_STRUCT, KIND_TYPEDEF = 1, 4, 8


def described(*types):
    body = b"".join(types)
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(NAMES)) + body + NAMES


def structure(name, *members, has_bit_fields=0):
    head = struct.pack("=III", name, has_bit_fields << 31 | KIND_STRUCT << 24 | len(members), 16)
    return head + b"".join(struct.pack("=III", member, 1, bits) for member, bits in members)


NUMBER = struct.pack("=IIII", INT, KIND_INT << 24, 4, 32)
ALIAS = struct.pack("=III", PACKET, KIND_TYPEDEF << 24, 1)
"""Another type of the same name."""


def test_members():
    btf = described(NUMBER, ALIAS, structure(PACKET, (SIZE, 0), (FLAGS, 96)))
    assert member_offsets(btf, {"A": ("packet", "size"), "B": ("packet", "flags")}) == {"A": 0, "B": 12}


def test_struct_with_bit_fields():
    """The upper byte of an offset is the size of the field then."""
    btf = described(NUMBER, structure(PACKET, (SIZE, 0), (FLAGS, 7 << 24 | 64), has_bit_fields=1))
    assert member_offsets(btf, {"A": ("packet", "flags")}) == {"A": 8}


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("packet", "flags"), "the kernel's struct packet has no member flags"),
        (("int", "size"), "the kernel's struct int has no member size"),
        (("frame", "size"), "the kernel knows nothing named frame"),
    ],
)
def test_what_is_not_there(member, why):
    with pytest.raises(OffloadError) as raised:
        member_offsets(described(NUMBER, structure(PACKET, (SIZE, 0))), {"A": member})
    assert str(raised.value) == why


@pytest.mark.parametrize("data", [b"", b"\0" * 100])
def test_no_description(data):
    with pytest.raises(OffloadError, match="not understood"):
        member_offsets(data, {})


@pytest.mark.vm
@pytest.mark.skipif(not VMLINUX.exists(), reason="needs a kernel that describes its types (BTF)")
def test_running_kernel():
    found = member_offsets(VMLINUX.read_bytes(), {"HEAD": ("list_head", "next"), "TAIL": ("list_head", "prev")})
    assert found == {"HEAD": 0, "TAIL": 8}
