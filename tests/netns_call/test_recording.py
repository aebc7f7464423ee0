"""Recordings of calls, with the kernel tier and without: what is in the files, and what goes wrong."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtpproxy.recording.directories import UNFINISHED
from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, STEERED, TC, Call, PhonePort, numbered, rtcp
from tests.recording import tshark
from tests.recording.packets import read_adhoc
from tests.running import rtp
from tests.waiting import wait_for

both_ways = pytest.mark.parametrize("way", [KERNEL, STEERED, BOUND], ids=lambda way: way.name, indirect=True)
kernel_ways = pytest.mark.parametrize("way", [KERNEL, TC], ids=lambda way: way.name, indirect=True)
one_way = pytest.mark.parametrize("way", [STEERED], ids=lambda way: way.name, indirect=True)


both_spools = pytest.mark.parametrize("places", ["spool", f"recordings/{UNFINISHED}"], ids=["-S", "-r"], indirect=True)


@pytest.fixture
def places(request, tmp_path):
    """The directory of recordings, and the spool, which the relay makes itself if it is in the former."""
    made = tmp_path / "recordings", tmp_path / getattr(request, "param", "spool")
    for place in made:
        place.mkdir()
    return made


def options_for(places):
    """The options that name them."""
    own, *other = (str(place) for place in places if place.name != UNFINISHED)
    return "-r", own, *(word for place in other for word in ("-S", place))


@pytest.fixture
def record(start, way, places):
    """Starts a relay that records into the spool."""

    def record(*options):
        return start(*way.options, *options_for(places), *options)

    return record


def writers(relay):
    """Process IDs of the relay's children: those that write recordings."""
    pids = Path(f"/proc/{relay.process.pid}/task/{relay.process.pid}/children").read_text().split()
    return [int(pid) for pid in pids]


def forwarded(relay):
    """Frames that the kernel forwarded so far."""
    return int(dict(line.split(": ") for line in relay.ask("It").splitlines())["frames forwarded"])


def names(place):
    """What is there, but for a spool in it."""
    return sorted(path.name for path in place.iterdir() if path.name != UNFINISHED)


def wait_for_names(place, *wanted):
    wait_for(lambda: names(place) == sorted(wanted), DEADLINE_S, f"{wanted} in {place}")


@both_ways
def test_packets_between_start_and_stop(record, topology, way, places):
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        before = time.time()
        for number in range(2, 12):
            call.cross(rtp(number))
        call.cross(rtcp(2), is_rtcp=True)
        after = time.time()
        assert relay.ask(f"N {call.tags}") == "0"
        call.cross(rtp(12))
        if way.is_kernel:
            call.wait_offloaded()
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
        assert relay.ask(f"N {call.tags}") == "E50"
    caller = bytes(map(int, topology.caller.ip.split(".")))
    read = read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())
    assert [(one.source, one.payload) for one in read] == [((caller, 4000), rtp(number)) for number in range(2, 12)]
    assert before <= read[0].arrived <= read[-1].arrived <= after
    read = read_adhoc((places[0] / "c1=f.o.rtcp").read_bytes())
    assert [(one.source, one.payload) for one in read] == [((caller, 4001), rtcp(2))]
    assert names(places[1]) == []


def ask_after_burst(relay, topology, call, numbers, command):
    """Give a command when packets have arrived. The relay stands still meanwhile, so that all of them wait for it.

    Returns a time of day before the first arrived, and one when all had.
    """

    def arrived():
        return int(topology.relay.run(["cat", "/sys/class/net/to-caller/statistics/rx_packets"]).stdout)

    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        before, began = arrived(), time.time()
        for number in numbers:
            call.caller.send(numbered(number))
        wait_for(lambda: arrived() >= before + len(numbers), DEADLINE_S, "the packets to arrive")
        ended = time.time()
        with ThreadPoolExecutor(1) as background:
            reply = background.submit(relay.ask, command)
            os.kill(relay.process.pid, signal.SIGCONT)
            assert reply.result(DEADLINE_S) == "0"
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)
    return began, ended


@both_ways
def test_packets_that_wait_when_the_command_comes(record, topology, way, places):
    """A burst before the command to start is not in the file, and one before that to stop is, whole.

    With the times of arrival, though the relay stood still then.
    """
    relay = record()
    times = {}
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        for name, before, after in (("one", 1000, 2000), ("two", 3000, 4000)):
            ask_after_burst(relay, topology, call, range(before, before + 100), f"C {call.name} {name} f t")
            times[name] = ask_after_burst(relay, topology, call, range(after, after + 100), f"N {call.tags}")
        wait_for_names(places[0], *(f"{name}.{kind}" for name in ("one", "two") for kind in ("rtp", "rtcp")))
    for name, after in (("one", 2000), ("two", 4000)):
        read = read_adhoc((places[0] / f"{name}.rtp").read_bytes())
        assert [one.payload for one in read] == [numbered(number) for number in range(after, after + 100)]
        began, ended = times[name]
        assert began <= read[0].arrived < read[-1].arrived <= ended
        assert [one.arrived for one in read] == sorted(one.arrived for one in read)


@kernel_ways
def test_a_recorded_call_stays_in_the_kernel(record, topology, way, places):
    """Recorded from its middle on, both sides, in one file: nothing of it comes to userspace."""
    relay = record("-P")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        call.cross(rtcp(1), is_rtcp=True)
        call.wait_offloaded(*call.ports)
        before = forwarded(relay)
        for tags in ("f t", "t f"):
            assert relay.ask(f"Rs {call.name} {tags}") == "0"
        call.wait_offloaded(*call.ports)
        for number in range(2, 52):
            call.cross(rtp(number))
        call.cross(rtcp(2), is_rtcp=True)
        assert "recording packets_recorded: 102" in relay.ask("It")
        assert relay.ask(f"Na {call.tags}") == "0"
        assert forwarded(relay) == before + 102
        call.cross(rtp(52))
        assert forwarded(relay) == before + 104
        wait_for_names(places[0], "c1=f.pcap")
        ours, theirs = call.callee.to_rtcp, (topology.callee.ip, 5001)
    seen = tshark.read(places[0] / "c1=f.pcap")
    assert [one.payload for one in seen] == [rtp(n) for n in range(2, 52) for _ in range(2)] + [rtcp(2)] * 2
    assert [one.time_us for one in seen] == sorted(one.time_us for one in seen)
    assert (seen[0].source, seen[0].to) == ((topology.caller.ip, 4000), call.caller.to)
    assert (seen[-2].source, seen[-2].to) == (ours, theirs)
    wait_for(lambda: "102 packets in c1=f.pcap" in relay.log, DEADLINE_S, "the line in the log")


@kernel_ways
def test_the_process_that_writes_dies_while_the_kernel_forwards(record, topology, way, places):
    """What it had not written is told, and what it had not read is written by the next one."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(2))
        spooled = places[1] / "c1=f.o.rtp"
        wait_for(lambda: spooled.stat().st_size, DEADLINE_S, "the packet to be written")
        (writer,) = writers(relay)
        os.kill(writer, signal.SIGSTOP)
        for number in range(3, 13):
            call.cross(rtp(number))
        os.kill(writer, signal.SIGKILL)
        wait_for(lambda: writers(relay) not in ([], [writer]), DEADLINE_S, "another process")
        call.cross(rtp(13))
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    read = read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())
    assert [one.payload for one in read] == [rtp(number) for number in range(2, 14)]
    wait_for(lambda: "12 packets in c1=f.o.rtp, c1=f.o.rtcp" in relay.log, DEADLINE_S, "the line in the log")
    assert "lost" not in relay.log


@both_ways
@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_whole_call_in_one_file(record, topology, way, places, kind):
    """From its first packet on, as tshark sees it. RTCP is shown as it leaves."""
    relay = record("--record-format", kind, "-a")
    with Call(relay, topology.caller, topology.callee) as call:
        call.cross(rtp(1))
        call.cross(rtcp(1), is_rtcp=True)
        call.cross(rtp(2))
        assert relay.ask(f"D {call.tags}") == "0"
        wait_for_names(places[0], f"c1=f.{kind}")
        caller, callee = (topology.caller.ip, 4000), (topology.callee.ip, 5000)

        def ours(at):
            # Sockets on all addresses do not tell which one a packet came to.
            return ("0.0.0.0", at[1]) if way is BOUND else at

        rtp_ends = [(caller, ours(call.caller.to)), (callee, ours(call.callee.to))]
        rtcp_ends = [
            (ours(call.callee.to_rtcp), (topology.callee.ip, 5001)),
            (ours(call.caller.to_rtcp), (topology.caller.ip, 4001)),
        ]
    seen = tshark.read(places[0] / f"c1=f.{kind}")
    assert [(one.source, one.to) for one in seen] == [*rtp_ends, *rtcp_ends, *rtp_ends]
    assert [one.payload for one in seen] == [rtp(1), rtp(1), rtcp(1), rtcp(1), rtp(2), rtp(2)]
    assert [one.time_us for one in seen] == sorted(one.time_us for one in seen)
    assert abs(seen[-1].time_us / 1e6 - time.time()) < DEADLINE_S


@one_way
def test_a_reinvite_and_a_second_media_line(record, topology, way, places):
    relay = record("-P")
    with Call(relay, topology.caller, topology.callee) as call:
        video = relay.port(f"U {call.name} {topology.caller.ip} 4010 f;2")
        relay.port(f"L {call.name} {topology.callee.ip} 5010 f;2 t;2")
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(1))
        call.update(topology.caller.ip, 4000)
        call.cross(rtp(2))
        with PhonePort(topology.callee, topology.callee.ip, 5010) as camera:
            camera.send(rtp(9), (call.callee.to[0], video))
        assert relay.ask(f"Na {call.name} f t") == "0"
        wait_for_names(places[0], *(f"c1=f{number}.o.{kind}" for number in ("", ";2") for kind in ("rtp", "rtcp")))
    assert [one.payload for one in tshark.read(places[0] / "c1=f.o.rtp")] == [rtp(1), rtp(2)]


# What goes wrong


@both_ways
def test_a_killed_relays_recordings_are_finished(record, topology, way, places):
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(1))
        (writer,) = writers(relay)
        relay.kill()
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
        wait_for(lambda: not Path(f"/proc/{writer}").exists(), DEADLINE_S, "the process that writes to end")
    assert [one.payload for one in read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())] == [rtp(1)]


@one_way
@both_spools
@pytest.mark.parametrize("owner", [0, 65534], ids=["root", "nobody"])
def test_the_next_start_finishes_what_both_left(record, topology, way, places, owner):
    """The relay is root's, the directories may be somebody else's, who is the one who writes then."""
    for place in places:
        os.chown(place, owner, owner)
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(1))
        spooled = places[1] / "c1=f.o.rtp"
        wait_for(lambda: spooled.stat().st_size, DEADLINE_S, "the packet to be written")
        assert "was left by a killed relay" not in relay.log
        (writer,) = writers(relay)
        os.kill(writer, signal.SIGSTOP)
        relay.kill()
        os.kill(writer, signal.SIGKILL)
    with spooled.open("ab") as file:
        file.write(b"half a packet")
    relay.start()
    wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    wait_for(lambda: f"{spooled} was left by a killed relay, and is finished" in relay.log, DEADLINE_S, "the report")
    assert [one.payload for one in read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())] == [rtp(1)]


@one_way
def test_stopping_the_relay_finishes_its_recordings(record, topology, way, places):
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(1))
        assert relay.stop() == 0
    assert names(places[0]) == ["c1=f.o.rtcp", "c1=f.o.rtp"]
    assert "c1: recording of what the caller sends: 1 packets in c1=f.o.rtp, c1=f.o.rtcp" in relay.log


def relay_all(call, numbers):
    """Packets that the call must not lose."""
    for number in numbers:
        call.caller.send(numbered(number))
        assert call.callee.rtp.expect() == [(numbered(number), call.callee.to)]


@one_way
@both_spools
def test_a_full_disk_is_not_noticed_by_the_call(record, topology, way, places):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", places[0].parent], check=True)
    try:
        for place in places:
            place.mkdir()
        relay = record()
        with Call(relay, topology.caller, topology.callee) as call:
            assert relay.ask(f"R {call.tags}") == "0"
            relay_all(call, range(1000))
            wait_for(lambda: "No space left on device" in relay.log, DEADLINE_S, "the line in the log")
            relay_all(call, range(1000, 1100))
            assert relay.ask(f"N {call.tags}") == "E50"
        assert relay.log.count("failed: No space left on device") == 1
        assert f"left in {places[1]}: c1=f.o.rtp" in relay.log
        assert names(places[0]) == ["c1=f.o.rtcp"]
        numbers = [one.payload for one in read_adhoc((places[1] / "c1=f.o.rtp").read_bytes())]
        assert numbers == [numbered(number) for number in range(len(numbers))]
        assert f"{len(numbers)} packets in c1=f.o.rtp" in relay.log
        assert relay.stop() == 0
    finally:
        subprocess.run(["umount", "--lazy", places[0].parent], check=True)


@one_way
def test_a_disk_that_hangs_is_not_noticed_by_the_call(record, topology, way, places):
    """The process that writes stands still, as it does where a disk does."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        (writer,) = writers(relay)
        os.kill(writer, signal.SIGSTOP)
        relay_all(call, range(1000))
        assert relay.ask(f"N {call.tags}") == "0"
        assert relay.ask(f"D {call.tags}") == "0"
        os.kill(writer, signal.SIGCONT)
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    read = read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())
    assert [one.payload for one in read] == [numbered(number) for number in range(1000)]


@one_way
@both_spools
def test_as_an_ordinary_user(start, topology, way, places, tmp_path):
    """What the process that writes may do: nothing but that."""
    if places[1].name == UNFINISHED:
        places[1].rmdir()
        places = places[:1]
    for place in (*places, *tmp_path.parents[:3], tmp_path):
        if place.owner() == "root" and str(place).startswith("/tmp/pytest"):
            place.chmod(0o755)
    for place in places:
        os.chown(place, 65534, 65534)
    os.chown(tmp_path, 65534, 65534)
    relay = start(*way.options, *options_for(places), "-u", "nobody")
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(1))
        (writer,) = writers(relay)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{writer}/status").read_text().splitlines())
        assert status["Uid"].split() == ["65534"] * 4
        assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    assert (places[0] / "c1=f.o.rtp").owner() == "nobody"


@one_way
def test_a_directory_without_permission(start, topology, way, places, tmp_path):
    for place in (*tmp_path.parents[:3], tmp_path):
        if place.owner() == "root" and str(place).startswith("/tmp/pytest"):
            place.chmod(0o755)
    os.chown(tmp_path, 65534, 65534)
    relay = start(*way.options, "-r", str(places[0]), "-u", "nobody")
    with Call(relay, topology.caller, topology.callee) as call:
        assert f"recordings will fail: {places[0]}: this user may not make files there" in relay.log
        assert relay.ask(f"R {call.tags}") == "E50"
        assert f"cannot use {places[0]}/{UNFINISHED}: Permission denied" in relay.log
        call.cross(rtp(1))
