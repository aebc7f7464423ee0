"""Entries that the kernel is given."""

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import NOT_LEARNED, ForwardingEntry
from rtpproxy.session.session import Teeing
from tests.fakes import TOS, FakeRecordedStream
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
)


def test_entry_follows_once_both_ends_are_known():
    play = Scenario(listen_host=OUR_HOST)
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    assert play.offload.entry(FACES_CALLEE) == ForwardingEntry(
        port=FACES_CALLEE,
        local_host=OUR_HOST,
        source=CALLEE,
        is_any_source_port=False,
        is_rtp=True,
        from_host=OUR_HOST,
        from_port=FACES_CALLER,
        to=CALLER,
        tos=TOS,
    )
    assert play.offload.installed[FACES_CALLER] == NOT_LEARNED
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    entry = play.offload.entry(FACES_CALLEE_RTCP)
    assert entry is not None
    assert (entry.source, entry.to, entry.is_rtp) == (CALLEE_RTCP, CALLER_RTCP, False)


def test_entry_follows_a_party_that_moves(talk):
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101), TO_CALLER)
    assert talk.offload.entry(FACES_CALLEE).source == elsewhere
    assert talk.offload.entry(FACES_CALLER).to == elsewhere


def test_plan_is_not_made_again_for_ordinary_packets(talk):
    applied = talk.offload.applied
    for number in range(101, 150):
        talk.at(number / 10)
        talk.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    assert talk.offload.applied == applied


def test_under_the_wildcard_packets_leave_from_the_address_that_the_party_sends_to(play):
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER, local_host="10.0.2.1")
    assert play.last_sent.from_host == ""  # it is unknown so far which of our addresses the caller uses
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE, local_host="10.0.1.1")
    assert play.last_sent.from_host == "10.0.2.1"
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER, local_host="10.0.2.1")
    assert play.last_sent.from_host == "10.0.1.1"
    entry = play.offload.entry(FACES_CALLEE)
    assert (entry.local_host, entry.from_host) == ("10.0.2.1", "10.0.1.1")
    play.packet(CALLEE, FACES_CALLEE, rtp(3), TO_CALLER, local_host="10.0.2.99")
    assert play.offload.entry(FACES_CALLEE).local_host == "10.0.2.99"
    assert play.offload.entry(FACES_CALLER).from_host == "10.0.2.99"


def test_with_a_listen_address_packets_leave_from_it():
    play = Scenario(listen_host="192.0.2.1")
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER, local_host="192.0.2.1")
    assert play.last_sent.from_host == "192.0.2.1"


def test_address_of_an_ignored_packet_is_not_learned(talk):
    talk.packet(STRANGER, FACES_CALLEE, rtp(1, ssrc=0x666), local_host="10.0.2.66")
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert talk.last_sent.from_host == OUR_HOST


# Streams that the kernel tees


def teed(play, key):
    """Let the kernel tee a stream from the next plan on."""
    stream = play.offload.owners[key]._stream(key)
    missed, chosen = (by_key.get(key, 0) for by_key in (play.offload.tee_missed_by_key, play.offload.tee_chosen_by_key))
    stream.witnesses = (FakeRecordedStream(stream),)
    stream.teeing = Teeing(7, missed_before=missed, chosen_before=chosen)
    return stream


def test_tee_is_of_the_entry_from_the_next_plan_on(talk):
    teed(talk, FACES_CALLEE)
    assert talk.offload.entry(FACES_CALLEE).tee == 0
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101), TO_CALLER)
    assert talk.offload.entry(FACES_CALLEE).tee == 7
    assert talk.offload.entry(FACES_CALLER).tee == 0


def test_what_the_tee_missed_is_told_with_the_counters(talk):
    stream = teed(talk, FACES_CALLEE)
    for missed in (3, 3, 5):
        talk.offload.tee_missed_by_key[FACES_CALLEE] = missed
        talk.counters("call f t npkts_ina")
        assert stream.tee_missed_packets == missed


def test_the_counter_of_what_the_tee_missed_goes_round(talk):
    """It has 32 bits."""
    stream = teed(talk, FACES_CALLEE)
    for missed in (2**32 - 3, 4):
        talk.offload.tee_missed_by_key[FACES_CALLEE] = missed
        talk.counters("call f t npkts_ina")
    assert stream.tee_missed_packets == 2**32 + 4


def test_what_the_tee_missed_is_not_lost_with_the_last_packet(talk):
    """The kernel counts it after the packet, so the packet may have been absorbed before."""
    stream = teed(talk, FACES_CALLEE)
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.counters("call f t npkts_ina")
    talk.offload.tee_missed_by_key[FACES_CALLEE] = 1
    talk.ask("D call f t")
    assert stream.tee_missed_packets == 1


def test_what_the_tee_missed_before_is_another_streams():
    play = Scenario(listen_host=OUR_HOST)
    play.offload.tee_missed_by_key[FACES_CALLEE] = 40
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    stream = teed(play, FACES_CALLEE)
    play.offload.tee_missed_by_key[FACES_CALLEE] = 42
    play.counters("call f t npkts_ina")
    assert stream.tee_missed_packets == 2


# Packets that the kernel teed


def teed_type(play, key, payload_type):
    stream = teed(play, key)
    stream.teeing.payload_type = payload_type
    return stream


def test_what_is_teed_is_what_was_forwarded_and_not_missed(talk):
    stream = teed(talk, FACES_CALLEE)
    talk.offload.tee_missed_by_key[FACES_CALLEE] = 3
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.counters("call f t npkts_ina")
    assert stream.teed_packets == 7


def test_of_one_payload_type_the_kernel_counts_what_is_teed(talk):
    """Modulo 2^32, and whatever the port had counted before."""
    talk.offload.tee_chosen_by_key[FACES_CALLEE] = 2**32 - 1
    stream = teed_type(talk, FACES_CALLEE, 101)
    talk.counters("call f t npkts_ina")
    before = stream.teed_packets
    talk.offload.tee_chosen_by_key[FACES_CALLEE] = 2
    talk.offload.tee_missed_by_key[FACES_CALLEE] = 5
    talk.offload.forward(FACES_CALLEE, 100, talk.now, ssrc=0x1234, sequence=200)
    talk.counters("call f t npkts_ina")
    assert stream.teed_packets - before == 3
    assert stream.tee_missed_packets == 5


def test_what_was_teed_before_is_another_streams():
    play = Scenario(listen_host=OUR_HOST)
    play.offload.tee_chosen_by_key[FACES_CALLEE] = 40
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    stream = teed_type(play, FACES_CALLEE, 101)
    play.offload.tee_chosen_by_key[FACES_CALLEE] = 42
    play.counters("call f t npkts_ina")
    assert stream.teed_packets == 2


def test_hidden_packets_do_not_contradict_the_entry(talk):
    """They come to userspace as they should, even while the phone sends no others."""
    stream = talk.offload.owners[FACES_CALLEE]._stream(FACES_CALLEE)
    stream.teeing = Teeing(hidden_type=0)
    before = len(talk.offload.came_up_at)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    assert len(talk.offload.came_up_at) == before
    assert not talk.offload.held
