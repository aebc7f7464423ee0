"""Call records (`--cdr`), end to end: a session's line is the same in every tier, and no line is lost or cut."""

import contextlib
import csv
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.disks import disk as new_disk
from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, Call, kernel_only, rtcp
from tests.netns_call.test_statistics import send
from tests.running import PROGRAM, rtp
from tests.waiting import wait_for

NOBODY = pwd.getpwnam("nobody")
MILLISECOND = 0.001
TIMES = "setup_ts", "first_rtp_ts_ina", "last_rtp_ts_ina", "first_rtp_ts_ino", "last_rtp_ts_ino", "teardown_ts"
JITTER = [f"rtpa_jitter_{kind}_{side}" for kind in ("last", "max", "avg") for side in ("ino", "ina")]
two_ways = pytest.mark.parametrize("way", [KERNEL, BOUND], ids=lambda way: way.name, indirect=True)


def records(path):
    """The lines of a file, by column. The file must be whole."""
    text = path.read_text()
    assert text.endswith("\n")
    header, *lines = text.splitlines()
    assert header not in lines
    return list(csv.DictReader([header, *lines], strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.csv"


@pytest.fixture
def relay(start, way, path):
    return start(*way.options, "--cdr", str(path))


def wait_for_records(path, count):
    """Wait until a file has that many lines under its header."""
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") == count + 1, DEADLINE_S, f"{count} records")
    return records(path)


def test_a_line_is_the_same_in_every_tier(call, way, path, topology):
    began = time.time()
    call.establish(way)
    sent = time.time()
    send(
        call,
        rtp(2),
        rtp(5),
        rtp(5),
        rtp(4),
        b"not RTP",
        rtp(9, ssrc=5),
        rtp(10, ssrc=5)[:1] + b"\x65" + rtp(10, ssrc=5)[2:],
    )
    call.callee.send(rtp(4))
    assert call.caller.rtp.expect() == [(rtp(4), call.caller.to)]
    call.caller.send_rtcp(rtcp(2))
    assert call.callee.rtcp.expect() == [(rtcp(2), call.callee.to_rtcp)]
    ended = time.time()
    measured = {
        side: call.relay.ask(f"Q {call.name} {tags} rtpa_jlast rtpa_jmax rtpa_javg").split()
        for side, tags in (("ina", "f t"), ("ino", "t f"))
    }
    assert call.relay.ask(f"D {call.tags}") == "0"
    (record,) = wait_for_records(path, 1)
    caller, callee = topology.caller.ip, topology.callee.ip
    times = {name: float(record.pop(name)) for name in TIMES}
    assert {name: record.pop(name) for name in JITTER} == {
        f"rtpa_jitter_{kind}_{side}": values[number]
        for side, values in measured.items()
        for number, kind in enumerate(("last", "max", "avg"))
    }
    assert record == {
        **dict(rec_ver="1.2", rtpp_node_id=os.uname().nodename, rtpp_pid=str(call.relay.process.pid), sess_uid="0"),
        **dict(call_id="c1", from_tag="f", rtp_npkts_ina="8", rtp_npkts_ino="2", rtp_nrelayed="10", rtp_ndropped="0"),
        **dict(rtcp_npkts_ina="2", rtcp_npkts_ino="1", rtcp_nrelayed="3", rtcp_ndropped="0"),
        **dict(rtpa_nsent_ino="4", rtpa_nrcvd_ino="2", rtpa_ndups_ino="0", rtpa_nlost_ino="2", rtpa_perrs_ino="0"),
        **dict(rtpa_ssrc_last_ino="0x00001234", rtpa_ssrc_cnt_ino="1", rtpa_pt_last_ino="0"),
        **dict(rtpa_nsent_ina="7", rtpa_nrcvd_ina="6", rtpa_ndups_ina="1", rtpa_nlost_ina="1", rtpa_perrs_ina="1"),
        **dict(rtpa_ssrc_last_ina="0x00000005", rtpa_ssrc_cnt_ina="2", rtpa_pt_last_ina="101"),
        **dict(rtpp_rtp_rmt_ip_o=callee, rtpp_rtp_rmt_pt_o="5000", rtpp_rtp_rmt_ip_a=caller, rtpp_rtp_rmt_pt_a="4000"),
        **dict(rtpp_rtcp_rmt_ip_o=callee, rtpp_rtcp_rmt_pt_o="5001", rtpp_rtcp_rmt_ip_a=caller),
        **dict(rtpp_rtcp_rmt_pt_a="4001", rtpp_hld_sts_o="f", rtpp_hld_sts_a="f", rtpp_hld_cnt_o="0"),
        "rtpp_hld_cnt_a": "0",
    }
    assert times["setup_ts"] <= times["first_rtp_ts_ina"] <= times["first_rtp_ts_ino"] <= times["last_rtp_ts_ina"]
    for first in ("first_rtp_ts_ina", "first_rtp_ts_ino"):
        assert began - MILLISECOND <= times[first] <= sent + MILLISECOND
    for last in ("last_rtp_ts_ina", "last_rtp_ts_ino"):
        assert sent - MILLISECOND <= times[last] <= ended + MILLISECOND
    assert times["last_rtp_ts_ino"] <= times["teardown_ts"]
    if way.is_kernel:
        assert call.relay.stop() == 0
        assert call.relay.forwarded() == 9


@kernel_only
def test_the_first_packet_is_one_that_the_kernel_forwarded(start, way, topology, path):
    """So it is in asymmetric mode, where nothing has to be learned."""
    caller, callee, host = topology.caller, topology.callee, topology.caller.gateway.ip
    relay = start(*way.options, "-l", host, "--force_asymmetric", "--cdr", str(path))
    with Call(relay, caller, callee, relay_host=host) as call:
        call.wait_offloaded(*call.rtp_ports)
        before = time.time()
        send(call, rtp(1))
        between = time.time()
        send(call, rtp(2))
        after = time.time()
        relay.ask("D c1 f t")
    (record,) = wait_for_records(path, 1)
    assert before - MILLISECOND <= float(record["first_rtp_ts_ina"]) <= between + MILLISECOND
    assert between - MILLISECOND <= float(record["last_rtp_ts_ina"]) <= after + MILLISECOND
    assert (record["first_rtp_ts_ino"], record["rtpa_pt_last_ino"]) == ("0.000000", "-1")
    assert (record["rtp_npkts_ina"], record["rtpa_ssrc_cnt_ina"], record["rtpa_pt_last_ina"]) == ("2", "1", "0")
    assert relay.stop() == 0
    assert relay.forwarded() == 2


def test_every_end_of_a_session_is_a_line(call, way, path):
    """Deleted, idle, all deleted, and those that a relay still has when it stops, with what the kernel counted."""
    relay = call.relay
    relay.ask("U deleted 192.0.2.1 4000 f")
    relay.ask("D deleted f")
    relay.ask("U idle 192.0.2.1 4000 f && S ttl=1")
    wait_for_records(path, 2)
    call.establish(way)
    send(call, rtp(2), rtp(3))
    with_packets = call.name
    assert relay.stop() == 0
    found = {record["call_id"]: record for record in records(path)}
    assert list(found) == ["deleted", "idle", with_packets]
    assert found[with_packets]["rtp_npkts_ina"] == "3"
    relay.start()
    for name in ("one", "two"):
        relay.ask(f"U {name} 192.0.2.1 4000 f")
    relay.ask("X")
    assert [record["call_id"] for record in wait_for_records(path, 5)[3:]] == ["one", "two"]


def test_names_that_would_break_the_file(start, path, tmp_path):
    relay = start(*BOUND.options, "--cdr", str(path))
    names = ["a,b", '"a', "a\v\f\x1bb", "\xff\xfe", "%2C", "x" * 3000, "=1+1"]
    for name in names:
        relay.ask(f"U {name} 192.0.2.1 4000 {name}")
    relay.ask("X")
    found = [(record["call_id"], record["from_tag"]) for record in wait_for_records(path, len(names))]
    shown = ["a%2Cb", "%22a", "a%0B%0C%1Bb", "%C3%BF%C3%BE", "%2C", "x" * 3000, "=1+1"]
    assert found == [(name, name) for name in shown]


def test_a_file_that_is_moved_away_under_load(start, path, tmp_path):
    """By logrotate without any signal: no call is missing or told twice, and each file has one header."""
    relay = start(*BOUND.options, "--cdr", str(path))
    files = [path]
    for number in range(300):
        for part in "abc":
            relay.ask(f"U {number}{part} 192.0.2.1 4000 f && D")
        if number % 10 == 0:
            wait_for(path.exists, DEADLINE_S, "a new file")
            files.append(tmp_path / f"calls.{number}.csv")
            path.rename(files[-1])
    assert relay.stop() == 0
    found = [record["call_id"] for one in files for record in records(one)]
    assert sorted(found) == sorted(f"{number}{part}" for number in range(300) for part in "abc")


def test_two_relays_with_one_file(start, path):
    relays = [start(*BOUND.options, "--cdr", str(path), *ports(number), name=name) for number, name in enumerate("ab")]
    for number in range(200):
        for relay, name in zip(relays, "ab", strict=True):
            relay.ask(f"U {name}{number} 192.0.2.1 4000 f && D")
    assert [relay.stop() for relay in relays] == [0, 0]
    found = [record["call_id"] for record in records(path)]
    assert sorted(found) == sorted(f"{name}{number}" for name in "ab" for number in range(200))


def ports(number):
    return "-m", str(20000 + 2000 * number), "-M", str(21000 + 2000 * number)


def test_a_disk_that_hangs_holds_no_call_up(start, tmp_path):
    with new_disk(tmp_path) as disk:
        path = disk.path / "calls.csv"
        relay = start(*BOUND.options, "--cdr", str(path))
        with disk.frozen():
            for number in range(300):
                assert relay.ask(f"U {number} 192.0.2.1 4000 f && D").isdigit()
        assert [record["call_id"] for record in wait_for_records(path, 300)] == [str(number) for number in range(300)]
        with disk.frozen():
            relay.ask("U last 192.0.2.1 4000 f && D")
            relay.process.send_signal(signal.SIGTERM)
            gives_up = f"{path}: the relay stops, and 1 lines are not written"
            wait_for(lambda: gives_up in relay.log, DEADLINE_S, "the relay to give up")
            wait_for(lambda: not relay.socket_path.exists(), DEADLINE_S, "its socket to be gone")
        assert relay.process.wait(DEADLINE_S) == 0


def test_a_disk_that_is_full_gets_no_half_line(start, tmp_path):
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "calls", where], check=True)
    try:
        path, ballast = where / "calls.csv", where / "ballast"
        relay = start(*BOUND.options, "--cdr", str(path))
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(60):
            assert relay.ask(f"U {number} 192.0.2.1 4000 f && D").isdigit()
        wait_for(
            lambda: f"{path}: not all could be written, as on a full disk; " in relay.log,
            DEADLINE_S,
            "the log to tell it",
        )
        assert 0 < len(records(path)) < 60
        ballast.unlink()
        found = [record["call_id"] for record in wait_for_records(path, 60)]
        assert found == [str(number) for number in range(60)]
        assert relay.stop() == 0
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.fixture
def open_directory():
    """A directory that anybody may reach, which the tests' own are not, and that belongs to nobody."""
    directory = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@two_ways
def test_as_an_ordinary_user(start, way, open_directory):
    path = open_directory / "calls.csv"
    relay = start(*way.options, "-u", "nobody", "--cdr", str(path), "-m", "35000", "-M", "35999")
    assert path.stat().st_uid == NOBODY.pw_uid
    relay.ask("U one 192.0.2.1 4000 f && D")
    wait_for_records(path, 1)
    path.rename(open_directory / "moved")
    relay.ask("U two 192.0.2.1 4000 f && D")
    assert wait_for_records(path, 1)[0]["call_id"] == "two"
    assert path.stat().st_uid == NOBODY.pw_uid
    for task in Path(f"/proc/{relay.process.pid}/task").iterdir():
        assert "NoNewPrivs:\t1\n" in (task / "status").read_text()


def test_as_the_module_of_a_configuration(start, tmp_path):
    """The file is where the relay was started, and the module has a number for commands, though it takes none."""
    configuration = tmp_path / "modules.conf"
    configuration.write_text("modules {\n  acct_csv { load = /usr/lib/rtpproxy/rtpp_acct_csv.so }\n}\n")
    relay = start(*BOUND.options, "--config", str(configuration))
    for command in ("M1 x", "M1:0 x", "M1:2 x", "M2:1 x", "M3:1 x", "M9:1 x", "M1:x"):
        assert relay.ask(f"U call 192.0.2.1 4000 f && {command}") == "E3"
    assert relay.totals()["sessions created"] == 0
    assert relay.ask("U call 192.0.2.1 4000 f && M1:1 x").endswith(" && -1")
    assert relay.stop() == 0
    assert [record["call_id"] for record in records(tmp_path / "rtpproxy_acct.csv")] == ["call"]


def test_a_file_of_something_else_prevents_the_start(tmp_path):
    path = tmp_path / "precious"
    path.write_text("something else\n")
    command = [PROGRAM, "-f", "-F", *BOUND.options, "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid"]
    done = subprocess.run([*command, "--cdr", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"rtpproxy: {path}: it exists, and does not begin with the header of these lines; move it away\n",
    )
    assert path.read_text() == "something else\n"
