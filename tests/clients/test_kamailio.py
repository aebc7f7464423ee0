"""Calls between SIPp phones through Debian's Kamailio, whose rtpproxy module asks the installed relay for ports."""

from dataclasses import replace

import pytest

from tests.clients.calls import CALLER_PORT, DEADLINE_S, SignalledCall, party, wait_for_sessions
from tests.clients.sipp import SIP_PORT, Media, UserAgent
from tests.netns_call.call import KERNEL, Call, PhonePort, paused
from tests.recording.packets import read_adhoc
from tests.running import rtp
from tests.waiting import wait_for

CALLS = 200


@pytest.fixture
def call(setting, tmp_path, start, request):
    with SignalledCall(setting, tmp_path, f"{request.node.name}@caller", start) as call:
        yield call


@pytest.fixture
def media(setting):
    """Where the caller is."""
    return Media(setting.topology.caller.ip, CALLER_PORT)


def cross_in_the_kernel(call: Call, numbers: range) -> None:
    """The relay's process stands still meanwhile."""
    with paused(call.relay):
        for number in numbers:
            call.cross(rtp(number))


def test_media_of_a_call_goes_through_the_kernel_until_it_is_hung_up(setting, call, media):
    to_callee, to_caller = call.offer(media)
    assert (to_callee.host, to_caller.host) == setting.hosts
    wait_for_sessions(setting.relay, 1)

    call.establish(KERNEL)
    cross_in_the_kernel(call, range(2, 20))

    call.hang_up()
    for port in (to_callee.address, to_caller.address):
        call.caller.rtp.expect_refusal(rtp(20), port)


@pytest.mark.parametrize(("host", "direction"), [("", "sendonly"), ("", "inactive"), ("0.0.0.0", "sendrecv")])
def test_media_goes_on_after_hold(call, media, host, direction):
    """RFC 3264 8.4: hold is a direction, or a null address. The callee must still know the port when it is resumed."""
    to_callee, to_caller = call.offer(media)
    call.establish(KERNEL)

    held = replace(media, host=host or media.host, direction=direction)
    assert call.offer(held) == (replace(to_callee, host=host or to_callee.host, direction=direction), to_caller)
    call.callee.to = to_callee.address
    call.cross(rtp(2))  # a relay says nothing of hold: music may be played

    assert call.offer(media) == (to_callee, to_caller)
    call.cross(rtp(3))
    call.wait_offloaded()
    cross_in_the_kernel(call, range(4, 10))
    call.hang_up()


@pytest.mark.parametrize("name", ["music@caller", "music-self@caller"])
def test_music_on_hold(setting, start, tmp_path, media, name):
    """rtpproxy_stream2uas() and rtpproxy_stream2uac(), and their ends, in the codecs of the party that hears it."""
    with SignalledCall(setting, tmp_path, name, start) as call:
        call.offer(media)
        call.establish(KERNEL)
        before = [int(count) for count in setting.relay.ask("G nplrs_created nplrs_destroyed").split()]
        call.offer(replace(media, direction="sendonly"))
        held = call.caller if "self" in name else call.callee
        heard = b""
        while len(heard) < 480:
            heard += b"".join(packet[12:] for packet, _ in held.rtp.expect())
        assert heard == (bytes(range(240)) * 100)[: len(heard)]
        call.offer(media)
        after = [int(count) for count in setting.relay.ask("G nplrs_created nplrs_destroyed").split()]
        assert [one - other for one, other in zip(after, before, strict=True)] == [1, 1]
        held.rtp.take()
        call.wait_offloaded()
        call.cross(rtp(20))
        call.hang_up()
    if setting.tap is not None:
        asked = [command.split()[0] for command in setting.tap.commands(name) if command[0] in "PS"]
        assert asked == ["P-1", "S"]


def test_media_follows_the_caller_to_another_port(setting, call, media):
    told = call.offer(media)
    call.establish(KERNEL)

    call.caller.close()
    call.caller = party(setting.topology.caller, CALLER_PORT + 100)
    assert call.offer(replace(media, port=CALLER_PORT + 100)) == told
    call.callee.send(rtp(2))
    assert call.caller.rtp.expect() == [(rtp(2), call.caller.to)], "before the caller sent from there"
    call.cross(rtp(3))
    call.wait_offloaded(*call.rtp_ports)
    cross_in_the_kernel(call, range(4, 10))
    call.hang_up()


def test_a_recorded_call(setting, call, media):
    """start_recording() in the reply route: what the callee sends, until the call is hung up."""
    call.offer(media)
    call.cross(rtp(1))
    call.cross(rtp(2))
    call.hang_up()

    def read():
        return list(setting.recordings.glob("test_a_recorded_call*.a.rtp"))

    (path,) = wait_for(read, DEADLINE_S, "the recording")
    assert [one.payload for one in read_adhoc(path.read_bytes())] == [rtp(1), rtp(2)]
    path.unlink()


def expect_failure(setting, created_before: int, calling: UserAgent, status: int) -> None:
    """The caller heard of it, there was a session, and it is gone."""
    calling.wait()
    assert calling.statuses[-1] == status
    wait_for_sessions(setting.relay, 0)
    assert setting.relay.totals()["sessions created"] == created_before + 1


def impatient(setting, directory) -> UserAgent:
    """A caller whose calls Kamailio gives up after two seconds."""
    options = ("-s", "impatient")
    return UserAgent(setting.topology.caller, directory, "failed_call", *options, proxy=setting.proxy)


@pytest.fixture
def created(setting) -> int:
    """Sessions so far."""
    return setting.relay.totals()["sessions created"]


@pytest.mark.parametrize(("status", "reason"), [(486, "Busy Here"), (408, "Request Timeout"), (503, "Unavailable")])
def test_a_refused_call_leaves_nothing(setting, start, tmp_path, created, status, reason):
    refusing = start(setting, UserAgent(setting.topology.callee, tmp_path, "refusing", status=f"{status} {reason}"))
    calling = start(setting, UserAgent(setting.topology.caller, tmp_path, "failed_call", proxy=setting.proxy))
    # RFC 3261 16.7: a proxy hands 503 of one server on as 500
    expect_failure(setting, created, calling, {503: 500}.get(status, status))
    refusing.wait()


def test_a_call_that_nobody_takes_leaves_nothing(setting, start, tmp_path, created):
    with PhonePort(setting.topology.callee, setting.topology.callee.ip, SIP_PORT):
        calling = start(setting, impatient(setting, tmp_path))
        expect_failure(setting, created, calling, 408)


def test_a_call_that_only_rings_leaves_nothing(setting, start, tmp_path, created):
    ringing = start(setting, UserAgent(setting.topology.callee, tmp_path, "ringing"))
    calling = start(setting, impatient(setting, tmp_path))
    expect_failure(setting, created, calling, 408)
    ringing.wait()


def test_a_cancelled_call_leaves_nothing(setting, start, tmp_path, created):
    ringing = start(setting, UserAgent(setting.topology.callee, tmp_path, "ringing"))
    calling = start(setting, UserAgent(setting.topology.caller, tmp_path, "cancelled_call", proxy=setting.proxy))
    expect_failure(setting, created, calling, 487)
    ringing.wait()


def test_every_command_of_200_calls_is_answered_once(setting, start, tmp_path, created):
    """20 calls a second over UDP, twice that over unix; each lasts a second."""
    rate = 20 if setting.tap else 40
    already = len(setting.tap.exchanges()) if setting.tap else 0
    answering = start(setting, UserAgent(setting.topology.callee, tmp_path, "callee", calls=CALLS))
    options = ("-r", f"{rate}", "-d", "1000")
    calling = UserAgent(setting.topology.caller, tmp_path, "short_calls", *options, proxy=setting.proxy, calls=CALLS)
    start(setting, calling)
    calling.wait(CALLS / rate + DEADLINE_S)
    answering.wait()
    wait_for_sessions(setting.relay, 0)
    assert setting.relay.totals()["sessions created"] == created + CALLS
    assert {media.host for media in answering.offers} == {setting.hosts[0]}
    assert {media.host for media in calling.answers} == {setting.hosts[1]}
    if setting.tap:
        exchanges = setting.tap.exchanges()[already:]
        # On a busy machine a phone may send its BYE again, for which Kamailio asks again.
        assert len({seen.command.split()[1] for seen in exchanges if seen.command[0] == "D"}) == CALLS
        assert {(seen.times_sent, len(seen.replies)) for seen in exchanges} == {(1, 1)}
