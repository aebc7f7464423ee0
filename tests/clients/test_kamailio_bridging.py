"""An IPv4 caller and an IPv6 callee: the relay in bridge mode (protocol.md 7.3), told by Kamailio which side is which.

The internal network is the caller's. In an offer, the first letter is for the side towards the caller. Those of the
answer decide nothing any more, but they keep the relay from choosing by family (protocol.md 7.4).
"""

import re
from dataclasses import replace

import pytest

from tests.clients.calls import CALLER_PORT, SignalledCall, party
from tests.clients.conftest import CONTROL_PORT, Setting
from tests.clients.kamailio import USUAL_FLAGS, ControlTap, Kamailio
from tests.clients.sipp import Media
from tests.netns import Topology
from tests.netns_call.call import rtcp
from tests.running import RunningRelay, rtp

FLAGS = {"ie": ("UIE", "LIE6"), "x": ("UIE", "LEI6")}
"""Of rtpproxy_manage(): sides as they are, or by the family of the SDP; and what Kamailio sends in offer and answer."""

_LETTERS = re.compile(r"[UL][EI6]*")
"""The command and its letters for direction and family; a codec list may follow."""


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


@pytest.fixture(scope="module")
def relay(topology, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bridge")
    addresses = ("-l", topology.caller.gateway.ip, "-6", f"/{topology.callee.gateway.ip6}")
    control = ("-s", f"udp:127.0.0.1:{CONTROL_PORT}", "-F")
    with RunningRelay(directory, *addresses, *control, host=topology.relay) as relay:
        yield relay


@pytest.fixture(params=FLAGS)
def setting(request, topology, relay, tmp_path):
    inside, outside = topology.caller.gateway.ip, topology.callee.gateway.ip6
    with (
        ControlTap(topology.relay, CONTROL_PORT) as tap,
        Kamailio(
            topology.relay,
            tmp_path,
            ips=[inside, f"[{outside}]"],
            relays=[f"udp:127.0.0.1:{CONTROL_PORT}"],
            callee=f"[{topology.callee.ip6}]",
            offer=[USUAL_FLAGS + request.param],
            answer=[USUAL_FLAGS + request.param],
        ) as kamailio,
    ):
        yield Setting(topology, [relay], kamailio, (outside, inside), tap)
        relay.ask("X")
        assert kamailio.complaints == []


@pytest.fixture
def call(setting, tmp_path, start, request):
    name = f"{request.node.name}@caller"
    with SignalledCall(setting, tmp_path, name, start, callee_ip=setting.topology.callee.ip6) as call:
        yield call


@pytest.fixture
def flags(request):
    return request.node.callspec.params["setting"]


def test_each_party_is_told_an_address_of_its_family_and_hears_the_other(setting, call, flags):
    media = Media(setting.topology.caller.ip, CALLER_PORT)
    to_callee, to_caller = call.offer(media)
    assert (to_callee.host, to_caller.host) == setting.hosts
    assert [_LETTERS.match(command)[0] for command in setting.tap.commands(call.name)] == list(FLAGS[flags])
    for number in range(1, 20):
        call.cross(rtp(number))
    call.cross(rtcp(1), is_rtcp=True)

    call.caller.close()
    call.caller = party(setting.topology.caller, CALLER_PORT + 100)
    assert call.offer(replace(media, port=CALLER_PORT + 100)) == (to_callee, to_caller)
    for number in range(20, 30):
        call.cross(rtp(number))
    call.hang_up()


def test_media_goes_on_after_hold(setting, call):
    media = Media(setting.topology.caller.ip, CALLER_PORT)
    told = call.offer(media)
    call.cross(rtp(1))
    call.offer(replace(media, direction="sendonly"))
    assert call.offer(media) == told
    call.cross(rtp(2))
    call.hang_up()
