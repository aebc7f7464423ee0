"""What a killed relay left does no harm to the calls of any relay that starts afterwards."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.netns_call.call import BOUND, KERNEL, STEERED, TC, Call, is_attached, kernel_only, paused, xdp_of
from tests.offload.unprivileged import NOBODY, with_capabilities
from tests.running import RunningRelay, rtp

PORTS = ("-m", "35000", "-M", "35004")
"""Room for one call, so that the next one has the same ports."""
NEW_PHONES = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
ASKED_FOR = ("bpf", "perfmon", "net_admin", "net_raw")
"""The capabilities that the relay asks for where it has none."""
NOTES = Path("/run/rtpproxy")
NAMES = ("to-caller", "to-callee")


@pytest.fixture(autouse=True)
def notes():
    """Remove notes of namespaces that are gone."""
    yield
    for note in NOTES.iterdir() if NOTES.exists() else ():
        note.unlink()


@pytest.fixture
def killed(start, topology, way):
    """A relay that was killed during a call that the kernel forwards."""
    relay = start(*way.options, *PORTS, name="killed")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
    relay.kill()
    return relay


@pytest.fixture
def directory():
    """A directory that anybody may write to, which the tests' own are not."""
    path = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def notes_of(*relays):
    return [note.name for relay in relays for note in NOTES.glob(f"{relay.process.pid}-*")]


def has_filter(topology):
    shown = [topology.relay.run(["tc", "filter", "show", "dev", name, "ingress"], check=False) for name in NAMES]
    return any("rtpp_" in one.stdout for one in shown)


def assert_nothing_is_lost(relay, topology, way):
    """Another call on the same ports gets every packet."""
    with Call(relay, topology.caller, topology.callee, "c2", **NEW_PHONES) as call:
        assert sorted(call.rtp_ports) == [35000, 35002]
        call.establish(way)
        for number in range(2, 102):
            call.cross(rtp(number))


@kernel_only
@pytest.mark.parametrize("then", [KERNEL, TC, STEERED, BOUND], ids=lambda then: then.name)
def test_start_with_another_control_socket(killed, start, topology, way, then):
    relay = start(*then.options, *PORTS, name="successor")
    for interface in NAMES:
        assert f"{interface}: detached what a killed predecessor left" in relay.log
        assert f"{interface}: userspace" not in relay.log
    assert_nothing_is_lost(relay, topology, then)
    assert relay.stop() == 0
    assert [xdp_of(topology.relay, name) for name in NAMES] == ["", ""]
    assert not has_filter(topology)
    assert topology.relay.run(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"]).stdout == "\n"
    assert notes_of(killed, relay) == []


@kernel_only
@pytest.mark.parametrize("uid", [0, NOBODY], ids=["root", "nobody"])
def test_start_with_the_four_capabilities(killed, directory, topology, way, uid):
    """Names of programs are hidden from such a relay. Root's notes it may read, as anybody may."""
    prefix = with_capabilities(*ASKED_FOR, uid=uid)
    with RunningRelay(directory, *way.options, *PORTS, host=topology.relay, prefix=prefix) as relay:
        for interface in NAMES:
            assert f"{interface}: detached what a killed predecessor left" in relay.log
        assert_nothing_is_lost(relay, topology, way)
        assert relay.stop() == 0
    assert [xdp_of(topology.relay, name) for name in NAMES] == ["", ""]
    assert not has_filter(topology)
    assert ("no note of this relay is kept (/run/rtpproxy: Permission denied)" in relay.log) == (uid == NOBODY)


@kernel_only
def test_relay_without_privilege_says_what_takes_its_packets(killed, directory, topology, way):
    prefix = with_capabilities()
    with RunningRelay(directory, *BOUND.options, *PORTS, host=topology.relay, prefix=prefix) as relay:
        assert relay.log.count("a program that a killed predecessor left stays, and takes packets of calls: ") >= 1
        assert relay.ask("V") == "20040107"
        assert relay.stop() == 0
    assert is_attached(topology, "caller") == (way is KERNEL)
    # Its note still tells the next start.
    assert len(notes_of(killed)) == 1


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_living_relay_is_left_alone(start, topology, way):
    """It lives beside one that was killed, in the same network namespace, and is stopped when a third one starts."""
    living = start(*PORTS, name="living")
    killed = start("--offload", "tc", "-m", "36000", "-M", "36004", name="killed")
    with Call(living, topology.caller, topology.callee) as call:
        call.establish(way)
        with Call(killed, topology.caller, topology.callee, "c2", **NEW_PHONES) as other:
            other.establish(TC)
        killed.kill()
        with paused(living):
            third = start("-m", "36000", "-M", "36004", name="third")
            assert f"{NAMES[0]}: detached what a killed predecessor left" in third.log
            assert f"{NAMES[0]}: kernel, TC (another rtpproxy instance has it" in third.log
            for number in range(2, 12):
                call.cross(rtp(number))
        assert third.stop() == 0
        with paused(living):
            call.cross(rtp(12))
    assert living.stop() == 0
    assert notes_of(living, killed, third) == []


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_relay_of_another_namespace_is_told_apart(killed, start, topology, way):
    """It shares the directory of notes. Nothing of the killed one is there; that one's note stays for its successor."""
    elsewhere = start(*BOUND.options, *PORTS, host=topology.caller, name="elsewhere")
    assert "killed predecessor" not in elsewhere.log
    assert elsewhere.stop() == 0
    assert is_attached(topology, "caller")
    relay = start(*PORTS, name="successor")
    assert f"{NAMES[0]}: detached what a killed predecessor left" in relay.log
    assert relay.stop() == 0
    assert notes_of(killed, relay) == []


READ_ONLY = 'mount --bind /run /run && mount -o remount,ro,bind /run && exec "$@"'


@pytest.mark.parametrize("way", [KERNEL, BOUND], ids=[KERNEL.name, BOUND.name], indirect=True)
def test_read_only_run_is_one_line_and_no_more(topology, tmp_path, way):
    with contextlib.suppress(FileNotFoundError):
        NOTES.rmdir()
    prefix = ("unshare", "--mount", "sh", "-c", READ_ONLY, "sh")
    with RunningRelay(tmp_path, *way.options, *PORTS, host=topology.relay, prefix=prefix) as relay:
        level = "WARN" if way is KERNEL else "INFO"
        lines = [line for line in relay.log.splitlines() if "/run/rtpproxy" in line]
        assert len(lines) == 1
        assert lines[0].startswith(f"{level}:")
        assert "no note of this relay is kept (/run/rtpproxy: Read-only file system): " in lines[0]
        assert_nothing_is_lost(relay, topology, way)
        assert relay.stop() == 0
    assert [xdp_of(topology.relay, name) for name in NAMES] == ["", ""]
