"""Recordings with the process that writes them: names, contents, beginnings and ends, and what goes wrong."""

import errno
import logging
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import RecordFormat
from rtpproxy.errors import RecordingError
from rtpproxy.recording.carrier import MOST_LOSSES
from rtpproxy.session.session import Role, Teeing
from tests.recording.packets import read_adhoc, read_pcap
from tests.recording.running import RunningRecorder, session_with_ports

PCAP_FORMATS = [RecordFormat.PCAP, RecordFormat.PCAPNG]


@pytest.fixture
def running(tmp_path):
    with RunningRecorder(tmp_path) as made:
        yield made


@pytest.fixture
def spooling(tmp_path):
    with RunningRecorder(tmp_path, with_spool=True) as made:
        yield made


def payloads(data):
    return [one.payload for one in read_adhoc(data)]


def test_both_components_of_a_side(running):
    before = time.time()
    side = running.record(session_with_ports())
    assert running.unfinished() == ["call=f.o.rtcp", "call=f.o.rtp"]
    running.send(side, b"one", b"two")
    running.send(side, b"rtcp", component=1, source=("192.0.2.9", 4001))
    assert running.recorder.counts() == {"files_open": 2, "packets_recorded": 3, "packets_lost": 0}
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    rtp, rtcp = (read_adhoc(running.content(f"call=f.o.{one}")) for one in ("rtp", "rtcp"))
    assert [(one.source, one.payload) for one in rtp] == [((b"\xc0\0\2\x09", 4000), data) for data in (b"one", b"two")]
    assert [(one.source, one.payload) for one in rtcp] == [((b"\xc0\0\2\x09", 4001), b"rtcp")]
    assert all(before <= one.arrived <= time.time() for one in rtp)
    assert running.recorder.counts() == {"files_open": 0, "packets_recorded": 3, "packets_lost": 0}


def test_the_log_tells_which_recordings_begin(tmp_path, caplog):
    """A side that joins a file begins none."""
    caplog.set_level(logging.INFO)
    with RunningRecorder(tmp_path, RecordFormat.PCAP) as running:
        session = session_with_ports()
        for role in Role:
            running.record(session, role, is_single=True)
            running.record(session, role, b"%d\n" % role)
    assert [line for line in caplog.messages if " begins " in line] == [
        "call media 1: recording of both sides begins in call=f.pcap",
        r"call media 1: recording of what the callee sends begins in 0\n.rtp, 0\n.rtcp",
        r"call media 1: recording of what the caller sends begins in 1\n.rtp, 1\n.rtcp",
    ]


def test_the_other_side_and_a_name(running):
    session = session_with_ports()
    running.record(session, Role.CALLEE)
    running.record(session, Role.CALLER, b"any \xff name")
    assert sorted(os.listdir(os.fsencode(running.spool))) == [
        *(b"any \xff name.rtcp", b"any \xff name.rtp"),
        *(b"call=f.a.rtcp", b"call=f.a.rtp"),
    ]


def test_rtcp_is_left_out_if_asked(tmp_path):
    with RunningRecorder(tmp_path, leaves_rtcp_out=True) as running:
        side = running.record(session_with_ports())
        assert len(side.streams) == 1
        assert running.unfinished() == ["call=f.o.rtp"]


def test_only_what_arrived_before_the_stop_is_in_the_file(running):
    side = running.record(session_with_ports())
    now = time.monotonic()
    running.send(side, b"before", now=now)
    side.stop(now + 1e-6)
    side.stop(now + 2)
    running.send(side, b"after", now=now + 1)
    running.wait_until_all_ended()
    assert payloads(running.content("call=f.o.rtp")) == [b"before"]


def test_packets_of_one_stream_keep_their_order(tmp_path):
    """Whatever their times of arrival say."""
    begin_ns = time.monotonic_ns()
    times = iter((begin_ns, begin_ns - 5_000_000, begin_ns + 1_000_000))
    with RunningRecorder(tmp_path, arrived_ns=lambda now: next(times)) as running:
        side = running.record(session_with_ports())
        running.send(side, b"one", b"two", b"three")
        side.stop(time.monotonic())
        running.wait_until_all_ended()
        read = read_adhoc(running.content("call=f.o.rtp"))
    assert [one.payload for one in read] == [b"one", b"two", b"three"]
    assert [round(1000 * (one.arrived - read[0].arrived)) for one in read] == [0, 0, 1]


@pytest.mark.parametrize("kind", PCAP_FORMATS)
def test_one_file_for_all_streams(tmp_path, kind):
    with RunningRecorder(tmp_path, kind) as running:
        session = session_with_ports()
        caller = running.record(session, Role.CALLER, is_single=True)
        callee = running.record(session, Role.CALLEE, is_single=True)
        name = f"call=f.{kind.value}"
        assert running.unfinished() == [name]
        running.send(caller, b"caller")
        running.send(callee, b"callee", source=("192.0.2.8", 5000))
        caller.stop(time.monotonic())
        running.send(callee, b"later", source=("192.0.2.8", 5000))
        callee.stop(time.monotonic())
        running.wait_until_all_ended()
        read = [(one.source, one.to[1], one.payload) for one in read_pcap(running.recordings / name)]
        assert read == [
            (("192.0.2.9", 4000), 20002, b"caller"),
            (("192.0.2.8", 5000), 20000, b"callee"),
            (("192.0.2.8", 5000), 20000, b"later"),
        ]


def test_rtcp_in_one_file_is_shown_as_it_leaves(tmp_path):
    """From our port of the other leg, for that leg's party (protocol.md 8.5); else as it arrived."""
    with RunningRecorder(tmp_path, RecordFormat.PCAP) as running:
        session = session_with_ports()
        session.callee.rtcp.local_host = "192.0.2.1"
        side = running.record(session, Role.CALLER, is_single=True)
        running.send(side, b"unknown", component=1)
        session.callee.rtcp.latch.signal(Endpoint("192.0.2.8", 5001), 0.0)
        running.send(side, b"known", component=1)
        side.stop(time.monotonic())
        running.wait_until_all_ended()
        read = [(one.source, one.to) for one in read_pcap(running.recordings / "call=f.pcap")]
        assert read == [
            (("192.0.2.9", 4000), ("192.0.2.1", 20003)),
            (("192.0.2.1", 20001), ("192.0.2.8", 5001)),
        ]


def test_a_single_file_with_a_name_has_just_that_name(tmp_path):
    with RunningRecorder(tmp_path, RecordFormat.PCAP) as running:
        running.record(session_with_ports(), name=b"name", is_single=True)
        assert running.unfinished() == ["name"]


def test_one_file_is_not_for_the_adhoc_format(running):
    running.record(session_with_ports(), is_single=True)
    assert running.unfinished() == ["call=f.o.rtcp", "call=f.o.rtp"]


def test_a_second_media_line_gets_its_number_into_the_name(running):
    running.record(session_with_ports(from_tag=b"f;1"))
    running.record(session_with_ports(from_tag=b"f;2"))
    assert running.unfinished() == ["call=f.o.rtcp", "call=f.o.rtp", "call=f;2.o.rtcp", "call=f;2.o.rtp"]


def test_one_name_is_one_recording(running):
    running.record(session_with_ports(b"one"), name=b"name")
    with pytest.raises(RecordingError, match=r"another recording is being made in name\.rtp"):
        running.record(session_with_ports(b"two"), name=b"name")


@pytest.mark.parametrize(("call_id", "name"), [(b"x/y", None), (b".x", None), (b"x", b"../y"), (b"x", b".y")])
def test_no_name_leads_out_of_the_directory(running, call_id, name):
    with pytest.raises(RecordingError):
        running.record(session_with_ports(call_id), name=name)
    assert running.names() == []


def test_recording_again_starts_from_scratch(running):
    session = session_with_ports()
    side = running.record(session)
    running.send(side, b"first")
    side.stop(time.monotonic())
    side = running.record(session)
    running.send(side, b"second")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("call=f.o.rtp")) == [b"second"]


def test_a_spool_has_files_until_they_end(spooling):
    session = session_with_ports()
    side = spooling.record(session)
    spooling.send(side, b"first")
    assert spooling.names() == []
    assert len(spooling.unfinished()) == 2
    side.stop(time.monotonic())
    again = spooling.record(session)
    spooling.send(again, b"second")
    again.stop(time.monotonic())
    spooling.wait_until_all_ended()
    assert not list(spooling.spool.iterdir())
    assert payloads(spooling.content("call=f.o.rtp")) == [b"second"]


@pytest.mark.parametrize("name", [b"n", b"n" * 255], ids=["short", "longest"])
def test_names_in_the_spool_are_their_own(tmp_path, name):
    """The second recording of a name is the third file, and another has the name that it would have for that."""
    with RunningRecorder(tmp_path, RecordFormat.PCAP) as running:
        for number, one in enumerate((name, name[:253] + b".3", name)):
            side = running.record(session_with_ports(b"call%d" % number), name=one, is_single=True)
            running.send(side, b"%d" % number)
            side.stop(time.monotonic())
        assert len(set(running.unfinished())) == 3
        running.wait_until_all_ended()
        read = {one: [packet.payload for packet in read_pcap(running.recordings / one)] for one in running.names()}
    assert read == {name.decode(): [b"2"], (name[:253] + b".3").decode(): [b"1"]}


def test_the_two_files_of_a_recording_get_two_names(running):
    """Also where they differ only behind the bytes that are left of the longest names."""
    running.recorder._spooled = {b"n" * 250 + b".rtp", b"n" * 250 + b".rtcp", b"n" * 250 + b".rt.1"}
    running.record(session_with_ports(), name=b"n" * 250)
    assert running.unfinished() == ["n" * 250 + ".rt.2", "n" * 250 + ".rt.3"]


def test_closing_finishes_all(spooling):
    for number in range(20):
        side = spooling.record(session_with_ports(b"call%d" % number))
        spooling.send(side, *[b"data"] * number)
    spooling.close()
    assert not list(spooling.spool.iterdir())
    for number in range(20):
        assert payloads(spooling.content(f"call{number}=f.o.rtp")) == [b"data"] * number


def test_the_process_has_no_privileges(running):
    running.record(session_with_ports())

    def status():
        with open(f"/proc/{running.pid}/status") as file:
            return dict(line.split(":\t", 1) for line in file.read().splitlines())

    running.wait_for(lambda: status()["NoNewPrivs"] == "1", "the process to give up its privileges")
    assert {status()[name] for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
    assert os.readlink(f"/proc/{running.pid}/cwd") == str(running.recordings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_roots_process_becomes_the_owner_of_the_directory(tmp_path):
    (tmp_path / "recordings").mkdir()
    os.chown(tmp_path / "recordings", 65534, 65534)
    os.chown(tmp_path, 65534, 65534)
    with RunningRecorder(tmp_path) as running:
        side = running.record(session_with_ports())
        running.wait_for(lambda: os.stat(f"/proc/{running.pid}").st_uid == 65534, "the process to become the owner")
        running.send(side, b"data")
        side.stop(time.monotonic())
        running.wait_until_all_ended()
        assert payloads(running.content("call=f.o.rtp")) == [b"data"]


def test_signals_for_the_relay_do_not_end_the_process(running):
    side = running.record(session_with_ports())
    running.wait_for(lambda: os.readlink(f"/proc/{running.pid}/cwd") == str(running.recordings), "its start")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(running.pid, number)
    running.send(side, b"data")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("call=f.o.rtp")) == [b"data"]


# What goes wrong


def test_a_process_that_dies_is_started_again_and_the_loss_is_told(spooling, caplog):
    session = session_with_ports()
    side = spooling.record(session)
    spooling.send(side, b"one", b"two")
    spool_file = spooling.spool / "call=f.o.rtp"
    spooling.wait_for(lambda: spool_file.stat().st_size > 0, "the packets to be written")
    os.kill(spooling.pid, signal.SIGSTOP)
    spooling.send(side, b"lost")
    spooling.run(0.01)
    first = spooling.pid
    os.kill(first, signal.SIGKILL)
    spooling.wait_for(lambda: spooling.process is None, "the death to be noticed")
    spooling.send(side, b"lost, too")
    spooling.wait_for(lambda: spooling.process is not None, "another process")
    spooling.send(side, b"three")
    assert spooling.pid != first
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        spooling.wait_until_all_ended()
    assert payloads(spooling.content("call=f.o.rtp")) == [b"one", b"two", b"three"]
    assert "died (killed by signal 9); 2 files, copies and taps go on" in caplog.text
    assert (
        "call media 1: recording of what the caller sends: 3 packets in call=f.o.rtp, call=f.o.rtcp, 2 lost, "
        "among them 1 of the stream at port 20002" in caplog.messages
    )
    assert spooling.recorder.counts()["packets_lost"] == 2


def test_what_came_while_the_files_were_made_is_not_told_as_lost_when_the_process_dies(running, caplog):
    """The stream received it, and nobody recorded it: it waited in the socket, or the kernel forwarded it."""
    session = session_with_ports()
    stream = session.caller.rtp

    def receive(packets):
        stream.received_packets += packets
        stream.teeing = Teeing(packets=stream.teed_packets + packets)

    receive(1)
    side = running.record(session, meanwhile=lambda: receive(3))
    side.streams[0].tees.append(1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait_for(lambda: running.process is None, "the death to be noticed")
    running.wait_for(lambda: running.process is not None, "another process")
    stream.received_packets += 1
    running.send(side, b"one")
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        running.wait_until_all_ended()
    message = "call media 1: recording of what the caller sends: 1 packets in call=f.o.rtp, call=f.o.rtcp"
    assert message in caplog.messages


def test_what_was_stopped_while_there_was_no_process_is_finished(spooling):
    side = spooling.record(session_with_ports())
    os.kill(spooling.pid, signal.SIGKILL)
    spooling.wait_for(lambda: spooling.process is None, "the death to be noticed")
    side.stop(time.monotonic())
    spooling.wait_until_all_ended()
    assert spooling.names() == ["call=f.o.rtcp", "call=f.o.rtp"]


def test_a_process_that_dies_again_and_again_is_not_started_at_once(running, caplog):
    running.record(session_with_ports())
    for pause_s in (0.5, 1.0):
        os.kill(running.pid, signal.SIGKILL)
        running.wait_for(lambda: running.process is None, "the death to be noticed")
        assert running.carrier._supervisor.pause_s == pause_s
        with pytest.raises(RecordingError, match="dies again and again"):
            running.record(session_with_ports(b"other"))
        running.wait_for(lambda: running.process is not None, "another process")


def test_a_file_that_is_gone_when_the_process_died(running, caplog):
    side = running.record(session_with_ports())
    (running.spool / "call=f.o.rtp").unlink()
    os.kill(running.pid, signal.SIGKILL)
    running.wait_for(lambda: running.ended == [side], "the end of the recording")
    running.wait_until_all_ended()
    assert "0 packets in call=f.o.rtp, call=f.o.rtcp; failed: the file is gone" in caplog.messages[-1].split(": ", 2)[2]
    assert running.names() == ["call=f.o.rtcp"]


def limit_file_size(pid, most):
    """Make writing beyond so many bytes fail, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("with_spool", [False, True])
def test_a_full_disk_ends_the_recording_with_one_line(tmp_path, caplog, with_spool):
    with RunningRecorder(tmp_path, with_spool=with_spool) as running:
        side = running.record(session_with_ports())
        running.send(side, b"x" * 70)
        running.wait_for(lambda: (running.spool / "call=f.o.rtp").stat().st_size == 100, "the packet to be written")
        limit_file_size(running.pid, 450)
        running.send(side, *[b"x" * 70] * 9)
        running.wait_for(lambda: running.ended == [side], "the end of the recording")
        running.wait_until_all_ended()
        assert (running.spool / "call=f.o.rtp").stat().st_size == 400
        lines = [line for line in caplog.messages if "recording of" in line]
        assert len(lines) == 1
        assert "4 packets in call=f.o.rtp, call=f.o.rtcp, 6 lost; failed: File too large" in lines[0]
        assert lines[0].endswith(f"; left in {running.spool}: call=f.o.rtp")
        assert running.names() == ["call=f.o.rtcp"]


def test_a_process_that_does_not_read_holds_nobody_up(running, caplog, monkeypatch):
    """As on a disk that hangs: what it does not take in time is counted, and the rest is written later."""
    monkeypatch.setattr("rtpproxy.recording.outbox.BACKLOG_BYTES", 1 << 20)
    side = running.record(session_with_ports())
    running.wait_for(lambda: os.readlink(f"/proc/{running.pid}/cwd") == str(running.recordings), "its start")
    os.kill(running.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{running.pid}/stat")
    running.wait_for(lambda: ") T " in stat.read_text(), "the process to stand still")
    for number in range(20_000):
        running.send(side, b"%06d" % number + bytes(1000))
        if number % 100 == 0:
            running.run()
    missing = side.streams[0].missing
    assert 0 < missing < 20_000
    os.kill(running.pid, signal.SIGCONT)
    running.wait_for(lambda: running.process.has_room, "room")
    running.send(side, b"999999")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    numbers = [int(data[:6]) for data in payloads(running.content("call=f.o.rtp"))]
    assert len(numbers) == 20_001 - missing
    assert numbers == [*range(20_000 - missing), 999_999]
    assert f"{missing} lost" in caplog.text


def first_free(process):
    """The number that the next descriptor of a process gets; a limit of that leaves none."""
    taken = {int(name) for name in os.listdir(f"/proc/{process}/fd")}
    return min(set(range(len(taken) + 1)) - taken)


def test_no_descriptor_is_left_for_the_file(running):
    """The command fails, and what is recorded already goes on."""
    side = running.record(session_with_ports(b"one"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free("self"), hard))
    try:
        with pytest.raises(RecordingError, match="Too many open files"):
            running.record(session_with_ports(b"two"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    running.send(side, b"data")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("one=f.o.rtp")) == [b"data"]


def test_the_process_has_no_descriptor_left_for_the_file(running, caplog):
    first = running.record(session_with_ports(b"one"))
    running.wait_for(lambda: os.readlink(f"/proc/{running.pid}/cwd") == str(running.recordings), "its start")
    running.send(first, b"data")
    running.wait_for(lambda: (running.spool / "one=f.o.rtp").stat().st_size, "the first file to be open")
    _, hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (first_free(running.pid), hard))
    second = running.record(session_with_ports(b"two"))
    running.wait_for(lambda: running.ended == [second], "the end of the second recording")
    running.send(first, b"more")
    first.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("one=f.o.rtp")) == [b"data", b"more"]
    assert "failed: Too many open files" in caplog.text


def test_a_directory_that_is_gone(running):
    for path in running.recordings.iterdir():
        path.unlink()
    running.recordings.rmdir()
    with pytest.raises(RecordingError, match="No such file or directory"):
        running.record(session_with_ports())
    running.recordings.mkdir()
    side = running.record(session_with_ports())
    running.send(side, b"data")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("call=f.o.rtp")) == [b"data"]


def test_directories_that_cannot_be_handed_over_at_once(running, monkeypatch):
    """The next recording tries again: without, its files would not be found at their end."""
    running.carrier.ensure()

    def refuse():
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(running.carrier, "tell_directories", refuse)
        for _ in range(2):
            with pytest.raises(RecordingError, match="cannot hand the new directory over: Too many open files"):
                running.record(session_with_ports())
    side = running.record(session_with_ports())
    running.send(side, b"data")
    side.stop(time.monotonic())
    running.wait_until_all_ended()
    assert payloads(running.content("call=f.o.rtp")) == [b"data"]


def test_a_process_that_cannot_be_started(running, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(RecordingError, match="cannot start the process for recordings and copies: No such file"):
        running.record(session_with_ports())
    assert running.names() == []


@pytest.mark.parametrize("with_spool", [False, True])
def test_what_a_killed_relay_left_in_the_spool_is_told(tmp_path, caplog, with_spool):
    with RunningRecorder(tmp_path, with_spool=with_spool) as running:
        running.spool.mkdir(exist_ok=True)
        (running.spool / "left=f.o.rtp").write_bytes(b"")
        (running.spool / "x.wav").write_bytes(b"RIFF")
        running.recorder.start()
        running.wait_for(lambda: "x.wav" in caplog.text, "the report")
        assert running.names() == ["left=f.o.rtp"]
    assert f"{running.spool}/left=f.o.rtp was left by a killed relay, and is finished: 0 packets" in caplog.messages
    assert f"{running.spool}/x.wav was left by a killed relay, and stays there: it is no recording" in caplog.messages


def test_no_process_is_started_before_there_is_something_to_do(spooling):
    spooling.recorder.start()
    assert spooling.process is None


def test_what_the_kernel_teed_and_missed_is_counted_while_it_goes_on(running, caplog):
    """Of five packets that the kernel forwarded, two found no room in the ring."""
    side = running.record(session_with_ports())
    recorded = side.streams[0]
    recorded.tees.append(1)
    absorbed = []
    side.absorb = absorbed.append
    recorded.stream.teeing = Teeing(packets=3, missed_packets=2)
    counts = {
        "files_open": 2,
        "packets_recorded": 3,
        "packets_lost": 2,
        "packets_lost of the stream at port 20002 (call media 1, recording of what the caller sends)": 2,
    }
    assert running.recorder.counts() == counts
    side.stop(time.monotonic())
    assert running.recorder.counts() == counts
    assert len(absorbed) == 2
    running.wait_until_all_ended()
    assert running.recorder.counts() == {"files_open": 0, "packets_recorded": 0, "packets_lost": 2}
    assert "0 packets in call=f.o.rtp, call=f.o.rtcp, 2 lost, among them 2 of the stream at port 20002" in caplog.text


def test_streams_that_lost_most_are_named(running):
    """Whatever their number, the answer stays short."""
    for number in range(MOST_LOSSES + 5):
        (stream, _) = running.record(session_with_ports(b"%d" % number)).streams
        stream.stream.teeing = Teeing(missed_packets=number)
    named = {name: lost for name, lost in running.recorder.counts().items() if " of the stream " in name}
    assert list(named.values()) == list(range(MOST_LOSSES + 4, 4, -1))
