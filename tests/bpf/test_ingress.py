"""Ingress interfaces: frames by the route back to the source need the row only, all others the maps of this host."""

import contextlib

import pytest

from rtpproxy.network.links import Reception
from rtpproxy.offload.entry import NO_INGRESS, Ingress
from rtpproxy.offload.host_maps import HostMaps
from rtpproxy.offload.network_order import mac_bytes
from tests.bpf.data_plane import INGRESS, DataPlane, Outcome
from tests.bpf.frames import forwarded, received
from tests.bpf.prog_run import XDP_PASS, XDP_REDIRECT
from tests.conftest import RELAY_MAC, VLAN

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.vm]

LOOPBACK = 1
"""Frames come by this interface when a program is run on them."""
ANOTHER = Ingress(77, "02:00:00:00:01:77")
OTHER_MAC = "02:00:00:00:01:09"


@pytest.fixture(params=["xdp", "tc"])
def plane(request, loaded, tables):
    with DataPlane(loaded, tables, request.param) as plane:
        yield plane


@pytest.fixture
def receptions(loaded):
    """Changes how frames with some tags are taken, until the test ends."""
    maps = HostMaps(loaded)
    with contextlib.ExitStack() as stack:

        def change(reception, tags=()):
            stack.callback(maps.mark_frames, (LOOPBACK, tags), Reception(RELAY_MAC, LOOPBACK))
            maps.mark_frames((LOOPBACK, tags), reception)

        yield change


def redirected(frame):
    return Outcome(XDP_REDIRECT, frame, {"forwarded": 1})


def passed_up(frame, reason):
    return Outcome(XDP_PASS, frame, {reason: 1})


def to_mac(mac, port):
    return mac_bytes(mac) + received(port)[6:]


def test_by_the_route_back_the_row_is_enough(plane, receptions):
    """The maps, where the interface is unknown, are not asked; they are for a frame to another MAC."""
    receptions(None)
    plane.ingress = INGRESS
    entry = plane.install()
    assert plane.run(received(entry.port)) == redirected(forwarded(entry))
    entry = plane.install()
    frame = to_mac(OTHER_MAC, entry.port)
    assert plane.run(frame) == passed_up(frame, "up_other_mac")


@pytest.mark.parametrize("ingress", [NO_INGRESS, ANOTHER, Ingress(LOOPBACK, OTHER_MAC)], ids=str)
def test_the_maps_are_the_way_for_all_others(plane, receptions, ingress):
    plane.ingress = ingress
    entry = plane.install()
    assert plane.run(received(entry.port)) == redirected(forwarded(entry))
    receptions(Reception(OTHER_MAC, LOOPBACK))
    entry = plane.install()
    frame = received(entry.port)
    assert plane.run(frame) == passed_up(frame, "up_other_mac")


def test_a_mac_of_the_row_is_for_its_interface_only(plane):
    plane.ingress = Ingress(77, OTHER_MAC)
    frame = to_mac(OTHER_MAC, plane.install().port)
    assert plane.run(frame) == passed_up(frame, "up_other_mac")


def test_tagged_frames_are_not_those_of_the_interface_itself(plane, receptions):
    receptions(None, VLAN)
    frame = received(plane.install().port, tags=VLAN)
    assert plane.run(frame) == passed_up(frame, "up_vlan")


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("ingress", [NO_INGRESS, ANOTHER], ids=str)
def test_rp_filter(plane, receptions, ingress, is_strict):
    """Where it is strict, packets come by the route back, or the stack drops them. Their source stays locked."""
    receptions(Reception(RELAY_MAC, LOOPBACK, is_strict))
    plane.ingress = ingress
    entry = plane.install()
    frame = received(entry.port)
    assert plane.run(frame) == (passed_up(frame, "up_other_interface") if is_strict else redirected(forwarded(entry)))
    plane.ingress = INGRESS
    entry = plane.install()
    assert plane.run(received(entry.port)) == redirected(forwarded(entry))


def test_rp_filter_of_an_interface_that_others_carry(plane, receptions):
    """A VLAN, or a bond, is what routes name; frames come by what carries it."""
    receptions(Reception(RELAY_MAC, 77, is_strict=True), VLAN)
    plane.ingress = ANOTHER
    entry = plane.install()
    frame = received(entry.port, tags=VLAN)
    assert plane.run(frame) == redirected(forwarded(entry))
    plane.ingress = INGRESS
    entry = plane.install()
    frame = received(entry.port, tags=VLAN)
    assert plane.run(frame) == passed_up(frame, "up_other_interface")


def test_rp_filter_is_of_ipv4_only(plane, receptions):
    receptions(Reception(RELAY_MAC, LOOPBACK, is_strict=True))
    plane.ingress = ANOTHER
    entry = plane.install_between(is_ipv6=True, is_to_ipv6=True)
    assert plane.run(received(entry.port, is_ipv6=True)).counted == {"forwarded": 1}


def test_rp_filter_leaves_strangers_to_their_limit(plane, receptions):
    """They go up no more often than by the right interface."""
    receptions(Reception(RELAY_MAC, LOOPBACK, is_strict=True))
    plane.ingress = ANOTHER
    frame = received(plane.install().port, sport=9)
    assert plane.run(frame) == passed_up(frame, "up_other_source")
