"""Taps (service/taps.py): of new sessions, and of one session when a module asks; what they get, and what they hide."""

import pytest

from rtpproxy.errors import RecordingError, SessionNotFoundError
from rtpproxy.offload.entry import ForwardingEntry
from rtpproxy.service.taps import Tap
from rtpproxy.service.witnesses import wanted_type
from rtpproxy.session.session import Component
from tests.fakes import FakeRecordedStream
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLEE_RTCP,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    OUR_HOST,
    RTCP,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)


@pytest.fixture
def play():
    made = Scenario()
    made.call()
    return made


def session_of(play, number=0):
    return list(play.service._table)[number]


def event(sequence, payload_type=101):
    data = rtp(sequence, payload=b"\x05\x0a\x01\x90")
    return data[:1] + bytes([payload_type]) + data[2:]


def put(play, found=None, **fields):
    """Tap what the caller sends, its events alone unless told otherwise."""
    session = session_of(play)
    fields = {"payload_type": 101, **fields}
    tap = Tap("here", "dtmf", [session.caller.rtp], (found if found is not None else []).append, **fields)
    play.service.taps.put(session, tap, play.now)
    return tap


def made(play, number=-1):
    return play.tapper.made[number]


def entry(play, key=FACES_CALLER):
    found = play.offload.entry(key)
    return None if found is None else (found.tee, found.tee_type, found.hidden_type)


def test_packets_of_the_payload_type_are_looked_at_and_relayed(play):
    start_talking(play)
    put(play)
    assert made(play).title == "call: dtmf tap"
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    play.packet(CALLER, FACES_CALLER, event(202), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, event(101), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, b"\x80\x65", TO_CALLEE)
    assert made(play).packets == [event(202)]
    assert made(play).has_begun


def test_the_stream_stays_in_the_kernel(play):
    start_talking(play)
    put(play)
    assert entry(play) == (1, 101, None)
    assert entry(play, FACES_CALLEE) == (0, None, None)
    play.service.taps.remove(session_of(play), "here", play.now)
    assert entry(play) == (0, None, None)
    assert made(play).stopped_at == play.now


def test_what_is_recorded_as_well_is_teed_whole(play):
    start_talking(play)
    play.recorder.has_ring = True
    put(play)
    play.command("R call f t", "0")
    assert entry(play) == (2, None, None)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    play.packet(CALLER, FACES_CALLER, event(202), TO_CALLEE)
    assert made(play).packets == [event(202)]
    assert play.recorder.made[0].packets == [rtp(201), event(202)]
    play.command("N call f t", "0")
    assert entry(play)[1:] == (101, None)


@pytest.mark.parametrize(
    ("types", "wanted"), [([], None), ([None], None), ([5], 5), ([0, 0], 0), ([5, 6], None), ([5, None], None)]
)
def test_type_that_all_witnesses_want(types, wanted):
    witnesses = [FakeRecordedStream(None) for _ in types]
    for witness, payload_type in zip(witnesses, types, strict=True):
        witness.payload_type = payload_type
    assert wanted_type(witnesses) == wanted


def test_hidden_packets_are_looked_at_and_dropped(play):
    """The kernel leaves them to userspace, and has the rest."""
    start_talking(play)
    play.command("R call f t", "0")
    put(play, is_hiding=True)
    before = play.counters("call f t ndropped npkts_ina")
    assert before["ndropped"] == 0
    play.packet(CALLER, FACES_CALLER, event(201))
    play.packet(CALLER, FACES_CALLER, rtp(202), TO_CALLEE)
    assert made(play).packets == [event(201)]
    assert play.recorder.made[0].packets == [event(201), rtp(202)]
    after = play.counters("call f t ndropped npkts_ina")
    assert after == {"ndropped": 1, "npkts_ina": before["npkts_ina"] + 2}
    play.command("N call f t", "0")
    assert entry(play)[1:] == (101, 101)
    play.service.taps.remove(session_of(play), "here", play.now)
    play.packet(CALLER, FACES_CALLER, event(203), TO_CALLEE)
    assert entry(play) == (0, None, None)


def test_putting_it_again_changes_nothing(play):
    """As re-INVITEs do. What is found goes to the newest."""
    start_talking(play)
    before, after = [], []
    put(play, before)
    applied = play.offload.applied
    put(play, after)
    assert len(play.tapper.made) == 1
    assert play.offload.applied == applied
    made(play).on_found(b"found")
    assert (before, after) == ([], [b"found"])


def test_putting_it_again_hides_or_shows(play):
    start_talking(play)
    for is_hiding in (True, False, True):
        put(play, is_hiding=is_hiding)
        assert entry(play) == (1, 101, 101 if is_hiding else None)
    assert len(play.tapper.made) == 1
    put(play, payload_type=96)
    assert entry(play)[1:] == (96, None)
    assert made(play, 0).stopped_at == play.now
    play.packet(CALLER, FACES_CALLER, event(201), TO_CALLEE)
    play.packet(CALLER, FACES_CALLER, event(202, 96), TO_CALLEE)
    assert (made(play, 0).packets, made(play, 1).packets) == ([], [event(202, 96)])


@pytest.mark.parametrize("is_hiding", [False, True])
def test_what_arrived_before_the_command_is_not_looked_at_nor_hidden(play, is_hiding):
    """And what arrived before it ends still is."""
    start_talking(play)
    sent = len(play.media.sent)
    play.media.waiting.append(lambda: play.service.datagram(FACES_CALLER, event(201), CALLER, OUR_HOST, play.now))
    put(play, is_hiding=is_hiding)
    assert (len(play.media.sent) - sent, made(play).packets) == (1, [])
    play.media.waiting.append(lambda: play.service.datagram(FACES_CALLER, event(202), CALLER, OUR_HOST, play.now))
    play.service.taps.remove(session_of(play), "here", play.now)
    assert (len(play.media.sent) - sent, made(play).packets) == (1 if is_hiding else 2, [event(202)])


def test_it_ends_with_its_session(play):
    start_talking(play)
    found = []
    put(play, found)
    session = session_of(play)
    play.command("D call f t", "0")
    assert made(play).stopped_at == play.now
    made(play).on_found(b"last")
    assert found == [b"last"]
    assert play.service.taps._running == {}
    with pytest.raises(SessionNotFoundError):
        play.service.taps.put(session, Tap("here", "dtmf", [], found.append), play.now)


def test_it_may_end_by_itself(play):
    put(play)
    made(play).on_end(play.now)
    assert made(play).stopped_at == play.now
    assert session_of(play).caller.rtp.witnesses == ()


def test_it_fails_and_changes_nothing(play):
    start_talking(play)
    put(play)
    play.tapper.refusal = "no process"
    with pytest.raises(RecordingError, match="no process"):
        put(play, payload_type=96)
    assert entry(play) == (1, 101, None)
    assert made(play).stopped_at is None


def test_removing_what_is_not_there_does_nothing(play):
    play.service.taps.remove(session_of(play), "here", play.now)


# New sessions


def rtcp_of(session):
    streams = [leg.streams[Component.RTCP] for leg in session.legs]
    return [Tap("rtcp", "hep", streams, lambda found: None, session.call_id)]


def test_new_sessions_are_tapped():
    play = Scenario()
    play.service.taps.of_new_sessions(rtcp_of)
    play.call()
    assert (made(play).tap.settings, made(play).tap.payload_type) == (b"call", None)
    start_talking(play)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    assert RTCP in made(play).packets
    want = play.offload.installed[FACES_CALLER_RTCP]
    assert isinstance(want, ForwardingEntry)
    assert want.tee
    assert "recording taps_open: 1" in play.ask("It")
    play.command("D call f t", "0")
    assert made(play).stopped_at == play.now


def test_a_session_without_the_tap_that_is_wanted_goes_on(caplog):
    play = Scenario()
    play.service.taps.of_new_sessions(rtcp_of)
    play.tapper.refusal = "no process"
    play.call()
    assert "call: no hep tap (1 so far): no process" in caplog.messages
    start_talking(play)
