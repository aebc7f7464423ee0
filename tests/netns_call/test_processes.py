"""Nothing is left in the namespace of a relay that ends, and instances respect each other."""

import signal
from pathlib import Path

import pytest

from tests.netns_call.call import (
    DEADLINE_S,
    KERNEL,
    TC,
    Call,
    PhonePort,
    is_attached,
    kernel_only,
    paused,
    rtcp,
    xdp_of,
)
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

NOTES = Path("/run/rtpproxy")


def notes_of(relay):
    return list(NOTES.glob(f"{relay.process.pid}-*"))


def reserved_ports(topology):
    return topology.relay.run(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"]).stdout.strip()


def has_clsact(topology):
    return "clsact" in topology.relay.run(["tc", "qdisc", "show"]).stdout


def assert_nothing_is_left(topology, relay):
    assert not has_clsact(topology)
    for interface in ("lo", "to-caller", "to-callee"):
        assert xdp_of(topology.relay, interface) == ""
    assert reserved_ports(topology) == ""
    assert not relay.socket_path.exists()
    assert not relay.pid_path.exists()
    assert notes_of(relay) == []


def assert_port_is_ordinary(topology, port):
    """A socket that binds the port receives what is sent to it: nothing steers it elsewhere."""
    with (
        PhonePort(topology.relay, "0.0.0.0", port) as owner,
        PhonePort(topology.caller, "10.0.1.2", 4444) as sender,
    ):
        sender.send(b"for whoever binds", ("10.0.1.1", port))
        assert owner.expect() == [(b"for whoever binds", ("10.0.1.2", 4444))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_at_exit(call, relay, topology, way, number):
    call.establish(way)
    assert reserved_ports(topology) == ("" if way.name == "bound" else "35000-64999")
    assert relay.pid_path.read_text() == f"{relay.process.pid}\n"
    assert is_attached(topology, "caller") == (way is KERNEL)
    assert has_clsact(topology) == (way is TC or "TC behind XDP" in relay.log)
    relay.process.send_signal(number)
    assert relay.process.wait(DEADLINE_S) == 0
    assert_nothing_is_left(topology, relay)
    assert_port_is_ordinary(topology, call.caller.to[1])
    call.callee.rtp.expect_refusal(rtp(2), call.callee.to)


def test_reservations_of_others_stay(start, topology):
    topology.relay.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=34990-35010,50000"])
    relay = start()
    assert reserved_ports(topology) == "34990-64999"
    assert relay.stop() == 0
    assert reserved_ports(topology) == "34990-35010,50000"


def test_an_exit_during_traffic_leaves_nothing(call, relay, topology, way):
    call.establish(way)
    relay.process.send_signal(signal.SIGTERM)

    def send_until_it_ended():
        call.caller.send(rtp(2))
        call.callee.send(rtp(2))
        return relay.process.poll() is not None

    wait_for(send_until_it_ended, DEADLINE_S, "the relay to end")
    assert relay.process.returncode == 0
    assert_nothing_is_left(topology, relay)


@kernel_only
def test_the_kernel_serves_on_after_a_kill_until_the_successor_clears(call, relay, topology, way):
    call.establish(way)
    relay.kill()
    for number in range(2, 52):
        call.cross(rtp(number))
        call.cross(rtcp(number), is_rtcp=True)
    assert relay.socket_path.exists()
    assert reserved_ports(topology) == "35000-64999"
    relay.start()
    for interface in ("to-caller", "to-callee"):
        assert f"{interface}: detached what a killed predecessor left" in relay.log
        assert relay.log.count(f"{interface}: kernel, ") == 2
    assert relay.ask(f"Q {call.tags}") == "E50"
    call.caller.rtp.expect_refusal(rtp(60), call.caller.to)
    at = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
    with Call(relay, topology.caller, topology.callee, "c2", **at) as new_call:
        new_call.establish(way)
        with paused(relay):
            new_call.cross(rtp(2))
    assert relay.stop() == 0
    assert_nothing_is_left(topology, relay)


def test_after_a_kill_in_userspace_the_successor_starts(call, relay, topology, way):
    call.establish(way)
    relay.kill()
    relay.start()
    at = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
    with Call(relay, topology.caller, topology.callee, "c2", **at) as new_call:
        new_call.establish(way)
    assert relay.stop() == 0
    assert_nothing_is_left(topology, relay)


def test_the_same_instance_twice_is_refused(call, relay, topology, way, tmp_path):
    call.establish(way)
    second = RunningRelay(tmp_path, *way.options, host=topology.relay)
    second.log_path = tmp_path / "second.log"
    with pytest.raises(AssertionError):
        second.start()
    assert second.process.wait(DEADLINE_S) == 1
    assert str(relay.socket_path) in second.log.splitlines()[-1]
    assert "Traceback" not in second.log
    # The first is undisturbed, in everything that the second might have cleaned up.
    assert relay.pid_path.read_text() == f"{relay.process.pid}\n"
    call.cross(rtp(2))
    if way.is_kernel:
        with paused(relay):
            call.cross(rtp(3))
            call.cross(rtcp(3), is_rtcp=True)
    assert reserved_ports(topology) == ("" if way.name == "bound" else "35000-64999")
    at = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
    with Call(relay, topology.caller, topology.callee, "c2", **at) as new_call:
        new_call.establish(way)
    assert relay.stop() == 0
    assert_nothing_is_left(topology, relay)


def test_two_instances_side_by_side(start, topology):
    """The first has XDP; the second works by TC and says so. Each ends by itself."""
    first = start("-m", "35000", "-M", "44999", name="first")
    second = start("-m", "45000", "-M", "54999", name="second")
    for interface in ("to-caller", "to-callee"):
        assert f"{interface}: kernel, native XDP" in first.log
        assert f"{interface}: kernel, TC (another rtpproxy instance has it: XDP program rtpp_x_" in second.log
    assert reserved_ports(topology) == "35000-54999"
    at = {"caller_at": ("10.0.1.2", 4010), "callee_at": ("10.0.2.2", 5010)}
    with (
        Call(first, topology.caller, topology.callee) as call,
        Call(second, topology.caller, topology.callee, **at) as other_call,
    ):
        call.establish(KERNEL)
        other_call.establish(TC)
        for number in range(2, 52):
            call.cross(rtp(number))
            other_call.cross(rtp(number))
        with paused(first), paused(second):
            call.cross(rtp(52))
        assert first.stop() == 0
        assert reserved_ports(topology) == "45000-54999"
        other_call.cross(rtp(53))
        call.caller.rtp.expect_refusal(rtp(53), call.caller.to)
    assert second.stop() == 0
    assert second.forwarded() >= 102
    assert first.forwarded() == 102
    for relay in (first, second):
        assert_nothing_is_left(topology, relay)


def test_an_instance_may_not_take_ports_of_another(start, topology, tmp_path):
    first = start(name="first")
    second = RunningRelay(tmp_path, "-m", "60000", host=topology.relay, name="second")
    with pytest.raises(AssertionError):
        second.start()
    assert second.process.wait(DEADLINE_S) == 1
    assert f"overlap 35000-64999 of the rtpproxy that runs as process {first.process.pid}" in second.log
    assert not second.socket_path.exists()
    assert is_attached(topology, "caller")
    assert reserved_ports(topology) == "35000-64999"


def test_notes_are_removed(start):
    relay = start()
    assert NOTES.stat().st_mode & 0o777 == 0o755
    (note,) = notes_of(relay)
    assert note.stat().st_mode & 0o777 == 0o644
    assert relay.stop() == 0
    assert not note.exists()


HANG_ONCE = """
import os, signal, sys
try:
    os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
    signal.pause()
except FileExistsError:
    sys.path.remove({directory!r})
    del sys.modules["bcc"]
    import bcc
"""
"""In place of bcc: does nothing for ever at its first use, and is bcc at the second."""
NOTHING_KEPT = 'mount -t tmpfs none /var/cache && exec "$0" "$@"'


def test_a_compiler_that_hangs_once_does_not_mean_userspace(topology, tmp_path):
    """It is given up after half a minute, and another one works."""
    package = tmp_path / "shadow" / "bcc"
    package.mkdir(parents=True)
    text = HANG_ONCE.format(mark=str(tmp_path / "first"), directory=str(package.parent))
    (package / "__init__.py").write_text(text)
    with RunningRelay(
        tmp_path,
        host=topology.relay,
        prefix=("unshare", "--mount", "sh", "-c", NOTHING_KEPT),
        environment={"PYTHONPATH": str(package.parent)},
    ) as relay:
        why = "the BPF programs cannot be compiled: the compiler does nothing; trying again (2 of 3)"
        assert [line.split(": ", 1)[1] for line in relay.log.splitlines() if line.startswith("WARN:")] == [why]
        with Call(relay, topology.caller, topology.callee) as call:
            call.establish(KERNEL)
        assert relay.stop() == 0
