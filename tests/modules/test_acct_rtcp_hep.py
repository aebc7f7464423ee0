"""The module that has RTCP reported: what it asks for of each new session."""

import pytest

from rtpproxy.config import HepSettings, HepTransport
from rtpproxy.modules.acct_rtcp_hep import AcctRtcpHep
from rtpproxy.recording.collectors import Agent, decode_settings
from tests.fakes import make_session


class Wanted:
    """Takes what is wanted of new sessions."""

    def of_new_sessions(self, wanted):
        self.taps_of = wanted


@pytest.mark.parametrize("transport", HepTransport)
def test_rtcp_of_both_parties_is_tapped(transport):
    wanted, module = Wanted(), AcctRtcpHep(HepSettings("homer.example", 9061, transport, 7))
    module.begin(wanted)
    first, second = make_session(b"first"), make_session(b"second")
    for session in (first, second):
        (tap,) = wanted.taps_of(session)
        assert tap.streams == (session.callee.rtcp, session.caller.rtcp)
        assert (tap.kind, tap.payload_type, tap.is_hiding) == ("hep", None, False)
        agent = Agent("homer.example", 9061, transport is HepTransport.TCP, 7)
        assert decode_settings(tap.settings) == (agent, session.call_id)
        tap.on_found(b"")


def test_two_instances_have_taps_of_their_own():
    purposes = set()
    for host in ("192.0.2.1", "192.0.2.2"):
        wanted = Wanted()
        AcctRtcpHep(HepSettings(host)).begin(wanted)
        (tap,) = wanted.taps_of(make_session())
        purposes.add(tap.purpose)
    assert len(purposes) == 2
