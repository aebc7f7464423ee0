"""Calls between SIPp phones through Debian's Kamailio, whose rtpproxy module asks the installed relay for ports."""

from pathlib import Path

import pytest

from tests.clients.conftest import Setting
from tests.clients.sipp import MEDIA_PORT, Caller, Media, UserAgent
from tests.netns_call.call import KERNEL, Call, Party, PhonePort, paused
from tests.running import rtp
from tests.waiting import wait_for

CALLER_PORT = 4000
DEADLINE_S = 10.0


class SignalledCall(Call):
    """A call whose ports Kamailio asked for: the phones send where SIP told them to."""

    def __init__(self, setting: Setting, directory: Path, call_id: str, start) -> None:
        topology = setting.topology
        self.relay = setting.relay
        self.name = call_id
        self.caller = party(topology.caller, CALLER_PORT)
        self.callee = party(topology.callee, MEDIA_PORT)
        self.answering = start(UserAgent(topology.callee, directory, "callee"))
        self.calling = start(Caller(topology.caller, directory, setting.proxy, call_id))

    def offer(self, media: Media) -> tuple[Media, Media]:
        """Call, or offer something else within the call; what the callee and the caller are told."""
        to_caller = self.calling.offer(media)
        to_callee = self.answering.offers[-1]
        self.caller.to = to_caller.address
        self.callee.to = to_callee.address
        return to_callee, to_caller

    def hang_up(self) -> None:
        self.calling.hang_up()
        self.answering.wait()


def party(phone, port: int) -> Party:
    return Party(PhonePort(phone, phone.ip, port), PhonePort(phone, phone.ip, port + 1))


@pytest.fixture
def call(setting, tmp_path, start, request):
    with SignalledCall(setting, tmp_path, f"{request.node.name}@caller", start) as call:
        yield call


@pytest.fixture
def media(setting):
    """Where the caller is."""
    return Media(setting.topology.caller.ip, CALLER_PORT)


def test_media_of_a_call_goes_through_the_kernel_until_it_is_hung_up(setting, call, media):
    to_callee, to_caller = call.offer(media)
    relay_ips = {interface.ip for interface in setting.topology.relay.interfaces.values()}
    assert {to_callee.host, to_caller.host} <= relay_ips
    assert setting.relay.totals()["active sessions"] == 1

    call.establish(KERNEL)
    with paused(setting.relay):
        for number in range(2, 20):
            call.cross(rtp(number))

    call.hang_up()
    wait_for(lambda: setting.relay.totals()["active sessions"] == 0, DEADLINE_S, "the session to go")
    for port in (to_callee, to_caller):
        call.caller.rtp.expect_refusal(rtp(20), port.address)
