"""Prompts of the installed relay, with the kernel tier and without: what the phones hear, and what files may do."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from scapy.all import IP, UDP, Ether
from scapy.layers.rtp import RTP

from tests.clients.calls import party
from tests.g711 import COARSEST, as_pcm, decode, encode, sweep
from tests.netns import Topology
from tests.netns_call.call import (
    BOUND,
    DEADLINE_S,
    KERNEL,
    STEERED,
    TC,
    Call,
    Tap,
    allow_refusals,
    paused,
    relayed_frame,
)
from tests.netns_call.dual_stack.families import EVERYWHERE, addresses, pairs
from tests.running import PROGRAM, rtp
from tests.waiting import wait_for

two_ways = pytest.mark.parametrize("way", [KERNEL, BOUND], ids=lambda way: way.name, indirect=True)
one_way = pytest.mark.parametrize("way", [BOUND], ids=lambda way: way.name, indirect=True)
PACKETS = 25
"""Of the prompt, each of 10 ms."""


@pytest.fixture
def prompt(tmp_path):
    """A stem, and its audio in PCMU and PCMA: some that does not fill a packet at the end, and is not played."""
    for payload_type in (0, 8):
        (tmp_path / f"moh.{payload_type}").write_bytes(encode(payload_type, sweep(80 * PACKETS + 79)))
    return tmp_path / "moh"


def heard(port, count, to):
    """The next so many packets of a prompt, all from where the phone sends to; their headers, and their payloads."""
    packets = []
    while len(packets) < count:
        for data, source in port.expect():
            assert source == to
            packets.append(data)
    return [RTP(data[:12]) for data in packets], [data[12:] for data in packets]


def players(relay):
    """How many were made, how many have ended, and their packets."""
    return [int(one) for one in relay.ask("G nplrs_created nplrs_destroyed npkts_played").split()]


def wait_for_end(relay, count=1):
    wait_for(lambda: players(relay)[1] == count, DEADLINE_S, "the end of the prompt")


@pytest.mark.parametrize("payload_type", [0, 8])
@two_ways
def test_a_prompt_is_heard_sample_by_sample(relay, call, way, prompt, payload_type):
    call.establish(way)
    assert relay.ask(f"P2 c1 {prompt} 97,{payload_type} f t") == "0"
    headers, payloads = heard(call.caller.rtp, 2 * PACKETS, call.caller.to)
    wait_for_end(relay)
    assert call.caller.rtp.take() == []
    first = headers[0]
    for number, header in enumerate(headers):
        expected = RTP(
            version=2,
            marker=int(number == 0),
            payload_type=payload_type,
            sequence=(first.sequence + number) & 0xFFFF,
            timestamp=(first.timestamp + 80 * number) & 0xFFFFFFFF,
            sourcesync=first.sourcesync,
        )
        assert bytes(header) == bytes(expected)
    assert first.timestamp % 2 == 0
    source = sweep(80 * PACKETS + 79)[: 80 * PACKETS]
    samples = decode(payload_type, b"".join(payloads))
    assert samples == decode(payload_type, encode(payload_type, source)) * 2
    assert max(abs(one - other) for one, other in zip(samples, source * 2, strict=True)) <= COARSEST / 2
    assert players(relay) == [1, 1, 2 * PACKETS]


def test_music_on_hold(relay, call, topology, way, prompt):
    """Only what the held party would get leaves the kernel; counts are those of userspace in all ways."""
    call.establish(way)
    with Tap(topology.caller) as tap:
        assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
        port = call.caller.to[1]
        frame = tap.expect(lambda frame: IP in (seen := Ether(frame)) and UDP in seen and seen[UDP].sport == port)
    ip_id = Ether(frame)[IP].id
    payload = bytes(Ether(frame)[UDP].payload)
    at = topology.caller.ip, 4000
    assert frame == relayed_frame(topology.caller, call.caller.to, at, payload, ip_id)
    assert call.caller.rtp.expect(1)
    if way.is_kernel:
        assert "leaves the kernel: a prompt is played to the peer" in relay.log
        with paused(relay):
            for number in range(2, 12):
                call.caller.send(rtp(number))
                assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    else:
        for number in range(2, 12):
            call.caller.send(rtp(number))
            assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    for number in range(2, 22):
        call.callee.send(rtp(number))
    wait_for(lambda: call.quote()["ndropped"] == 20, DEADLINE_S, "20 packets to be dropped")
    assert relay.ask("S c1 f t") == "0"
    if way.is_kernel:
        call.wait_offloaded()
        with paused(relay):
            call.callee.send(rtp(22))
            wait_for(lambda: _is_there(call, rtp(22)), DEADLINE_S, "the first packet after the prompt")
    else:
        call.callee.send(rtp(22))
        wait_for(lambda: _is_there(call, rtp(22)), DEADLINE_S, "the first packet after the prompt")
    assert relay.ask("Qv c1 f t npkts_ina npkts_ino nrelayed ndropped rtpa_nrcvd rtpa_nlost rtpa_ndups") == (
        "npkts_ina=11 npkts_ino=22 nrelayed=13 ndropped=20 rtpa_nrcvd=11 rtpa_nlost=0 rtpa_ndups=0"
    )
    assert relay.ask("Q c1 t f rtpa_nsent rtpa_nrcvd rtpa_nlost rtpa_ndups rtpa_perrs") == "22 22 0 0 0"
    assert players(relay)[:2] == [1, 1]


def _is_there(call, data):
    """Look for a packet among what was still played."""
    return any(one == data for one, _ in call.caller.rtp.take())


@two_ways
@pairs
def test_all_families(start, way, prompt, pair):
    with Topology(ipv6=True) as wide:
        allow_refusals(wide.relay)
        relay = start(*way.options, *EVERYWHERE, host=wide.relay)
        with Call(relay, wide.caller, wide.callee, **addresses(wide, pair)) as call:
            call.establish(way)
            for tags, party in (("f t", call.caller), ("t f", call.callee)):
                assert relay.ask(f"P c1 {prompt} 0 {tags}") == "0"
                headers, _ = heard(party.rtp, PACKETS, party.to)
                assert [header.marker for header in headers] == [1] + [0] * (PACKETS - 1)
                assert party.rtp.tos == {0xB8}
            wait_for_end(relay, 2)
            if way.is_kernel:
                call.wait_offloaded()
            call.cross(rtp(2))


@two_ways
def test_the_party_moves_and_the_relay_gives_it_another_port(relay, call, topology, way, prompt):
    call.establish(way)
    assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
    call.caller.rtp.expect()
    call.caller.close()
    call.caller = party(topology.caller, 4100)
    call.update(topology.caller.ip, 4100)
    call.caller.to = topology.caller.gateway.ip, relay.port(f"Ln c1 {topology.callee.ip} 5000 f t")
    wait_for(lambda: any(source == call.caller.to for _, source in call.caller.rtp.take()), DEADLINE_S, "the prompt")
    assert relay.ask("S c1 f t") == "0"


@two_ways
def test_before_the_call_is_answered(relay, topology, way, prompt):
    """The prompt begins when the party can be reached: in full, with its marker."""
    relay.port(f"Uc0 c1 {topology.caller.ip} 4000 f")
    assert relay.ask(f"P c1 {prompt} session f") == "0"
    with Call(relay, topology.caller, topology.callee) as call:
        headers, payloads = heard(call.caller.rtp, PACKETS, call.caller.to)
    assert headers[0].marker == 1
    assert b"".join(payloads) == Path(f"{prompt}.0").read_bytes()[: 80 * PACKETS]


@two_ways
def test_the_call_ends_while_a_prompt_is_played(relay, call, way, prompt):
    call.establish(way)
    files = Path(f"/proc/{relay.process.pid}/fd")
    before = len(list(files.iterdir()))
    for command in ("P-1 c1 {} 0 f t", "P-1 c1 {} 0 t f", "P-1 c1 {} 8 f t"):
        assert relay.ask(command.format(prompt)) == "0"
    call.caller.rtp.expect()
    call.callee.rtp.expect()
    assert relay.ask("D c1 f t") == "0"
    call.caller.rtp.take()
    call.caller.rtp.expect_refusal(rtp(2), call.caller.to)
    assert players(relay)[:2] == [3, 3]
    wait_for(lambda: len(list(files.iterdir())) <= before, DEADLINE_S, "every file to be closed")


@one_way
def test_the_relay_stops_while_a_prompt_is_played(relay, call, prompt):
    assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
    call.caller.rtp.expect()
    assert relay.stop() == 0
    assert "Traceback" not in relay.log


@one_way
def test_nothing_is_played_to_where_media_may_not_be_sent(start, way, topology, prompt):
    relay = start(*way.options, "--media-deny", f"{topology.caller.ip}/32")
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"P c1 {prompt} 0 f t") == "0"
        assert relay.ask(f"P c1 {prompt} 0 t f") == "0"
        heard(call.callee.rtp, PACKETS, call.callee.to)
        wait_for_end(relay)
        assert players(relay) == [2, 1, PACKETS]
        assert call.caller.rtp.take() == []


@one_way
def test_packets_of_another_length(relay, topology, prompt):
    """`session`: the codec of the party, and the packet length of the other one."""
    relay.port(f"Uc8 c1 {topology.caller.ip} 4000 f")
    with Call(relay, topology.caller, topology.callee) as call:
        relay.port(f"Uc8 c1 {topology.caller.ip} 4000 f t")
        relay.port(f"Lz20 c1 {topology.callee.ip} 5000 f t")
        assert relay.ask(f"P c1 {prompt} session f t") == "0"
        headers, payloads = heard(call.caller.rtp, PACKETS // 2, call.caller.to)
        wait_for_end(relay)
    assert b"".join(payloads) == Path(f"{prompt}.8").read_bytes()[: 160 * (PACKETS // 2)]
    assert headers[1].timestamp - headers[0].timestamp == 160


@one_way
def test_what_makeann_makes_is_played(relay, call, tmp_path):
    """In every codec that it has everywhere."""
    (tmp_path / "sweep.raw").write_bytes(as_pcm(sweep(4000)))
    makeann = Path(PROGRAM).with_name("rtpproxy-makeann")
    subprocess.run([makeann, tmp_path / "sweep.raw", tmp_path / "made"], check=True, capture_output=True)
    for number, (payload_type, size) in enumerate({0: 80, 8: 80, 9: 80, 3: 33}.items(), 1):
        content = (tmp_path / f"made.{payload_type}").read_bytes()
        assert relay.ask(f"P c1 {tmp_path}/made {payload_type} f t") == "0"
        headers, payloads = heard(call.caller.rtp, len(content) // size, call.caller.to)
        wait_for_end(relay, number)
        assert b"".join(payloads) == content
        assert {header.payload_type for header in headers} == {payload_type}


@one_way
def test_another_user(start, way, topology):
    """Who gives up root can still read what others may."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "ours.0").write_bytes(bytes(80 * PACKETS))
        (directory / "secret.0").write_bytes(bytes(80 * PACKETS))
        (directory / "secret.0").chmod(0o600)
        relay = start(*way.options, "-u", "nobody", "--prompt-directory", name)
        with Call(relay, topology.caller, topology.callee) as call:
            assert relay.ask("P c1 secret 0 f t") == "E60"
            assert relay.ask("P c1 ours 0 f t") == "0"
            heard(call.caller.rtp, PACKETS, call.caller.to)
            wait_for_end(relay)
    assert "secret.0: Permission denied" in relay.log


# Files


@one_way
def test_files_that_are_not_there(relay, call, prompt, tmp_path):
    os.mkfifo(tmp_path / "fifo.0")
    (tmp_path / "device.0").symlink_to("/dev/zero")
    (tmp_path / "directory.0").mkdir()
    for name, codecs in (
        ("none", "0,8"),
        ("moh", "3"),
        ("moh", "abc"),
        ("fifo", "0"),
        ("device", "0"),
        ("directory", "0"),
    ):
        assert relay.ask(f"P c1 {tmp_path / name} {codecs} f t") == "E60", name
    assert relay.ask(f"P c1 {prompt} session f t") == "E35"
    assert relay.ask(f"Px c1 {prompt} 0 f t") == "E17"
    assert players(relay) == [0, 0, 0]
    assert "fifo.0: it is no regular file" in relay.log


@pytest.mark.parametrize("change", ["remove", "truncate"])
@one_way
def test_a_file_that_does_not_stay_as_it_is(relay, call, prompt, change):
    path = Path(f"{prompt}.0")
    assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
    call.caller.rtp.expect()
    if change == "remove":
        path.unlink()
    else:
        os.truncate(path, 100)
    wait_for_end(relay)
    why = {"remove": "it is gone: No such file or directory", "truncate": "it has been cut short"}[change]
    assert f"prompt {path}: {why}; players that end: 1" in relay.log
    assert relay.ask("V") == "20040107"


@one_way
def test_a_new_version_of_a_file(relay, call, prompt):
    """Those who hear the old one go on with it, those who ask from now on get the new one."""
    path = Path(f"{prompt}.0")
    old = path.read_bytes()[: 80 * PACKETS]
    assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
    heard(call.caller.rtp, 1, call.caller.to)
    new = path.with_name("new")
    new.write_bytes(bytes(80 * PACKETS))
    new.rename(path)
    assert relay.ask(f"P c1 {prompt} 0 t f") == "0"
    _, payloads = heard(call.callee.rtp, PACKETS, call.callee.to)
    assert b"".join(payloads) == bytes(80 * PACKETS)
    _, payloads = heard(call.caller.rtp, 300, call.caller.to)  # three seconds: files are looked at each second
    assert set(payloads) == {old[at : at + 80] for at in range(0, len(old), 80)}
    assert players(relay)[:2] == [2, 1]
    assert "players that end" not in relay.log


@one_way
def test_a_huge_file_is_not_read_into_memory(relay, call, prompt):
    os.truncate(f"{prompt}.0", 1 << 40)

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{relay.process.pid}/status").read_text())[1])

    before = resident()
    assert relay.ask(f"P-1 c1 {prompt} 0 f t") == "0"
    heard(call.caller.rtp, 100, call.caller.to)
    assert resident() - before < 20_000
    assert relay.ask("S c1 f t") == "0"


@contextlib.contextmanager
def leased(path):
    """Whoever opens the file waits meanwhile, as for a disk that hangs (F_SETLEASE of fcntl(2))."""
    previous = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            yield
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, previous)


@one_way
def test_a_disk_that_hangs(relay, call, prompt):
    """Commands and media go on, and so do other prompts; the prompt begins when the disk answers."""
    shutil.copy(f"{prompt}.8", prompt.with_name("other.8"))
    with leased(Path(f"{prompt}.0")):
        for _ in range(20):
            assert relay.ask(f"P c1 {prompt} 0 f t") == "0"
        call.callee.send(rtp(1))
        wait_for(lambda: call.quote()["ndropped"] == 1, DEADLINE_S, "the callee's packet")
        call.caller.send(rtp(1))
        assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]
        assert relay.ask(f"P c1 {prompt.with_name('other')} 8 t f") == "0"
        heard(call.callee.rtp, PACKETS, call.callee.to)
    heard(call.caller.rtp, PACKETS, call.caller.to)
    wait_for_end(relay, 21)
    assert players(relay) == [21, 21, 2 * PACKETS]


@one_way
def test_a_disk_that_hangs_hides_no_file_that_is_missing(relay, call, prompt):
    with leased(Path(f"{prompt}.0")):
        assert relay.ask(f"P c1 {prompt} 0 f t") == "0"
        missing = f"P c1 {prompt.with_name('none')} 0 t f"
        wait_for(lambda: relay.ask(missing) == "E60", DEADLINE_S, "the command to fail")


@one_way
def test_a_directory_for_prompts(start, way, topology, prompt, tmp_path):
    inside = tmp_path / "prompts"
    inside.mkdir()
    (inside / "ours.0").write_bytes(bytes(80 * PACKETS))
    (inside / "out.0").symlink_to(f"{prompt}.0")
    relay = start(*way.options, "--prompt-directory", str(inside))
    with Call(relay, topology.caller, topology.callee) as call:
        for name in (prompt, "../moh", f"{inside}/../moh", "out", "/etc/passwd"):
            assert relay.ask(f"P c1 {name} 0 f t") == "E60", name
        for name in ("ours", inside / "ours"):
            assert relay.ask(f"P c1 {name} 0 f t") == "0"
            heard(call.caller.rtp, PACKETS, call.caller.to)
    assert "it is outside of --prompt-directory" in relay.log


@pytest.mark.parametrize("way", [TC, STEERED], ids=lambda way: way.name, indirect=True)
def test_a_prompt_of_each_tier_is_heard(relay, call, way, prompt):
    call.establish(way)
    assert relay.ask(f"P c1 {prompt} 0 t f") == "0"
    headers, _ = heard(call.callee.rtp, PACKETS, call.callee.to)
    assert headers[0].marker == 1
    wait_for_end(relay)
    if way.is_kernel:
        call.wait_offloaded()
    call.cross(rtp(2))
