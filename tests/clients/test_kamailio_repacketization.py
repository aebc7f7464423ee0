"""Calls whose script asks for packets of 10 ms of what the caller sends: rtpproxy_manage() with the flag z10."""

import pytest

from tests.clients.calls import CALLER_PORT, SignalledCall
from tests.clients.conftest import CONTROL_PORT, Setting
from tests.clients.kamailio import USUAL_FLAGS, ControlTap, Kamailio
from tests.clients.sipp import Media
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for


@pytest.fixture
def setting(topology, tmp_path):
    host = topology.relay
    inside, outside = topology.caller.gateway.ip, topology.callee.gateway.ip
    control = ("-s", f"udp:127.0.0.1:{CONTROL_PORT}", "-F", "-l", inside)
    with (
        RunningRelay(tmp_path, *control, host=host) as relay,
        ControlTap(host, CONTROL_PORT) as tap,
        Kamailio(
            *(host, tmp_path),
            ips=[inside, outside],
            relays=[f"udp:127.0.0.1:{CONTROL_PORT}"],
            callee=topology.callee.ip,
            offer=[USUAL_FLAGS + "z10"],
            answer=[USUAL_FLAGS],
        ) as kamailio,
    ):
        yield Setting(topology, [relay], kamailio, (inside, inside), tap)
        assert kamailio.complaints == []


def test_what_the_caller_sends_is_divided(setting, tmp_path, start):
    with SignalledCall(setting, tmp_path, "length@caller", start) as call:
        call.offer(Media(setting.topology.caller.ip, CALLER_PORT))
        offer, answer = setting.tap.commands(call.name)
        assert offer.split()[0].startswith("UZ10")
        assert "Z" not in answer.split()[0]
        call.callee.send(rtp(1))
        assert call.caller.rtp.expect() == [(rtp(1), call.caller.to)]
        arrived = []
        call.caller.send(rtp(1))
        wait_for(lambda: arrived.extend(call.callee.rtp.take()) or len(arrived) == 2, DEADLINE_S, "two packets")
        second = rtp(1)[:2] + (2).to_bytes(2) + (160 + 80).to_bytes(4) + rtp(1)[8:12] + rtp(1)[92:]
        assert arrived == [(rtp(1)[:92], call.callee.to), (second, call.callee.to)]
        call.wait_offloaded(call.callee.to[1])
        call.hang_up()
