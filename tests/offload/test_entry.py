"""Entries that a session wants, and the steps to them from those that are installed."""

from dataclasses import replace

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import (
    CONTESTED,
    DENIED,
    LINK_LOCAL,
    NOT_LEARNED,
    OTHER_FAMILY,
    PEER_UNKNOWN,
    REFLECTED,
    WITNESSED,
    Diff,
    ForwardingEntry,
    diff,
    plan,
)
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Component, Role, Teeing
from tests.fakes import FakeRecordedStream, make_session

CALLER, CALLEE = Endpoint("10.0.1.2", 5004), Endpoint("10.0.2.2", 6006)
NEAR, FAR = "10.0.1.1", "10.0.2.1"
"""Our addresses that the caller and the callee send to."""
TO_CALLER_TOS, TO_CALLEE_TOS = 0x20, 0x48


def nobody(_):
    """No stream is denied its remote."""
    return False


def after(endpoint):
    return Endpoint(endpoint.host, endpoint.port + 1)


def learned_session():
    """Make a session with all four streams locked: ports 35000, 35001 face the caller, 36000, 36001 the callee."""
    session = make_session()
    session.is_complete = True
    for role, remote, port, local_host, tos in (
        (Role.CALLER, CALLER, 35000, NEAR, TO_CALLER_TOS),
        (Role.CALLEE, CALLEE, 36000, FAR, TO_CALLEE_TOS),
    ):
        for stream in session.leg(role).streams:
            stream.settle(stream.local, port + stream.component, 0.0)
            stream.local_host = local_host
            stream.tos = tos
            stream.latch.remote = after(remote) if stream.component is Component.RTCP else remote
            stream.latch.is_latched = True
    return session


def entry(port=35000, **changes):
    """The entry of the caller's RTP in `learned_session`."""
    made = ForwardingEntry(port, NEAR, CALLER, False, True, FAR, 36000, CALLEE, TO_CALLEE_TOS)
    return replace(made, **changes)


CALLEE_ENTRY = ForwardingEntry(36000, FAR, CALLEE, False, True, NEAR, 35000, CALLER, TO_CALLER_TOS)


def test_all_four_streams():
    rtcp = ForwardingEntry(35001, NEAR, after(CALLER), False, False, FAR, 36001, after(CALLEE), TO_CALLEE_TOS)
    callee_rtcp = ForwardingEntry(36001, FAR, after(CALLEE), False, False, NEAR, 35001, after(CALLER), TO_CALLER_TOS)
    assert plan(learned_session(), nobody) == {35000: entry(), 35001: rtcp, 36000: CALLEE_ENTRY, 36001: callee_rtcp}


def test_streams_that_are_teed():
    """What arrives at their port, and nothing else."""
    session = learned_session()
    for stream, number in ((session.caller.rtp, 5), (session.callee.rtcp, 6)):
        stream.witnesses, stream.teeing = (FakeRecordedStream(stream),), Teeing(number)
    wanted = plan(session, nobody)
    assert {key: want.tee for key, want in wanted.items()} == {35000: 5, 35001: 0, 36000: 0, 36001: 6}
    assert wanted[35000] == entry(tee=5)


def test_streams_that_are_teed_by_payload_type():
    session = learned_session()
    stream = session.caller.rtp
    stream.witnesses, stream.teeing = (FakeRecordedStream(stream),), Teeing(5, 0)
    assert plan(session, nobody)[35000] == entry(tee=5, tee_type=0)


def test_hidden_packets_leave_the_rest_in_the_kernel():
    session = learned_session()
    session.caller.rtp.teeing = Teeing(hidden_type=101)
    wanted = plan(session, nobody)
    assert wanted[35000] == entry(hidden_type=101)
    assert wanted[36000] == CALLEE_ENTRY


def test_userspace_has_streams_with_witnesses_that_are_not_teed():
    session = learned_session()
    session.caller.rtp.witnesses = (FakeRecordedStream(session.caller.rtp),)
    wanted = plan(session, nobody)
    assert wanted.pop(35000) == WITNESSED
    assert all(isinstance(want, ForwardingEntry) for want in wanted.values())


def test_nothing_is_forwarded_where_sources_take_a_stream_in_turn():
    """The other direction and RTCP follow each change, so they have no entry, either."""
    session = learned_session()
    latch = session.callee.rtp.latch
    latch.signal(CALLEE, 1.0)
    latch.ssrc = 1
    for number, port in enumerate((1, 2)):
        assert CONTESTED not in plan(session, nobody).values()
        latch.observe(Endpoint(CALLEE.host, port), RtpHeader(2, 1, 0, 0, False), True, 1.1 + number)
    assert plan(session, nobody) == dict.fromkeys((35000, 35001, 36000, 36001), CONTESTED)
    assert latch.settle(5.0)
    assert CONTESTED not in plan(session, nobody).values()


def test_ports_are_told_by_their_keys():
    """Both legs may have the same port number in different port spaces."""
    session = learned_session()
    for stream in session.callee.streams:
        stream.settle(LocalAddress(3, FAR), 35000 + stream.component, 0.0)
    wanted = plan(session, nobody)
    assert sorted(wanted) == [35000, 35001, 3 << 16 | 35000, 3 << 16 | 35001]
    assert wanted[35000] == entry(from_port=35000)
    assert wanted[3 << 16 | 35000] == replace(CALLEE_ENTRY, port=35000, slot=3)
    assert wanted[3 << 16 | 35000].key == 3 << 16 | 35000


def test_our_address_must_be_known():
    session = learned_session()
    session.caller.rtp.local_host = ""
    wanted = plan(session, nobody)
    assert wanted[35000] == NOT_LEARNED
    assert wanted[36000] == replace(CALLEE_ENTRY, from_host="")


def test_route_decides_where_the_peers_side_is_not_known():
    session = learned_session()
    session.callee.rtp.local_host = ""
    assert plan(session, nobody)[35000] == entry(from_host="")


def test_one_leg():
    """New ports for the other leg completed the session (tests/service/test_matching.py)."""
    session = learned_session()
    for stream in session.callee.streams:
        stream.local_port = 0
    assert plan(session, nobody) == {35000: PEER_UNKNOWN, 35001: PEER_UNKNOWN}


def test_nothing_is_forwarded_to_a_remote_that_is_denied():
    session = learned_session()
    wanted = plan(session, lambda stream: stream is session.callee.rtp)
    assert wanted[35000] == DENIED
    assert wanted[36000] == CALLEE_ENTRY


def test_no_ports():
    assert plan(make_session(), nobody) == {}


def test_nothing_heard_yet():
    session = learned_session()
    session.caller.rtp.latch.is_latched = False
    wanted = plan(session, nobody)
    assert wanted[35000] == NOT_LEARNED
    assert wanted[36000] == CALLEE_ENTRY


def test_nothing_known_of_one_party():
    session = learned_session()
    session.caller.rtp.latch.remote = None
    wanted = plan(session, nobody)
    assert (wanted[35000], wanted[36000]) == (NOT_LEARNED, PEER_UNKNOWN)


def test_peer_without_a_port():
    session = learned_session()
    session.callee.rtp.latch.remote = Endpoint(CALLEE.host, 0)
    assert plan(session, nobody)[35000] == PEER_UNKNOWN


def test_asymmetric_party_is_locked_before_it_is_heard():
    session = learned_session()
    session.caller.rtp.latch.is_latched = False
    session.caller.rtp.latch.is_asymmetric = True
    assert plan(session, nobody)[35000] == entry(is_any_source_port=True)


def move(session, role, host, local_host):
    """Move a party, and our address for it."""
    leg = session.leg(role)
    for stream in leg.streams:
        stream.settle(LocalAddress(1, local_host, is_ipv6=":" in local_host), stream.local_port, 0.0)
        if stream.latch.remote is not None:
            stream.latch.remote = Endpoint(host, stream.latch.remote.port)


@pytest.mark.parametrize("roles", [(Role.CALLER,), (Role.CALLEE,), tuple(Role)], ids=["6-4", "4-6", "6-6"])
def test_families_are_forwarded_in_all_pairs(roles):
    session = learned_session()
    for role in roles:
        move(session, role, f"2001:db8:{role}::2", f"2001:db8:{role}::1")
    for want in plan(session, nobody).values():
        assert isinstance(want, ForwardingEntry)
        from_leg, to_leg = (session.callee, session.caller)
        if want.port in (session.caller.rtp.local_port, session.caller.rtcp.local_port):
            from_leg, to_leg = to_leg, from_leg
        assert (want.source.host, want.local_host) == (from_leg.rtp.latch.remote.host, from_leg.rtp.local_host)
        assert (want.to.host, want.from_host) == (to_leg.rtp.latch.remote.host, to_leg.rtp.local_host)


@pytest.mark.parametrize("role", Role)
def test_signalled_address_of_another_family_is_not_sent_to(role):
    """The family of the packets that the party sends decides (protocol.md 7.4)."""
    session = learned_session()
    session.leg(role).rtp.latch.remote = Endpoint("2001:db8::1", 5004)
    wanted = plan(session, nobody)
    assert wanted[session.leg(role.peer).rtp.key] == OTHER_FAMILY
    assert isinstance(wanted[35001], ForwardingEntry)


def test_asymmetric_party_of_another_family_than_our_port_is_not_locked():
    session = learned_session()
    session.caller.rtp.latch.remote = Endpoint("2001:db8::1", 5004)
    session.caller.rtp.latch.is_asymmetric = True
    assert plan(session, nobody)[35000] == plan(session, nobody)[36000] == OTHER_FAMILY


@pytest.mark.parametrize(
    ("host", "local_host"),
    [("fe80::2%3", "fe80::1%3"), ("fe80::2", "2001:db8::1"), ("2001:db8::2", "fe80::1%3"), ("febf::1", "2001:db8::1")],
)
def test_link_local_addresses_stay_in_userspace(host, local_host):
    session = learned_session()
    move(session, Role.CALLER, host, "2001:db8::1")
    session.caller.rtp.local_host = local_host
    assert plan(session, nobody)[session.caller.rtp.key] == LINK_LOCAL


def test_nothing_is_sent_back_to_its_sender():
    session = learned_session()
    session.callee.rtp.latch.remote = session.caller.rtp.latch.remote
    wanted = plan(session, nobody)
    assert (wanted[35000], wanted[36000]) == (REFLECTED, REFLECTED)


def test_asymmetric_party_at_the_peers_host_may_be_the_peer():
    """It may send from any port of its host, so the peer may be the sender itself."""
    session = learned_session()
    session.callee.rtp.latch.remote = Endpoint(CALLER.host, 9000)
    session.caller.rtp.latch.is_asymmetric = True
    wanted = plan(session, nobody)
    assert wanted[35000] == REFLECTED
    assert isinstance(wanted[36000], ForwardingEntry)


A, B, C = entry(1), entry(2), entry(3)


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        ([], [], Diff((), ())),
        ([], [A, B], Diff((), (A, B))),
        ([A, B], [], Diff((1, 2), ())),
        ([A, B], [A, B], Diff((), ())),
        ([A, B], [B, C], Diff((1,), (C,))),
        ([A, B], [A, replace(B, from_port=7)], Diff((), (replace(B, from_port=7),))),
    ],
)
def test_diff(have, want, expected):
    def by_port(entries):
        return {entry.port: entry for entry in entries}

    assert diff(by_port(have), by_port(want)) == expected
