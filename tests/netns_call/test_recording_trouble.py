"""What goes wrong with recordings, end to end: the call notices nothing, files are sound, what is missing is told."""

import re
import shutil

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import UNFINISHED
from rtpproxy.session.session import Role
from tests.disks import disk as new_disk
from tests.disks import is_waiting_for_a_disk
from tests.netns_call.call import (
    BOUND,
    DEADLINE_S,
    KERNEL,
    STEERED,
    TC,
    Call,
    Foreign,
    Limited,
    number_of,
    numbered,
)
from tests.netns_call.recorded import Recordings, TimedTraffic, streams_of
from tests.netns_call.test_recording import forwarded, names, wait_for_names, writers
from tests.netns_call.test_truth import becomes
from tests.recording.packets import read_adhoc, read_pcap
from tests.running import rtp
from tests.waiting import wait_for

BURST = 50
CALLS, FILES = 40, 64
"""Calls that are recorded, and the files that a process may open, which are too few."""
MOST = 60_000
"""Packets that are sent to a disk that stalls until some are lost, at most."""
both_ways = pytest.mark.parametrize("way", [KERNEL, TC, STEERED, BOUND], ids=lambda way: way.name, indirect=True)
two_ways = pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)
one_way = pytest.mark.parametrize("way", [STEERED], ids=lambda way: way.name, indirect=True)


def make_places(directory):
    """The directory of recordings, and the spool."""
    made = directory / "recordings", directory / "spool"
    for place in made:
        place.mkdir()
    return made


@pytest.fixture
def disk(tmp_path):
    with new_disk(tmp_path) as made:
        yield made


@pytest.fixture
def places(request, tmp_path):
    """They are on the disk of the test, if it has one."""
    is_on_disk = "disk" in request.fixturenames
    return make_places(request.getfixturevalue("disk").path if is_on_disk else tmp_path)


@pytest.fixture
def record(places, start, way):
    """Starts a relay that records there."""

    def record(*options, **how):
        return start(*way.options, "-r", str(places[0]), "-S", str(places[1]), *options, **how)

    return record


class Sender:
    """Numbered packets from the caller, each of which must arrive."""

    def __init__(self, call, size=0):
        """`size` are bytes that are added to each."""
        self._call = call
        self._more = bytes(size)
        self.sent = 0

    def burst(self):
        packets = [numbered(self.sent + number) + self._more for number in range(BURST)]
        self.sent += BURST
        for packet in packets:
            self._call.caller.send(packet)
        assert self._call.callee.rtp.expect(BURST) == [(packet, self._call.callee.to) for packet in packets]


def told(relay, name):
    """A number of `It` about recordings."""
    return int(dict(line.split(": ") for line in relay.ask("It").splitlines())[f"recording {name}"])


def send_until_lost(relay, sender):
    """Send more than finds room while nothing is written."""
    while not told(relay, "packets_lost"):
        for _ in range(10):
            sender.burst()
        assert sender.sent < MOST


def stall(writer, sender):
    """Send until the process that writes waits for the disk."""

    def has_stalled():
        sender.burst()
        return is_waiting_for_a_disk(writer)

    wait_for(has_stalled, DEADLINE_S, "the process that writes to wait")


@both_ways
def test_a_disk_that_stalls(disk, record, topology, way, places):
    """Nobody waits for it; what finds no room in memory is counted, and the file tells it."""
    relay = record("--record-format", "pcapng", "--tee-memory", "1")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        # Packets of the kernel wait in the ring, and others in the relay's memory, which is larger.
        sender = Sender(call, 0 if way.is_kernel else 1200)
        sender.burst()
        spooled = places[1] / "c1=f.o.rtp"
        wait_for(lambda: spooled.stat().st_size > BURST * 172, DEADLINE_S, "packets to be written")
        (writer,) = writers(relay)
        with disk.frozen():
            stall(writer, sender)
            send_until_lost(relay, sender)
            assert relay.ask(f"N {call.tags}") == "0"
            with Call(relay, topology.caller, topology.callee, "c2", **elsewhere(topology)) as another:
                another.cross(rtp(1))
            assert relay.ask("D c2 f t") == "0"
            call.cross(rtp(1))
            assert is_waiting_for_a_disk(writer)
            assert names(places[0]) == []
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
        wait_for(lambda: "recording of what the caller sends: " in relay.log, DEADLINE_S, "the line in the log")
        lost = told(relay, "packets_lost")
    numbers = [number_of(one.payload) for one in read_pcap(places[0] / "c1=f.o.rtp")]
    assert len(numbers) + lost == sender.sent
    assert numbers == list(range(len(numbers)))
    assert f"{len(numbers)} packets in c1=f.o.rtp, c1=f.o.rtcp, {lost} lost" in relay.log
    assert f"{len(numbers)} packets recorded, {lost} lost".encode() in (places[0] / "c1=f.o.rtp").read_bytes()
    if way.is_kernel:
        assert forwarded(relay) >= sender.sent


def elsewhere(topology):
    """Other ports of the phones."""
    return {"caller_at": (topology.caller.ip, 4100), "callee_at": (topology.callee.ip, 5100)}


@one_way
def test_a_disk_that_goes_on_after_a_while(disk, record, topology, way, places):
    """Nothing is lost, if what came meanwhile found room; and recordings go on."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        sender = Sender(call)
        (writer,) = writers(relay)
        for _ in range(2):
            with disk.frozen():
                stall(writer, sender)
                sender.burst()
            sender.burst()
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    read = read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())
    assert [one.payload for one in read] == [numbered(number) for number in range(sender.sent)]
    assert "lost" not in relay.log


@two_ways
def test_a_relay_that_stops_while_the_disk_stalls(disk, record, topology, way, places):
    """It says who goes on; the process that writes ends once everything is on the disk."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        sender = Sender(call)
        (writer,) = writers(relay)
        with disk.frozen():
            stall(writer, sender)
            assert relay.stop() == 0
            assert f"recordings are still being written; the process {writer} ends when they are" in relay.log
            assert names(places[0]) == []
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    read = read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())
    assert [one.payload for one in read] == [numbered(number) for number in range(sender.sent)]


@one_way
def test_a_relay_that_stops_with_more_than_the_process_takes(disk, record, topology, way, places):
    """What is lost then is told, too."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        sender = Sender(call, 1200)
        (writer,) = writers(relay)
        with disk.frozen():
            stall(writer, sender)
            send_until_lost(relay, sender)
            assert relay.stop() == 0
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    numbers = [number_of(one.payload) for one in read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())]
    assert numbers == list(range(len(numbers)))
    (megabytes,) = re.findall(r"recordings: (\S+) MB of packets were not taken in time, and are lost", relay.log)
    assert 15 < float(megabytes) < 17
    assert f"recordings are still being written; the process {writer} ends when they are" in relay.log


@one_way
def test_a_recording_that_begins_while_the_disk_stalls(disk, record, topology, way, places):
    """No file can be made. The command is refused, the call goes on, and the next command does not wait at all."""
    relay = record("--record-format", "pcap", "-a")
    with Call(relay, topology.caller, topology.callee) as call, disk.frozen():
        for name in ("c2", "c3"):
            with Call(relay, topology.caller, topology.callee, name, **elsewhere(topology)) as another:
                another.cross(rtp(1))
        assert "c2: not recorded: " in relay.log
        assert relay.ask("C c2 name f t") == "E65"
        call.cross(rtp(1))
    for name in ("c1", "c2", "c3"):
        assert relay.ask(f"D {name} f t") == "0"
    wait_for_names(places[0], "c1=f.pcap")

    def is_recorded_again():
        with Call(relay, topology.caller, topology.callee, "c4", **elsewhere(topology)) as another:
            another.cross(rtp(1))
        assert relay.ask("D c4 f t") == "0"
        return (places[0] / "c4=f.pcap").exists()

    wait_for(is_recorded_again, DEADLINE_S, "the next recording")
    assert {"c2=f.pcap", "c3=f.pcap"}.isdisjoint([*names(places[0]), *names(places[1])])


@one_way
def test_directories_that_are_removed(record, topology, way, places):
    """The recording ends with one line; once there are others of these names, they are used."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"R {call.tags}") == "0"
        sender = Sender(call)
        sender.burst()
        for place in places:
            shutil.rmtree(place)
        sender.burst()
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for(lambda: "recording of what the caller sends: " in relay.log, DEADLINE_S, "the line in the log")
        assert relay.log.count("failed: it cannot be moved out of the spool: No such file or directory") == 1
        assert relay.ask(f"R {call.tags}") == "E50"
        sender.burst()
        for place in places:
            place.mkdir()
        assert relay.ask(f"R {call.tags}") == "0"
        sender.burst()
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for_names(places[0], "c1=f.o.rtcp", "c1=f.o.rtp")
    numbers = [number_of(one.payload) for one in read_adhoc((places[0] / "c1=f.o.rtp").read_bytes())]
    assert numbers == list(range(3 * BURST, 4 * BURST))
    assert relay.stop() == 0


@one_way
def test_two_relays_record_under_one_name(start, topology, way, places):
    """In the same directory: each file is one relay's, and the one that is complete last stays."""
    relays = [
        start(*way.options, "-r", str(places[0]), "-m", str(port), "-M", str(port + 999), name=f"relay{port}")
        for port in (35000, 40000)
    ]
    own = places[0] / UNFINISHED
    for relay, phone_port in zip(relays, (4000, 4100), strict=True):
        at = (topology.caller.ip, phone_port), (topology.callee.ip, phone_port + 1000)
        with Call(relay, topology.caller, topology.callee, caller_at=at[0], callee_at=at[1]) as call:
            assert relay.ask(f"C {call.name} same f t") == "0"
            for number in range(phone_port, phone_port + 3):
                call.cross(numbered(number))
    whole = 3 * (30 + len(numbered(0)))
    wait_for(lambda: [path.stat().st_size for path in own.glob("same.rtp*")] == [whole] * 2, DEADLINE_S, "both files")
    for relay, first in zip(relays, (4000, 4100), strict=True):
        assert relay.ask("N c1 f t") == "0"
        wait_for(lambda relay=relay: "3 packets in same.rtp, same.rtcp" in relay.log, DEADLINE_S, "its end")
        assert "failed" not in relay.log
        read = read_adhoc((places[0] / "same.rtp").read_bytes())
        assert [number_of(one.payload) for one in read] == list(range(first, first + 3))
    assert names(places[0]) == ["same.rtcp", "same.rtp"]
    assert not list(own.iterdir())


@one_way
def test_too_many_open_files(record, topology, way, places):
    """No more calls are recorded; those that are go on, and so do all calls."""
    relay = record(host=Limited(topology.relay, FILES))
    with Call(relay, topology.caller, topology.callee) as call:
        assert relay.ask(f"C {call.name} first f t") == "0"
        for number in range(CALLS):
            assert relay.ask(f"U n{number} 10.0.1.2 4000 f").isdigit()
            assert relay.ask(f"R n{number} f") == "0"
        # The process that writes has the same limit, and two files for each recording.
        wait_for(lambda: "failed: Too many open files" in relay.log, DEADLINE_S, "the line in the log")
        Sender(call).burst()
        for number in range(CALLS):
            assert relay.ask(f"D n{number} f") == "0"
        wait_for(lambda: told(relay, "files_open") == 2, DEADLINE_S, "the other recordings to end")
        assert relay.ask(f"R {call.name} t f") == "0"
        assert relay.ask(f"Na {call.tags}") == "0"
        wait_for(lambda: (places[0] / "c1=f.a.rtp").exists(), DEADLINE_S, "the last recording")
    read = read_adhoc((places[0] / "first.rtp").read_bytes())
    assert [one.payload for one in read] == [numbered(number) for number in range(BURST)]
    assert relay.stop() == 0


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_somebody_elses_program_takes_the_place_of_ours(record, topology, way, places):
    """The stream goes over to TC, and comes back; what arrived at the other phone is in the file."""
    relay = record()
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        streams = streams_of([call])
        recordings = Recordings(relay, [call], RecordFormat.ADHOC, places[0])
        with TimedTraffic(streams) as traffic:
            for role in Role:
                recordings.begin(call, role, is_single=False, is_named=False)
            traffic.more(20)
            with Foreign(topology.relay, "to-caller"):
                becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
                traffic.more(20)
            becomes(relay, {"streams by XDP": 4, "streams by userspace": 0})
            traffic.more(20)
            recordings.stop(call, Role.CALLER, is_both=True)
            traffic.more(5)
        recordings.wait_until_all_ended()
        assert sum(map(len, recordings.check(streams).values())) > 200
        assert told(relay, "packets_lost") == 0
