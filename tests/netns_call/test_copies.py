"""Copies of calls to other hosts and into other sessions, with the kernel tier and without."""

import os
import pwd
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns_call.call import (
    BOUND,
    DEADLINE_S,
    KERNEL,
    STEERED,
    TC,
    Call,
    PhonePort,
    ip,
    number_of,
    numbered,
    paused,
    rtcp,
)
from tests.recording.packets import read_adhoc
from tests.running import rtp
from tests.waiting import wait_for

all_ways = pytest.mark.parametrize("way", [KERNEL, TC, STEERED, BOUND], ids=lambda way: way.name, indirect=True)
kernel_ways = pytest.mark.parametrize("way", [KERNEL, TC], ids=lambda way: way.name, indirect=True)
one_kernel_way = pytest.mark.parametrize("way", [KERNEL], ids=lambda way: way.name, indirect=True)


@pytest.fixture
def ports(topology):
    """Four ports of a host that gets copies: 7000 and 7001, 7002 and 7003."""
    with ExitStack() as stack:
        yield [stack.enter_context(PhonePort(topology.callee, topology.callee.ip, 7000 + n)) for n in range(4)]


def told(relay, name):
    """A count of `It`; 0 where it has none."""
    return int(dict(line.split(": ") for line in relay.ask("It").splitlines()).get(name, "0"))


def process_of(relay):
    """Process ID of the relay's child that sends copies."""
    (pid,) = Path(f"/proc/{relay.process.pid}/task/{relay.process.pid}/children").read_text().split()
    return int(pid)


def fork(relay, topology):
    """Copy the call into a session of a recorder. Returns the ports that copies of caller and callee leave from."""
    second = relay.port(f"U rec {topology.callee.ip} 7000 x y && C c1 f t")
    first = relay.port(f"L rec {topology.callee.ip} 7002 x y")
    return first, second


@all_ways
def test_copies_to_another_host(relay, call, topology, way, ports):
    call.establish(way)
    port, *_ = relay.ask(f"Cp {call.name} udp:{topology.callee.ip}:7000 f t").split()
    call.cross(rtp(2))
    call.cross(rtcp(2), is_rtcp=True)
    host = topology.callee.gateway.ip
    assert ports[0].expect() == [(rtp(2), (host, int(port)))]
    assert ports[1].expect() == [(rtcp(2), (host, int(port) + 1))]
    assert relay.ask(f"N {call.tags}") == "0"
    call.cross(rtp(3))
    if way.is_kernel:
        call.wait_offloaded()
        wait_for(lambda: "copies of what the caller sends" in relay.log, DEADLINE_S, "the end of the copies")
        assert f"copies of what the caller sends to {topology.callee.ip}:7000: 2 packets sent" in relay.log
    assert ports[0].take() == []
    assert relay.ask(f"C {call.name} udp:127.0.0.1:7000 f t") == "E65"


@all_ways
def test_a_session_into_another_one(relay, call, topology, way, ports):
    """As for SIPREC: a recorder has a session of its own, which gets both sides of the call."""
    call.establish(way)
    host = topology.callee.gateway.ip
    to_first, to_second = fork(relay, topology)
    call.caller.send(rtp(2))
    call.callee.send(rtp(102))
    assert ports[0].expect() == [(rtp(2), (host, to_first))]
    assert ports[2].expect() == [(rtp(102), (host, to_second))]
    call.cross(rtcp(2), is_rtcp=True)
    assert ports[1].expect() == [(rtcp(2), (host, to_first + 1))]
    assert ports[3].expect() == [(rtcp(2), (host, to_second + 1))]
    assert relay.ask("D rec x y") == "0"
    if way.is_kernel:
        call.wait_offloaded()
    assert call.caller.rtp.expect() == [(rtp(102), call.caller.to)]


# Where the kernel forwards


@pytest.mark.vm
@kernel_ways
def test_a_copied_call_stays_in_the_kernel(relay, call, topology, way, ports):
    """Both ways to copy at once. The relay itself stands still: kernel and the process that sends do it all."""
    call.establish(way)
    assert relay.ask(f"C {call.name} udp:{topology.callee.ip}:7002 t f") == "0"
    relay.port(f"U rec {topology.callee.ip} 7000 x y && C c1 f t")
    relay.port(f"L rec {topology.caller.ip} 7100 x y")
    call.wait_offloaded()
    before = told(relay, "frames forwarded")
    with paused(relay):
        for number in range(2, 52):
            call.cross(rtp(number))
        assert [data for data, _ in ports[0].expect(50)] == [rtp(number) for number in range(2, 52)]
        assert [data for data, _ in ports[2].expect(50)] == [rtp(number) for number in range(2, 52)]
    assert told(relay, "frames forwarded") == before + 100


@kernel_ways
def test_copies_have_the_type_of_service_and_come_whole(relay, call, topology, way, ports):
    relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t")
    call.establish(way)
    sent = [rtp(number, payload=bytes((number,)) * (1472 - 12)) for number in range(2, 6)]
    for data in sent:
        call.caller.send(data)
    assert [data for data, _ in ports[0].expect(5)] == [rtp(1), *sent]
    assert ports[0].tos == {0xB8}


@kernel_ways
def test_nothing_is_lost_or_doubled_as_the_call_goes_from_tier_to_tier(relay, call, topology, way, ports):
    """From its first packet in userspace into the kernel, and out and in again when the phone moves and at commands."""
    assert relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t") == "0"
    moved = PhonePort(topology.caller, topology.caller.ip, 4100)
    numbers = iter(range(1000))
    sent = []

    def talk(port, count):
        for _ in range(count):
            sent.append(numbered(next(numbers)))
            port.send(sent[-1], call.caller.to)
            assert call.callee.rtp.expect() == [(sent[-1], call.callee.to)]

    with moved:
        call.callee.send(rtp(1))
        call.caller.rtp.expect()
        talk(call.caller.rtp, 50)
        call.wait_offloaded(call.caller.to[1])
        talk(call.caller.rtp, 50)
        call.update(topology.caller.ip, 4100)
        talk(moved, 50)
        call.wait_offloaded(call.caller.to[1])
        fork(relay, topology)
        talk(moved, 50)
        assert relay.ask("D rec x y") == "0"
        talk(moved, 50)
        assert relay.ask(f"N {call.tags}") == "0"
        talk(moved, 50)
        call.wait_offloaded(call.caller.to[1])
    wait_for(lambda: "c1: copies of what the caller sends to" in relay.log, DEADLINE_S, "the end of the copies")
    # The session that was fed for 50 packets sent these to the same port.
    came = [number_of(data) for data, _ in ports[0].expect(300)]
    assert sorted(came) == sorted([*range(250), *range(150, 200)])
    assert sorted(set(came), key=came.index) == list(range(250))
    assert "250 packets sent\n" in relay.log
    assert " lost" not in relay.log
    assert ports[0].take() == []


@kernel_ways
def test_any_number_of_recordings_and_copies(start, topology, way, tmp_path, ports):
    """All of them get each packet, and the stream stays in the kernel."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    relay = start(*way.options, "-r", str(recordings))
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        fork(relay, topology)
        relay.port(f"U also {topology.callee.ip} 7002 x y && C c1 f t")
        relay.port(f"L also {topology.callee.ip} 7500 x y")
        call.wait_offloaded()
        with paused(relay):
            for number in range(2, 22):
                call.caller.send(rtp(number))
            expected = [rtp(number) for number in range(2, 22)]
            assert [data for data, _ in call.callee.rtp.expect(20)] == expected
            for port in (ports[0], ports[2]):
                assert [data for data, _ in port.expect(20)] == expected
        assert relay.ask("D also x y") == "0"
        call.caller.send(rtp(22))
        assert [data for data, _ in ports[0].expect()] == [rtp(22)]
        assert relay.ask(f"N {call.tags}") == "0"
        call.caller.send(rtp(23))
        assert [data for data, _ in ports[0].expect()] == [rtp(23)]
        wait_for(lambda: "21 packets in c1=f.o.rtp" in relay.log, DEADLINE_S, "the end of the recording")
    read = read_adhoc((recordings / "c1=f.o.rtp").read_bytes())
    assert [one.payload for one in read] == [*expected, rtp(22)]
    assert ports[2].take() == []
    assert " lost" not in relay.log


@one_kernel_way
def test_the_recorder_moves_and_the_fed_session_gets_other_ports(relay, call, topology, way, ports):
    call.establish(way)
    to_first, _ = fork(relay, topology)
    call.caller.send(rtp(2))
    assert ports[0].expect() == [(rtp(2), (topology.callee.gateway.ip, to_first))]
    relay.port(f"U rec {topology.callee.ip} 7002 x y")
    call.caller.send(rtp(3))
    assert ports[2].expect() == [(rtp(3), (topology.callee.gateway.ip, to_first))]
    other = relay.port(f"Ln rec {topology.callee.ip} 7500 x y")
    assert other != to_first
    call.caller.send(rtp(4))
    assert ports[2].expect() == [(rtp(4), (topology.callee.gateway.ip, other))]
    # On hold, and back.
    relay.port("U rec 0.0.0.0 7002 x y")
    relay.port(f"U rec {topology.callee.ip} 7000 x y")
    call.caller.send(rtp(5))
    assert ports[0].expect() == [(rtp(5), (topology.callee.gateway.ip, other))]
    assert ports[2].take() == []


@one_kernel_way
def test_what_comes_to_the_port_of_copies_is_for_the_relay(relay, call, topology, way, ports):
    """Not for the socket that they leave by: only connected sockets come before an sk_lookup program."""
    call.establish(way)
    port, *_ = relay.ask(f"Cp {call.name} udp:{topology.callee.ip}:7000 f t").split()
    call.caller.send(rtp(2))
    ((_, source),) = ports[0].expect()
    assert source[1] == int(port)
    before = told(relay, "packets received")
    discarded = relay.ask("G npkts_discard")
    ports[0].send(rtp(1), source)
    wait_for(lambda: relay.ask("G npkts_discard") != discarded, DEADLINE_S, "the packet to be discarded by the relay")
    assert told(relay, "packets received") == before


@one_kernel_way
def test_a_place_that_becomes_denied_gets_nothing_until_it_is_allowed_again(relay, call, topology, way):
    """Nothing is sent to port 5060 of this host."""
    host = "192.0.2.77"

    def is_refused():
        answered = relay.ask(f"C {call.name} udp:{host}:5060 t f")
        relay.ask(f"N {call.name} t f")
        return answered == "E65"

    ip(topology.callee, f"addr add {host}/32 dev callee")
    ip(topology.relay, f"route add {host}/32 via {topology.callee.ip}")
    with PhonePort(topology.callee, host, 5060) as sip:
        call.establish(way)
        assert relay.ask(f"C {call.name} udp:{host}:5060 f t") == "0"
        call.caller.send(rtp(2))
        sip.expect()
        ip(topology.relay, f"addr add {host}/32 dev lo")
        wait_for(is_refused, DEADLINE_S, "the relay to notice")
        call.caller.send(rtp(3))
        call.callee.rtp.expect(2)
        wait_for(lambda: told(relay, "recording copies_withheld") == 1, DEADLINE_S, "the packet to be withheld")
        ip(topology.relay, f"addr del {host}/32 dev lo")
        wait_for(lambda: not is_refused(), DEADLINE_S, "the relay to notice")
        call.caller.send(rtp(4))
        assert [data for data, _ in sip.expect()] == [rtp(4)]
        assert relay.ask(f"N {call.tags}") == "0"
        said = re.compile(r"copies of what the caller sends to \S+: 2 packets sent\n")
        wait_for(lambda: said.search(relay.log), DEADLINE_S, "the end of the copies")


@kernel_ways
def test_the_process_that_sends_dies(relay, call, topology, way, ports):
    """Another one goes on with what the dead one had not read from the ring."""
    call.establish(way)
    assert relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t") == "0"
    fork(relay, topology)
    call.caller.send(rtp(2))
    assert [data for data, _ in ports[0].expect(2)] == [rtp(2)] * 2
    wait_for(lambda: told(relay, "recording copies_sent") == 2, DEADLINE_S, "the process to tell")
    pid = process_of(relay)
    os.kill(pid, signal.SIGSTOP)
    call.callee.rtp.expect()
    for number in range(3, 13):
        call.caller.send(rtp(number))
        call.callee.rtp.expect()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: f"died (killed by signal {signal.SIGKILL})" in relay.log, DEADLINE_S, "the death")
    call.caller.send(rtp(13))
    came = [data for data, _ in ports[0].expect(22)]
    assert sorted(came) == sorted([rtp(number) for number in range(3, 14) for _ in range(2)])
    assert relay.ask(f"N {call.tags}") == "0"
    wait_for(lambda: "c1: copies of what the caller sends to" in relay.log, DEADLINE_S, "the end of the copies")
    assert "12 packets sent\n" in relay.log
    assert " lost" not in relay.log


@one_kernel_way
def test_a_fed_session_lives_as_long_as_its_source_talks(start, topology, way, ports):
    """In the kernel, where userspace sees none of the packets."""
    relay = start(*way.options, "-T", "2")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        fork(relay, topology)
        call.wait_offloaded()
        numbers = iter(range(2, 60_000))
        until = time.monotonic() + 3 * 2
        while time.monotonic() < until:
            assert relay.totals()["active sessions"] == 2
            call.cross(rtp(next(numbers)))
        wait_for(lambda: relay.totals()["active sessions"] == 0, DEADLINE_S, "both to end")
        assert "rec: session ended: idle for 2 s" in relay.log


@one_kernel_way
def test_the_process_is_nobody_and_has_no_directory(relay, call, topology, way):
    assert relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t") == "0"

    def status():
        text = Path(f"/proc/{process_of(relay)}/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines())

    uid = pwd.getpwnam("nobody").pw_uid
    wait_for(lambda: status()["Uid"].split() == [str(uid)] * 4, DEADLINE_S, "the process to become nobody")
    wait_for(lambda: status()["NoNewPrivs"] == "1", DEADLINE_S, "the process to give up its privileges")
    assert {status()[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    wait_for(lambda: os.readlink(f"/proc/{process_of(relay)}/cwd") == "/", DEADLINE_S, "the process to be in /")
    assert os.stat(f"/proc/{process_of(relay)}/mem").st_uid == 0, "others of that user may trace it"
    assert relay.stop() == 0
