"""`R`, `C NAME` and `N` (protocol.md 2.5): which side of which session, from when to when. Files are `recording`'s."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import WITNESSED, ForwardingEntry
from tests.fakes import FakeCopier
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
    STRANGER,
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


def made(play, number=-1):
    return play.recorder.made[number]


def test_what_the_caller_sends_is_recorded(play):
    start_talking(play)
    play.command("R call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    play.command("N call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(202), TO_CALLEE)
    assert made(play).streams[0].taken == [(rtp(201), CALLER, OUR_HOST, play.now)]
    assert made(play).stopped_at == play.now
    assert made(play).name is None


def test_with_the_tags_exchanged_it_is_what_the_callee_sends(play):
    play.command("R call t f", "0")
    start_talking(play)
    assert made(play).packets == [rtp(100)]


def test_rtcp_is_recorded_too(play):
    play.command("R call f t", "0")
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    assert [data for data, *_ in made(play).streams[1].taken] == [RTCP]


def test_strangers_are_not_recorded(play):
    start_talking(play)
    play.at(11)
    play.command("R call f t", "0")
    play.packet(STRANGER, FACES_CALLER, rtp(7, ssrc=99))
    assert made(play).packets == []


def test_what_cannot_be_sent_on_is_recorded():
    play = Scenario()
    play.command("U call 0.0.0.0 4000 f", "20000")
    play.command("L call 0.0.0.0 5000 f t", "20002")
    play.command("R call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(1))
    assert made(play).packets == [rtp(1)]


def test_nothing_is_recorded_before_the_session_is_complete():
    play = Scenario()
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("R call t f", "0")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.command("L call 10.0.2.2 5000 f t", "20002")
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
    assert made(play).packets == [rtp(2)]


def test_a_reinvite_does_not_interrupt_the_recording(play):
    """Nor do new ports for the recorded leg."""
    play.command("R call f t", "0")
    start_talking(play)
    play.command("U call 10.0.1.2 4002 f t", "20000")
    play.command("Ln call 10.0.2.2 5000 f t", "20004")
    moved = Endpoint("10.0.1.2", 4002)
    play.packet(moved, 20004, rtp(201), TO_CALLEE)
    assert made(play).packets == [rtp(200), rtp(201)]
    assert len(play.recorder.made) == 1
    play.command("N call f t", "0")
    play.packet(moved, 20004, rtp(202), TO_CALLEE)
    assert len(made(play).packets) == 2


def test_repeating_does_nothing(play):
    for _ in range(3):
        play.command("R call f t", "0")
        play.command("C call name f t", "0")
    assert len(play.recorder.made) == 1


def test_repeating_for_a_single_file_fails(play):
    play.recorder.has_single_files = True
    play.command("Rs call f t", "0")
    play.command("Rs call f t", "E50")
    play.command("Cs call name f t", "E65")
    play.command("R call f t", "0")
    play.command("Rs call t f", "0")


def test_a_name_of_the_command(play):
    play.command("C call name f t", "0")
    assert made(play).name == b"name"


def test_names_need_exact_tags_and_automatic_recordings_prefixes():
    play = Scenario(pairs=20)
    for number in (1, 2):
        play.ask(f"U call 10.0.1.2 4000 f;{number}")
        play.ask(f"L call 10.0.2.2 5000 f;{number} t;{number}")
    play.command("C call name f t", "E50")
    play.command("R call f t", "0")
    assert len(play.recorder.made) == 2
    play.command("R call f;2 t;2", "0")
    play.command("N call f;2 t;2", "0")
    assert [one.stopped_at for one in play.recorder.made] == [None, play.now]
    play.command("N call f t", "0")
    play.command("N call f t", "E50")


def test_both_sides_are_stopped_by_one_command(play):
    play.command("R call f t", "0")
    play.command("R call t f", "0")
    play.command("Na call f t", "0")
    assert [one.stopped_at for one in play.recorder.made] == [play.now, play.now]
    play.command("Na call f t", "E50")


def test_stopping_takes_the_side_of_the_command(play):
    play.command("R call f t", "0")
    play.command("N call t f", "E50")
    play.command("N call f t", "0")


def test_unknown_sessions(play):
    for command in ("R no f t", "N no f t", "C no name f t", "C no udp:192.0.2.9:5 f t"):
        play.command(command, "E50")


def test_what_cannot_be_recorded(play):
    play.recorder.refusal = "no"
    play.command("R call f t", "E50")
    play.command("C call name f t", "E65")
    play.command("N call f t", "E50")


def test_a_command_that_fails_for_one_session_records_none():
    play = Scenario(pairs=20)
    for number in (1, 2):
        play.ask(f"U call 10.0.1.2 4000 f;{number}")
    play.ask("U call 10.0.1.2 4000 f;3")
    record = play.recorder.record

    def refuse_the_third(session, *arguments, **keywords):
        play.recorder.refusal = "no" if session.from_tag == b"f;3" else ""
        return record(session, *arguments, **keywords)

    play.recorder.record = refuse_the_third
    play.command("R call f t", "E50")
    assert [one.stopped_at for one in play.recorder.made] == [play.now, play.now]
    play.command("N call f t", "E50")


def test_a_session_that_ends_ends_its_recordings(play):
    play.command("R call f t", "0")
    play.command("R call t f", "0")
    play.command("D call f t", "0")
    assert [one.stopped_at for one in play.recorder.made] == [play.now, play.now]
    play.assert_nothing_is_left()


def test_so_does_one_that_times_out(play):
    play.command("R call f t", "0")
    play.tick(100)
    assert made(play).stopped_at == play.now


def test_every_session_is_recorded_from_its_beginning_if_asked():
    play = Scenario(records_all=True)
    play.call()
    start_talking(play)
    assert [one.packets for one in play.recorder.made] == [[rtp(200)], [rtp(100)]]
    play.command("R call f t", "0")
    assert len(play.recorder.made) == 2


def test_a_call_goes_on_without_the_recording_that_was_to_be_made(caplog):
    play = Scenario(records_all=True)
    play.recorder.refusal = "the disk is full"
    play.call()
    start_talking(play)
    assert caplog.messages == ["call: not recorded: the disk is full"]


def test_a_recording_that_ends_by_itself_is_not_noticed_by_the_call(play):
    play.command("R call f t", "0")
    start_talking(play)
    made(play).on_end(play.now)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert made(play).packets == [rtp(200)]
    play.command("N call f t", "E50")
    play.command("R call f t", "0")


def test_recordings_take_no_part_in_idle_times(play):
    play.at(30)
    play.command("R call f t", "0")
    assert play.counters("call f t")["ttl"] == 30


def test_what_arrived_before_the_reply_is_recorded_at_the_end_and_not_at_the_beginning(play):
    start_talking(play)

    def arrives(number):
        play.media.waiting.append(lambda: play.packet(CALLER, FACES_CALLER, rtp(number), TO_CALLEE))

    for stop in ("N call f t", "D call f t"):
        arrives(201)
        play.answer(b"R call f t")
        arrives(202)
        play.answer(stop.encode())
        assert made(play).packets == [rtp(202)]


def test_what_arrives_while_files_are_made_is_counted_before_the_recording(play):
    """What waits in a socket, and what the kernel forwards."""
    start_talking(play)

    def take():
        play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
        play.offload.forward(FACES_CALLER, 5, play.now, ssrc=0x1234, sequence=206)

    play.recorder.while_made = lambda: play.media.waiting.append(take)
    play.answer(b"R call f t")
    stream = made(play).streams[0].stream
    assert made(play).received_before == stream.received_packets == 7
    assert made(play).packets == []


# The kernel


def test_a_recorded_stream_comes_to_userspace_and_the_other_stays(play):
    start_talking(play)
    assert play.offload.entry(FACES_CALLER) is not None
    play.offload.forward(FACES_CALLER, 5, play.now, ssrc=0x1234, sequence=205)
    play.command("R call f t", "0")
    assert play.offload.installed[FACES_CALLER] == WITNESSED
    assert isinstance(play.offload.installed[FACES_CALLEE], ForwardingEntry)
    play.packet(CALLER, FACES_CALLER, rtp(206), TO_CALLEE)
    assert made(play).packets == [rtp(206)]
    assert "userspace, userspace records, copies or watches its packets: 2" in play.ask("It")
    assert "recording files_open: 2" in play.ask("It")
    play.command("N call f t", "0")
    assert play.offload.entry(FACES_CALLER) is not None
    assert play.counters("call f t npkts_ina rtpa_nlost") == {"npkts_ina": 7, "rtpa_nlost": 0}


def test_a_recorded_stream_stays_in_the_kernel_where_that_has_a_ring(play):
    play.recorder.has_ring = True
    start_talking(play)
    play.command("R call f t", "0")
    assert play.offload.entry(FACES_CALLER).tee == play.tees.last - 1 > 0
    assert play.offload.entry(FACES_CALLEE).tee == 0
    play.offload.forward(FACES_CALLER, 5, play.now, ssrc=0x1234, sequence=205)
    play.command("N call f t", "0")
    assert play.offload.entry(FACES_CALLER).tee == 0
    assert made(play).packets == []


def test_a_copy_by_userspace_brings_a_recorded_session_there_and_back(play):
    play.recorder.has_ring = True
    start_talking(play)
    play.command("R call f t", "0")
    play.ask("U rec 192.0.2.9 7000 x y && C call f t")
    assert play.offload.installed[FACES_CALLER] == WITNESSED
    play.packet(CALLER, FACES_CALLER, rtp(206), TO_CALLEE)
    assert made(play).packets == [rtp(206)]
    play.command("D rec x y", "0")
    assert play.offload.entry(FACES_CALLER).tee > 0


def test_a_stream_has_another_number_whenever_others_get_its_packets():
    """So what the ring has under a number is for the same witnesses, whenever that is read."""
    play = Scenario(copier=FakeCopier())
    play.call()
    play.recorder.has_ring = True
    start_talking(play)
    numbers = []
    for command in ("R call f t", "U rec 192.0.2.9 7000 x y && C call f t", "N call f t", "D rec x y"):
        play.ask(command)
        numbers.append(play.offload.entry(FACES_CALLER).tee)
    assert numbers[-1] == 0
    assert len(set(numbers)) == 4
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert made(play).packets == []
