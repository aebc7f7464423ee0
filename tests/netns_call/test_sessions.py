"""How sessions end, and what becomes of their ports."""

import time

import pytest

from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, STEERED, Call, kernel_only, paused, rtcp, verdicts
from tests.running import rtp
from tests.waiting import wait_for

IDLE_S = 5


def is_gone(relay, tags):
    return relay.ask(f"Q {tags}") == "E50"


def seconds_left(relay, tags):
    """Ask how long a session lives if nothing comes; 0 when it has ended."""
    reply = relay.ask(f"Q {tags}")
    return 0 if reply == "E50" else int(reply.split()[0])


def end_soon(relay, tags):
    """Let the session end once it is idle for a second, however long its start took."""
    assert not relay.ask(f"Q {tags} && S ttl=1").startswith("E")


def test_an_idle_session_ends_and_its_ports_are_reused(start, topology, way):
    relay = start(*way.options, "-m", "20000", "-M", "20005")
    with Call(relay, topology.caller, topology.callee) as call:
        # Three pairs: one more leg finds room, and no other.
        relay.port("U c2 10.0.1.2 4000 f")
        assert relay.ask("L c2 10.0.2.2 5000 f t") == "E71"
        assert relay.ask("D c2 f t") == "0"
        call.establish(way)
        end_soon(relay, call.tags)
        wait_for(lambda: is_gone(relay, call.tags), DEADLINE_S, "the session to end")
        assert "c1: session ended: idle for 1 s" in relay.log
        assert "session ended: idle" not in relay.log.replace("c1: session ended: idle", "")
        call.caller.rtp.expect_refusal(rtp(2), call.caller.to)
        assert call.callee.rtp.take() == []
    with Call(relay, topology.caller, topology.callee, "c3") as again:
        assert set(again.ports) & set(call.ports)
        again.establish(way)


@pytest.mark.parametrize(
    ("way", "is_rtcp"),
    [(KERNEL, False), (KERNEL, True), (STEERED, False), (BOUND, True)],
    ids=["kernel-rtp", "kernel-rtcp", "steered-rtp", "bound-rtcp"],
    indirect=["way"],
)
def test_a_busy_session_never_ends(start, topology, way, is_rtcp):
    """One direction is enough, and the kernel alone may keep it busy. A younger session times out meanwhile.

    The machine may hold the packets up for nearly all of the idle time.
    """
    relay = start(*way.options, "-T", f"{IDLE_S}")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        sent = 1

        def send():
            nonlocal sent
            sent += 1
            if is_rtcp:
                call.caller.send_rtcp(rtcp(sent))
            else:
                call.caller.send(rtp(sent))

        def send_until_it_ends():
            send()
            return is_gone(relay, "beside f t")

        def send_until_it_is_fresh():
            send()
            return int(relay.ask(f"Q {call.tags}").split()[0]) == IDLE_S

        relay.port("U beside 10.0.1.2 4000 f")
        wait_for(send_until_it_ends, DEADLINE_S, "a session beside it to time out")
        assert not is_gone(relay, call.tags)
        wait_for(send_until_it_is_fresh, DEADLINE_S, "the idle time to be renewed")
        receiver = call.callee.rtcp if is_rtcp else call.callee.rtp
        receiver.expect(sent - 1)
    assert relay.stop() == 0
    assert relay.forwarded() == (sent - 1 if way.is_kernel else 0)


@pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)
def test_a_stranger_does_not_keep_a_session(start, topology, way):
    relay = start(*way.options)
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        call.caller.rtp.__exit__()
        end_soon(relay, call.tags)

        def send_until_it_ends():
            call.caller.rtcp.send(rtp(30000, ssrc=1), call.caller.to)
            return is_gone(relay, call.tags)

        wait_for(send_until_it_ends, DEADLINE_S, "the session to end")


def test_a_half_open_session_has_its_own_timeout(start, topology):
    """The relay tells how much of each timeout is left: all, less at most the time that this test has taken."""
    relay = start("-W", "1", "-T", "60")
    with Call(relay, topology.caller, topology.callee) as call:
        began = time.monotonic()
        call.establish(KERNEL)
        half_began = time.monotonic()
        relay.port("U half 10.0.1.2 4000 f")
        half_left = seconds_left(relay, "half f")
        assert 1 - (time.monotonic() - half_began) <= half_left <= 1
        wait_for(lambda: is_gone(relay, "half f"), DEADLINE_S, "the half-open session to end")
        assert "half: session ended: idle for 1 s" in relay.log
        left = seconds_left(relay, call.tags)
        assert 60 - (time.monotonic() - began) <= left <= 60
        call.cross(rtp(2))


@kernel_only
def test_counters_of_a_reused_port_start_at_zero(start, topology, way):
    """The kernel's counters of a port are never reset; a new session does not inherit them."""
    relay = start("-b", "-m", "20000", "-M", "20005")
    used = []
    for number in range(4):
        with Call(relay, topology.caller, topology.callee, f"c{number}") as call:
            used.append(call.ports)
            call.establish(way)
            with paused(relay):
                for sequence in range(2, 10):
                    call.cross(rtp(sequence))
            assert call.quote()["nrelayed"] == 18
            assert relay.ask(f"D {call.tags}") == "0"
    assert len({port for ports in used for port in ports}) == 6
    totals = relay.totals()
    assert totals["packets transmitted"] == totals["packets received"] == 4 * 20


@kernel_only
def test_a_reused_port_does_not_forward_for_its_former_owners(start, topology, way):
    """Their phones go on sending; the ports are half-open sessions' now."""
    relay = start("-m", "20000", "-M", "20009")
    beside_at = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
    with (
        Call(relay, topology.caller, topology.callee, "beside", **beside_at) as beside,
        Call(relay, topology.caller, topology.callee) as call,
    ):
        beside.establish(way)
        call.establish(way)
        assert relay.ask(f"D {call.tags}") == "0"
        again = {relay.port(f"U half{number} 10.0.1.2 4000 f") for number in range(3)}
        assert again > set(call.rtp_ports)
        for number in range(2, 12):
            for party in (call.caller, call.callee):
                party.send(rtp(number))
                party.send_rtcp(rtcp(number))
        beside.cross(rtp(2))
        for party in (call.caller, call.callee):
            assert party.rtp.take() == party.rtcp.take() == []
        assert relay.stop() == 0
    assert verdicts(relay)["up_no_entry"] == 4 + 4 + 40


def test_a_port_of_another_process_is_never_given_out(start, topology, way):
    """Bound on the wildcard or one address, RTP or RTCP of a pair: the pair is passed over. None is given twice."""
    takers = [("", 20002), ("10.0.2.1", 20005), ("", 20008), ("127.0.0.1", 20009)]
    sockets = []
    for host, port in takers:
        taker = topology.relay.socket()
        taker.bind((host, port))
        sockets.append(taker)
    relay = start(*way.options, "-m", "20000", "-M", "20019")
    given = []
    for number in range(11):
        reply = relay.ask(f"U c{number} 10.0.1.2 4000 f")
        if reply == "E72":
            break
        given.append(int(reply))
    assert sorted(given) == [20000, *range(20006, 20008, 2), *range(20010, 20019, 2)]
    # One that its owner lets go of is free for the relay.
    sockets[0].close()
    assert relay.port("U more 10.0.1.2 4000 f") == 20002
    for taker in sockets:
        taker.close()


def test_the_relays_own_sockets_take_no_media_port(start, topology, way):
    """Whatever the relay opens for itself, every pair of the range is there for calls."""
    topology.relay.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 43999"])
    relay = start(*way.options, "-m", "40000", "-M", "41999")
    replies = [relay.ask(f"U c{number} 10.0.1.2 4000 f") for number in range(1000)]
    assert replies.count("E72") == 0


def test_ports_never_collide(start, topology, way):
    relay = start(*way.options, "-m", "20000", "-M", "20199")
    given = [relay.port(f"U c{number} 10.0.1.2 4000 f") for number in range(50)]
    given += [relay.port(f"L c{number} 10.0.2.2 5000 f t") for number in range(50)]
    assert sorted(given) == list(range(20000, 20200, 2))
    assert relay.ask("U c100 10.0.1.2 4000 f") == "E72"
    assert relay.ask("D c7 f t") == "0"
    assert {relay.port("U c100 10.0.1.2 4000 f"), relay.port("L c100 10.0.2.2 5000 f t")} == {given[7], given[57]}
