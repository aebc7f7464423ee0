"""How sessions end, and what becomes of their ports."""

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, WAYS, Call, kernel_only, paused, rtcp
from tests.running import rtp
from tests.waiting import wait_for


def is_gone(relay, tags):
    return relay.ask(f"Q {tags}") == "E50"


def test_an_idle_session_ends_and_its_ports_are_reused(start, topology, way):
    relay = start(*way.options, "-T", "1", "-m", "40000", "-M", "40005")
    with Call(relay, topology.caller, topology.callee) as call:
        # Three pairs: one more leg finds room, and no other.
        relay.port("U c2 10.0.1.2 4000 f")
        assert relay.ask("L c2 10.0.2.2 5000 f t") == "E71"
        assert relay.ask("D c2 f t") == "0"
        call.establish(way)
        wait_for(lambda: is_gone(relay, call.tags), DEADLINE_S, "the session to end")
        assert "c1: session ended: idle for 1 s" in relay.log
        assert "session ended: idle" not in relay.log.replace("c1: session ended: idle", "")
        call.caller.rtp.expect_refusal(rtp(2), call.caller.to)
        assert call.callee.rtp.take() == []
    with Call(relay, topology.caller, topology.callee, "c3") as again:
        assert set(again.ports) & set(call.ports)
        again.establish(way)


@pytest.mark.parametrize("is_rtcp", [False, True])
def test_a_busy_session_never_ends(start, topology, way, is_rtcp):
    """One direction is enough, and the kernel alone may keep it busy. Other sessions time out meanwhile."""
    relay = start(*way.options, "-T", "1")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        sent = 1
        for number in range(2):
            tags = f"idle{number} f t"
            relay.port(f"U idle{number} 10.0.1.2 4000 f")

            def send_until_the_other_ends(tags=tags):
                nonlocal sent
                sent += 1
                if is_rtcp:
                    call.caller.send_rtcp(rtcp(sent))
                else:
                    call.caller.send(rtp(sent))
                return is_gone(relay, tags)

            wait_for(send_until_the_other_ends, DEADLINE_S, "a session beside it to time out")
        receiver = call.callee.rtcp if is_rtcp else call.callee.rtp
        receiver.expect(sent - 1)
        assert not is_gone(relay, call.tags)
        assert int(relay.ask(f"Q {call.tags}").split()[0]) == 1
        wait_for(lambda: is_gone(relay, call.tags), DEADLINE_S, "the session to end when nothing comes any more")
    assert relay.stop() == 0
    assert relay.forwarded() == (sent - 1 if way.is_kernel else 0)


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.name, indirect=True)
def test_a_stranger_does_not_keep_a_session(start, topology, way):
    relay = start(*way.options, "-T", "1")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        call.caller.rtp.__exit__()

        def send_until_it_ends():
            call.caller.rtcp.send(rtp(30000, ssrc=1), call.caller.to)
            return is_gone(relay, call.tags)

        wait_for(send_until_it_ends, DEADLINE_S, "the session to end")


def test_a_half_open_session_has_its_own_timeout(start, topology):
    relay = start("-W", "1", "-T", "60")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(KERNEL)
        relay.port("U half 10.0.1.2 4000 f")
        assert int(relay.ask("Q half f").split()[0]) == 1
        wait_for(lambda: is_gone(relay, "half f"), DEADLINE_S, "the half-open session to end")
        assert "half: session ended: idle for 1 s" in relay.log
        assert int(relay.ask(f"Q {call.tags}").split()[0]) in (58, 59, 60)
        call.cross(rtp(2))


@pytest.mark.parametrize("command", ["D c1 f t", "D c1 f", "X"])
def test_a_session_ends_at_once(call, relay, way, command):
    """After the reply its ports are closed ports, in every tier."""
    call.establish(way)
    assert relay.ask(command) == "0"
    for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
        sender.rtp.expect_refusal(rtp(2), sender.to)
        sender.rtcp.expect_refusal(rtcp(2), sender.to_rtcp)
        assert receiver.rtp.take() == receiver.rtcp.take() == []
    assert relay.ask(f"Q {call.tags}") == "E50"
    assert relay.ask("D c1 f t") == "E50"


def test_other_sessions_go_on(call, relay, topology, way):
    with Call(
        *(relay, topology.caller, topology.callee, "c2"), caller_at=("10.0.1.2", 4020), callee_at=("10.0.2.2", 5020)
    ) as other_call:
        call.establish(way)
        other_call.establish(way)
        assert relay.ask("D c1 f t") == "0"
        other_call.cross(rtp(2))
        call.caller.send(rtp(2))
        other_call.cross(rtp(3))
        assert call.callee.rtp.take() == []
        assert other_call.quote()["nrelayed"] == 6


@kernel_only
def test_counters_of_a_reused_port_start_at_zero(start, topology, way):
    """The kernel's counters of a port are never reset; a new session does not inherit them."""
    relay = start("-b", "-m", "40000", "-M", "40005")
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


def test_a_port_of_another_process_is_never_given_out(start, topology, way):
    """Bound on the wildcard or one address, RTP or RTCP of a pair: the pair is passed over. None is given twice."""
    takers = [("", 40002), ("10.0.2.1", 40005), ("", 40008), ("127.0.0.1", 40009)]
    sockets = []
    for host, port in takers:
        taker = topology.relay.socket()
        taker.bind((host, port))
        sockets.append(taker)
    relay = start(*way.options, "-m", "40000", "-M", "40019")
    given = []
    for number in range(11):
        reply = relay.ask(f"U c{number} 10.0.1.2 4000 f")
        if reply == "E72":
            break
        given.append(int(reply))
    assert sorted(given) == [40000, *range(40006, 40008, 2), *range(40010, 40019, 2)]
    # One that its owner lets go of is free for the relay.
    sockets[0].close()
    assert relay.port("U more 10.0.1.2 4000 f") == 40002
    for taker in sockets:
        taker.close()


def test_ports_never_collide(start, topology, way):
    relay = start(*way.options, "-m", "40000", "-M", "40199")
    given = [relay.port(f"U c{number} 10.0.1.2 4000 f") for number in range(50)]
    given += [relay.port(f"L c{number} 10.0.2.2 5000 f t") for number in range(50)]
    assert sorted(given) == list(range(40000, 40200, 2))
    assert relay.ask("U c100 10.0.1.2 4000 f") == "E72"
    assert relay.ask("D c7 f t") == "0"
    assert {relay.port("U c100 10.0.1.2 4000 f"), relay.port("L c100 10.0.2.2 5000 f t")} == {given[7], given[57]}
