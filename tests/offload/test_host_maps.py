"""What the programs are told of this host, read back by the maps' layouts; what it does to frames is in tests/bpf."""

import socket

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.network.links import Reception
from rtpproxy.offload.host_maps import HostMaps
from rtpproxy.offload.maps import CalledMap
from tests.conftest import QINQ, VLAN, load_programs

pytestmark = [pytest.mark.root, pytest.mark.kernel]

RECEPTION = Reception("02:0a:0b:0c:0d:0e", 7, is_strict=True)
LINK = bytes.fromhex("020a0b0c0d0e 01 00 07000000")


@pytest.fixture(scope="module")
def small():
    """Programs with little room in their maps."""
    loaded = load_programs(MAX_LINKS="3", UNTAGGED_LINKS="4", MAX_HOST_ADDRESSES="2", STEERED_SOCKETS="3")
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def host_maps(small):
    return HostMaps(small)


@pytest.fixture
def value(small):
    """Reads the bytes under a key of a map, None when it is not there."""

    def read(name, key):
        try:
            return CalledMap(small.map_fds[name], small.layouts[name]).read(key)
        except FileNotFoundError:
            return None

    return read


@pytest.mark.parametrize(
    ("host", "words"), [("10.1.2.3", "ffff0a010203"), ("2001:db8::5", "20010db8" + 11 * "00" + "05")]
)
def test_addresses(host_maps, value, host, words):
    key = {"words": bytes.fromhex(words.rjust(32, "0"))}
    host_maps.add_local(host, 3)
    assert value("local_slots", key) == b"\3\0\0\0"
    assert value("host_addresses", key) is None
    host_maps.mark_host(host, True)
    assert value("host_addresses", key) == b"\1"
    host_maps.mark_host(host, False)
    assert value("host_addresses", key) is None
    with pytest.raises(OffloadError, match=f"^{host}: the list of this host's addresses: No such file or directory$"):
        host_maps.mark_host(host, False)


def test_links_without_tags_are_in_an_array_as_far_as_it_goes(host_maps, value):
    host_maps.mark_frames((3, ()), RECEPTION)
    assert value("untagged_links", 3) == LINK
    host_maps.mark_frames((3, ()), None)
    assert value("untagged_links", 3) == bytes(12)
    host_maps.mark_frames((4, ()), RECEPTION)
    assert value("links", {"ifindex": 4}) == LINK
    host_maps.mark_frames((4, ()), None)
    assert value("links", {"ifindex": 4}) is None


@pytest.mark.parametrize(("tags", "packed"), [(VLAN, "81000005"), (QINQ, "88a8000781000006")])
def test_links_with_tags(host_maps, value, tags, packed):
    key = {"ifindex": 1, "tags": bytes.fromhex(packed)}
    assert value("links", key) is not None
    host_maps.mark_frames((1, tags), None)
    assert value("links", key) is None
    host_maps.mark_frames((1, tags), RECEPTION)
    assert value("links", key) == LINK


def test_lack_of_room_is_told(host_maps):
    host_maps.mark_frames((9, ()), RECEPTION)
    with pytest.raises(OffloadError, match=r"^interface 10: the list of interfaces: Argument list too long$"):
        host_maps.mark_frames((10, ()), RECEPTION)
    host_maps.mark_frames((9, ()), None)


def test_sockets(host_maps):
    assert host_maps.sockets_per_family == 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        host_maps.set_sockets([receiver.fileno()] * 6)
        with pytest.raises(OSError, match="Argument list too long"):
            host_maps.set_sockets([receiver.fileno()] * 7)
