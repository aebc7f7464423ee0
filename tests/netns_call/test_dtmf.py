"""DTMF of calls between phones (protocol.md 13.3): the same notifications whichever tier relays, and where streams are.

Trains of events are made by scapy, as phones send them: within the numbers of the audio, which goes on or pauses.
"""

import os
import signal
import socket
import struct
from contextlib import closing

import pytest
from scapy.layers.rtp import RTP
from scapy.packet import Raw

from rtpproxy.recording.dtmf import MOST_AT_ONCE
from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, STEERED, TC, Call, PhonePort, paused
from tests.netns_call.test_copies import process_of, told
from tests.outbound.listeners import Controller
from tests.recording.packets import read_adhoc
from tests.running import rtp
from tests.waiting import wait_for

all_ways = pytest.mark.parametrize("way", [KERNEL, TC, STEERED, BOUND], ids=lambda way: way.name, indirect=True)
kernel_ways = pytest.mark.parametrize("way", [KERNEL, TC], ids=lambda way: way.name, indirect=True)
one_kernel_way = pytest.mark.parametrize("way", [KERNEL], ids=lambda way: way.name, indirect=True)

SSRC = 0x1234
STEP = 400
"""Timestamp units between packets of an event."""
LOADED = ("--dso", "/usr/lib/rtpproxy/rtpp_catch_dtmf.so")


class Voice:
    """One phone's RTP: audio and events, numbered one after the other."""

    def __init__(self, payload_type=101):
        self.payload_type = payload_type
        self.sequence = 1
        self.clock = 160

    def audio(self, count=1):
        """So many packets of 20 ms."""
        made = []
        for _ in range(count):
            self.sequence += 1
            self.clock += 160
            made.append(rtp(self.sequence, ssrc=SSRC))
        return made

    def press(self, code, updates=4, ends=3):
        """The packets of one event."""
        made = []
        at = self.clock = self.clock + 8000
        for number in range(1, updates + ends + 1):
            is_end = number > updates
            block = struct.pack(">BBH", code, is_end << 7 | 10, min(number, updates + 1) * STEP)
            self.sequence += 1
            header = RTP(
                payload_type=self.payload_type,
                marker=int(number == 1),
                sequence=self.sequence,
                timestamp=at,
                sourcesync=SSRC,
            )
            made.append(bytes(header / Raw(block)))
        return made

    def dial(self, codes, audio=2):
        """Events with audio before each."""
        return [one for code in codes for one in (*self.audio(audio), *self.press(code))]


@pytest.fixture
def controller(tmp_path):
    """Where notifications go."""
    with closing(Controller(socket.AF_UNIX, str(tmp_path / "notify"))) as made:
        yield made


@pytest.fixture
def target(controller):
    return f"unix:{controller.listening.getsockname()}"


@pytest.fixture
def relay(start, way, target):
    return start(*way.options, *LOADED, "-n", target)


def watch(call, target, arguments="Dd3a1.5f 101"):
    """OpenSIPS' line on the caller's side (protocol.md 14.2)."""
    line = f"U {call.name} {call.caller.rtp.address[0]} {call.caller.rtp.address[1]} f t {target} T3a1.5f"
    return call.relay.ask(f"{line} && M3:1 {arguments}")


def send(sender, receiver, packets):
    """Each packet arrives as it was sent, alone."""
    for data in packets:
        sender.send(data)
        assert receiver.rtp.expect() == [(data, receiver.to)]


def digits(*codes, side=0, tag="Dd3a1.5f", updates=4):
    """What is told of events."""
    return [f"{tag} {'0123456789*#ABCD '[code]} 10 {(updates + 1) * STEP} {side}\n".encode() for code in codes]


@all_ways
def test_the_same_is_told_in_every_tier(relay, call, way, controller, target):
    """OpenSIPS' exact lines, for both parties. The stream stays where it is."""
    call.establish(way)
    port = call.callee.to[1]
    assert watch(call, target).split()[0] == str(port)
    host, callee_port = call.callee.rtp.address
    reply = call.relay.ask(f"L {call.name} {host} {callee_port} f t && M3:1 Dc3a1.6a 101")
    assert reply.split()[0] == str(call.caller.to[1])
    if way.is_kernel:
        call.wait_offloaded()
    before = told(relay, "frames forwarded")
    caller, callee = Voice(), Voice()
    send(call.caller, call.callee, caller.dial([1, 2, 3, 10, 11, 16]))
    client = controller.accept()
    assert client.lines(6) == digits(1, 2, 3, 10, 11, 16)
    send(call.callee, call.caller, callee.dial([4]))
    assert client.lines(1) == digits(4, side=1, tag="Dc3a1.6a")
    forwarded = told(relay, "frames forwarded") - before
    assert forwarded == (7 * 9 if way.is_kernel else 0)
    assert relay.ask(f"D {call.tags}") == "0"


@kernel_ways
def test_the_relay_stands_still_and_only_events_are_teed(relay, call, way, controller, target):
    """Kernel and the other process do it all; the relay tells what was found when it goes on."""
    call.establish(way)
    watch(call, target)
    call.wait_offloaded()
    voice = Voice()
    with paused(relay):
        send(call.caller, call.callee, [*voice.audio(100), *voice.press(5), *voice.audio(100)])
    assert controller.accept().lines(1) == digits(5)
    wait_for(lambda: told(relay, "recording taps_packets") == 7, DEADLINE_S, "the count")
    assert told(relay, "recording taps_lost") == 0


@all_ways
def test_loss_and_disorder(relay, call, way, controller, target):
    """Starts or ends are lost, packets are repeated, or change places with those of the next event."""
    call.establish(way)
    watch(call, target)
    if way.is_kernel:
        call.wait_offloaded()
    voice = Voice()
    one, two, three, four = (voice.press(code) for code in (1, 2, 3, 4))
    sent = [*one[3:], *two[:1], *two[4:5], *two[1:3], *two[6:], *three[:3], three[1], *three[4:6], four[0], three[6]]
    for data in [*sent, *four[1:4], four[3], *four[4:]]:
        call.caller.send(data)
    assert controller.accept().lines(4) == digits(1, 2, 3, 4)


@all_ways
def test_hidden_events(relay, call, way, controller, target):
    """They are told and not relayed; the audio stays in the kernel."""
    call.establish(way)
    watch(call, target, "Dd3a1.5f 101 h")
    if way.is_kernel:
        call.wait_offloaded()
    before = call.quote()["ndropped"]
    voice = Voice()
    audio = []
    for code in (7, 8):
        audio += (more := voice.audio(3))
        for data in (*more, *voice.press(code)):
            call.caller.send(data)
    assert controller.accept().lines(2) == digits(7, 8)
    assert call.callee.rtp.expect(6) == [(data, call.callee.to) for data in audio]
    assert call.quote()["ndropped"] - before == 14
    if way.is_kernel:
        assert told(relay, "frames up_hidden") == 14
        assert "although" not in relay.log
    watch(call, target, "Dd3a1.5f 101")
    if way.is_kernel:
        call.wait_offloaded()
    send(call.caller, call.callee, voice.press(9))
    assert call.callee.rtp.take() == []


@kernel_ways
def test_a_recorded_call_is_watched_as_well(start, topology, way, controller, target, tmp_path):
    """The file has everything, and nobody gets a digit twice."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    relay = start(*way.options, *LOADED, "-n", target, "-r", str(recordings))
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        watch(call, target)
        assert relay.ask(f"R {call.tags}") == "0"
        call.wait_offloaded()
        sent = Voice().dial([1, 2])
        send(call.caller, call.callee, sent)
        client = controller.accept()
        assert client.lines(2) == digits(1, 2)
        assert relay.ask(f"N {call.tags}") == "0"
        call.wait_offloaded()
        more = Voice()
        more.sequence, more.clock = 500, 160_000
        send(call.caller, call.callee, more.dial([3]))
        assert client.lines(1) == digits(3)
        wait_for(lambda: f"{len(sent)} packets in c1=f.o.rtp" in relay.log, DEADLINE_S, "the end of the recording")
    assert [one.payload for one in read_adhoc((recordings / "c1=f.o.rtp").read_bytes())] == sent
    assert " lost" not in relay.log


@all_ways
def test_commands_between_the_packets_of_events(start, topology, way, controller, target, tmp_path):
    """Recordings and copies begin and end, re-INVITEs come, and packets are hidden: each event is told once."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    relay = start(*way.options, *LOADED, "-n", target, "-r", str(recordings))
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        watch(call, target)
        commands = [
            lambda: relay.ask(f"R {call.tags}"),
            lambda: watch(call, target),
            lambda: relay.ask(f"N {call.tags}"),
            lambda: watch(call, target, "Dd3a1.5f 101 h"),
            lambda: relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t"),
            lambda: relay.ask(f"N {call.tags}"),
            lambda: watch(call, target),
        ]
        voice = Voice()
        codes = [number % 17 for number in range(20)]
        sent = [one for code in codes for one in (*voice.audio(3), *voice.press(code))]
        for number, data in enumerate(sent):
            call.caller.send(data)
            if number % 3 == 0:
                assert not commands[number // 3 % len(commands)]().startswith("E")
        assert controller.accept().lines(len(codes)) == digits(*codes)
        assert relay.ask(f"D {call.tags}") == "0"
        wait_for(lambda: "dtmf tap: " in relay.log, DEADLINE_S, "the end of the tap")
    assert " lost" not in relay.log


@all_ways
def test_the_process_dies(relay, call, way, controller, target):
    """Events that come afterwards are told; what was told before is not told again; what is lost is counted."""
    call.establish(way)
    watch(call, target)
    if way.is_kernel:
        call.wait_offloaded()
    voice = Voice()
    first = voice.press(1)
    send(call.caller, call.callee, first[:-2])
    client = controller.accept()
    assert client.lines(1) == digits(1)
    wait_for(lambda: told(relay, "recording taps_packets") >= 5, DEADLINE_S, "the process to tell")
    os.kill(process_of(relay), signal.SIGKILL)
    wait_for(lambda: f"died (killed by signal {signal.SIGKILL})" in relay.log, DEADLINE_S, "the death")
    wait_for(lambda: _has_process(relay), DEADLINE_S, "another process")
    send(call.caller, call.callee, [*first[-2:], *voice.press(2)])
    assert client.lines(1) == digits(2)
    assert relay.ask(f"D {call.tags}") == "0"
    wait_for(lambda: "dtmf tap: 14 packets watched" in relay.log, DEADLINE_S, "the end of the tap")


def _has_process(relay):
    try:
        return process_of(relay) > 0
    except ValueError:
        return False


@one_kernel_way
def test_the_target_for_all_sessions_over_tcp(start, topology, way):
    """Neither the command nor `-n` names one."""
    with closing(topology.relay.call(Controller, socket.AF_INET, ("127.0.0.1", 0))) as controller:
        relay = start(*way.options, "--dtmf-notify", f"tcp:127.0.0.1:{controller.port}")
        with Call(relay, topology.caller, topology.callee) as call:
            call.establish(way)
            host, port = call.caller.rtp.address
            relay.port(f"U c1 {host} {port} f t && M3:1 here 96")
            send(call.caller, call.callee, Voice(payload_type=96).dial([5]))
            assert controller.accept().lines(1) == digits(5, tag="here")


@one_kernel_way
def test_a_flood_of_events(relay, call, way, controller, target):
    """The most that a stream may tell is told, and the rest is counted."""
    call.establish(way)
    watch(call, target)
    call.wait_offloaded()
    voice = Voice()
    for _ in range(500):
        for data in voice.press(1, updates=1, ends=1):
            call.caller.send(data)
    call.callee.rtp.expect(1000)
    client = controller.accept()
    assert client.lines(MOST_AT_ONCE) == digits(1, updates=1) * MOST_AT_ONCE
    wait_for(lambda: "too many DTMF events" in relay.log, DEADLINE_S, "the count in the log")


@one_kernel_way
def test_without_the_module_there_is_no_such_command(start, topology, way, target):
    relay = start(*way.options, "-n", target)
    with PhonePort(topology.caller, topology.caller.ip, 4000):
        assert relay.ask(f"U c1 {topology.caller.ip} 4000 f t {target} x && M3:1 tag") == "E3"
