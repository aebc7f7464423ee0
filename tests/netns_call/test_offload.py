"""When the kernel forwards, when it cannot, and what the relay logs about it."""

import itertools
import re
import time
from pathlib import Path

import pytest

from rtpproxy.offload.programs import OTHERS_PER_SECOND
from tests.bpf.maps import ProgramMaps, attached_program
from tests.netns import Topology
from tests.netns_call.call import (
    DEADLINE_S,
    KERNEL,
    TC,
    Call,
    Foreign,
    PhonePort,
    Tap,
    is_attached,
    kernel_only,
    paused,
    rtcp,
    sent_frame,
    verdicts,
)
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

FLOOD = 500


@kernel_only
def test_the_kernel_forwards_while_the_relay_stands_still(call, relay, way):
    call.establish(way)
    with paused(relay):
        for number in range(2, 102):
            call.cross(rtp(number))
            call.cross(rtcp(number), is_rtcp=True)
    call.cross(rtp(102))


@kernel_only
def test_what_the_kernel_forwards_is_counted_exactly(call, relay, way):
    """In `Q` and `I` while it goes on, and by verdict: nothing of it went up."""
    call.establish(way)
    with paused(relay):
        for number in range(2, 52):
            call.cross(rtp(number))
        for number in range(52, 62):
            call.caller.send(rtp(number))
        call.callee.rtp.expect(10)
        for number in range(7):
            call.cross(rtcp(number), is_rtcp=True)
    # The first packet of each of four streams, 50 and 7 both ways, 10 one way.
    quote = call.quote()
    assert (quote["npkts_ina"], quote["npkts_ino"], quote["nrelayed"], quote["ndropped"]) == (61, 51, 112, 0)
    assert relay.ask(f"Q {call.tags}").split()[1:] == ["61", "51", "112", "0"]
    totals = relay.totals()
    assert (totals["packets received"], totals["packets transmitted"]) == (128, 128)
    call.cross(rtp(62))
    assert call.quote()["nrelayed"] == 114
    assert relay.stop() == 0
    counts = verdicts(relay)
    assert (counts["forwarded"], counts["up_no_entry"]) == (126, 4)
    # Before Linux 6.3, nothing tells whether a veth sends redirected frames, so TC does.
    assert counts.keys() <= {"forwarded", "up_no_entry", "up_not_ip", "up_to_tc"}


@kernel_only
def test_userspace_has_nothing_to_do(call, relay, way):
    """The relay's process is not woken for the packets that the kernel forwards."""
    packets = 1000

    def sleeps() -> int:
        status = Path(f"/proc/{relay.process.pid}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[1])

    call.establish(way)
    before = sleeps()
    for number in range(packets // 2):
        call.cross(rtp(2 + number))
    # A few timers a second remain.
    assert sleeps() - before < packets / 2


@kernel_only
@pytest.mark.parametrize("relay_host", ["10.0.1.1", "10.0.3.1"])
def test_a_flood_is_dropped_in_the_kernel(topology, start, way, relay_host):
    """A few a second go up, whichever address of the relay it is sent to."""
    stranger = topology.add_host("stranger")
    relay = start()
    with (
        Call(relay, topology.caller, topology.callee) as call,
        PhonePort(stranger, stranger.ip, 6000) as port,
    ):
        call.establish(way)
        started = time.monotonic()
        with paused(relay):
            for number in range(FLOOD):
                port.send(rtp(number, ssrc=0xBAD), (relay_host, call.caller.to[1]))
            call.cross(rtp(2))
        seconds = time.monotonic() - started
        call.cross(rtp(3))
        assert port.take() == []
    assert relay.stop() == 0
    counts = verdicts(relay)
    up = counts.get("up_other_source", 0) + counts.get("up_other_address", 0)
    assert up <= (2 + seconds) * OTHERS_PER_SECOND, counts
    assert counts.get("dropped_other_source", 0) == FLOOD - up


@kernel_only
def test_packets_that_the_host_routes_are_left_alone(topology, start, way):
    """They may well be to a port number with an entry."""
    stranger = topology.add_host("stranger")
    topology.relay.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    relay = start()
    with Call(relay, topology.caller, topology.callee) as call, PhonePort(stranger, stranger.ip, 6000) as port:
        call.establish(way)
        number = call.caller.to[1]
        sent = [rtp(number, ssrc=0xBAD) for number in range(10 * OTHERS_PER_SECOND)]
        with PhonePort(topology.callee, topology.callee.ip, number) as other_machine:
            for data in sent:
                port.send(data, (topology.callee.ip, number))
            assert other_machine.expect(len(sent)) == [(data, (stranger.ip, 6000)) for data in sent]
        call.cross(rtp(2))


def test_the_kernel_knows_which_addresses_are_the_hosts(topology, start):
    """Those that were there at start, and those that come and go."""
    start()
    program = attached_program(topology.relay, "to-caller")
    assert program is not None
    with ProgramMaps(program) as maps:
        assert all(map(maps.is_ours, ("127.0.0.1", "10.0.1.1", "10.0.2.1")))
        assert not maps.is_ours(topology.caller.ip)
        for action, is_ours in (("add", True), ("del", False)):
            topology.relay.run(["ip", "addr", action, "10.0.9.9/32", "dev", "lo"])
            wait_for(lambda is_ours=is_ours: maps.is_ours("10.0.9.9") is is_ours, DEADLINE_S, f"addr {action}")


def test_interfaces_are_reported_at_start(relay, way):
    said = [line.partition(": ")[2] for line in relay.log.partition("rtpproxy started")[0].splitlines()]
    assert f"media ports 35000-64999 on all local addresses, {'bound' if way.name == 'bound' else 'steered'}" in said
    interfaces = ["lo: userspace (not an Ethernet interface)"]
    tier = "kernel, TC (--offload tc)" if way is TC else "kernel, native XDP"
    interfaces += [f"{name}: {tier}" for name in ("to-caller", "to-callee")]
    if not way.is_kernel:
        interfaces = ["all interfaces: userspace (--offload off)"]
    assert [line for line in said if line.partition(":")[0] in ("lo", "to-caller", "to-callee", "all interfaces")] == (
        interfaces
    )


@pytest.mark.parametrize("options", [("--offload", "off"), ("--ports", "bound", "--offload", "off")])
def test_without_offload_nothing_is_attached(start, topology, options):
    start(*options)
    assert not is_attached(topology, "caller")
    assert not is_attached(topology, "callee")


def test_a_foreign_program_is_left_alone(start, topology):
    """TC forwards what arrives at its interface; it is still there at exit."""
    with Foreign(topology.relay, "to-callee") as foreign:
        relay = start()
        assert re.search(r"to-callee: kernel, TC \(somebody else's XDP program foreign is attached", relay.log)
        assert "to-caller: kernel, native XDP" in relay.log
        with Call(relay, topology.caller, topology.callee) as call:
            call.establish(TC)
            with paused(relay):
                for number in range(2, 20):
                    call.cross(rtp(number))
            assert call.quote()["nrelayed"] == 38
        assert foreign.is_attached()
        assert relay.stop() == 0
        assert foreign.is_attached()
        assert not is_attached(topology, "caller")
        assert relay.forwarded() == 36


def test_a_program_that_replaced_ours_is_left_alone(start, topology):
    relay = start()
    with Foreign(topology.relay, "to-callee") as foreign:
        assert relay.stop() == 0
        assert re.search(r"to-callee: somebody else's XDP program foreign \(id \d+\) took the place of ours", relay.log)
        assert foreign.is_attached()
    assert not is_attached(topology, "caller")


def test_an_interface_is_attached_when_media_leaves_by_it(start, topology):
    """The listen address is on the caller's interface only; the callee reaches it through another."""
    relay = start("-l", "10.0.1.1")
    assert is_attached(topology, "caller")
    assert not is_attached(topology, "callee")
    with Call(relay, topology.caller, topology.callee, relay_host="10.0.1.1") as call:
        call.establish(KERNEL)
        assert is_attached(topology, "callee")
        with paused(relay):
            call.cross(rtp(2))
            call.cross(rtcp(2), is_rtcp=True)
    assert relay.stop() == 0
    assert relay.forwarded() == 4
    assert not is_attached(topology, "callee")


def test_attaching_on_demand_is_reported(start, topology):
    relay = start("-l", "10.0.1.1")
    with Call(relay, topology.caller, topology.callee, relay_host="10.0.1.1") as call:
        call.establish(KERNEL)
    assert "to-callee: kernel, native XDP" in relay.log


def test_only_a_named_interface_is_used(start, topology):
    """The way to the callee takes no redirected frames, so TC sends; what comes from there is not forwarded."""
    relay = start("--interface", "to-caller")
    assert "to-caller: kernel, native XDP" in relay.log
    assert "to-callee" not in relay.log
    with Call(relay, topology.caller, topology.callee) as call:
        call.cross(rtp(1))
        call.wait_offloaded(call.caller.to[1])
        for number in range(2, 10):
            call.cross(rtp(number))
        assert not is_attached(topology, "callee")
        reason = "ingress: nothing is forwarded that arrives via 10.0.2.2 dev to-callee"
        assert f"stream at port {call.callee.to[1]} stays in userspace: {reason}" in relay.log
    assert relay.stop() == 0
    assert relay.forwarded() == 8


def test_named_interfaces_forward(told_senders, start, topology):
    relay = start("--interface", "to-caller", "--interface", "to-callee", "--offload", "xdp")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(KERNEL)
        with paused(relay):
            call.cross(rtp(2))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--interface", "lo"), "lo: userspace (not an Ethernet interface)"),
        (("--interface", "to-caller", "--interface", "lo"), "lo: userspace (not an Ethernet interface)"),
        (("-l", "127.0.0.1"), "lo: userspace (not an Ethernet interface)"),
        (("--interface", "nosuch"), "there is no such interface"),
    ],
)
def test_offload_xdp_refuses_where_it_cannot_be_had(topology, tmp_path, options, reason):
    relay = RunningRelay(tmp_path, "--offload", "xdp", *options, host=topology.relay)
    with pytest.raises(AssertionError):
        relay.start()
    assert relay.process.wait() == 1
    assert reason in relay.log.splitlines()[-1]
    assert not is_attached(topology, "caller")
    assert not relay.socket_path.exists()
    relay.__exit__()


def test_offload_xdp_refuses_beside_a_foreign_program(topology, tmp_path):
    with Foreign(topology.relay, "to-callee") as foreign:
        relay = RunningRelay(tmp_path, "--offload", "xdp", host=topology.relay)
        with pytest.raises(AssertionError):
            relay.start()
        assert "somebody else's XDP program foreign" in relay.log.splitlines()[-1]
        assert foreign.is_attached()
        assert not is_attached(topology, "caller")
        relay.__exit__()


def test_both_phones_behind_one_interface(relay, topology, way):
    """Frames go back out of the interface that they came in by."""
    topology.caller.run(["ip", "addr", "add", "10.0.1.3/24", "dev", "caller"])
    with Call(relay, topology.caller, topology.caller, callee_at=("10.0.1.3", 5000)) as call:
        call.establish(way)
        for number in range(2, 12):
            call.cross(rtp(number))
        if way.is_kernel:
            with paused(relay):
                call.cross(rtp(12))
    assert relay.stop() == 0
    assert relay.forwarded() == (22 if way.is_kernel else 0)


def test_a_call_to_oneself(relay, topology, way):
    """Two ports of one phone, at one address."""
    with Call(relay, topology.caller, topology.caller) as call:
        call.establish(way)
        call.cross(rtp(2))


def test_a_new_interface_is_attached(start, topology):
    """A host that joins after the relay started."""
    relay = start()
    late = topology.add_host("late")
    wait_for(lambda: is_attached(topology, "late"), DEADLINE_S, "the new interface to be attached")
    with Call(relay, topology.caller, late) as call:
        call.establish(KERNEL)
        with paused(relay):
            call.cross(rtp(2))


def test_two_topologies_do_not_disturb_each_other(relay, topology, way, tmp_path_factory):
    """The same addresses in other namespaces are other addresses."""
    with (
        Topology() as other,
        RunningRelay(tmp_path_factory.mktemp("other"), *way.options, host=other.relay) as other_relay,
        Call(relay, topology.caller, topology.callee) as call,
        Call(other_relay, other.caller, other.callee) as other_call,
    ):
        call.establish(way)
        other_call.establish(way)
        assert other_relay.stop() == 0
        call.cross(rtp(2))


def test_short_packets_are_sent_twice(start, topology, way):
    """Userspace does that, and the kernel leaves them to it; the others are forwarded."""
    relay = start(*way.options, "-2")
    with Call(relay, topology.caller, topology.callee) as call:
        call.cross(rtp(1))
        if way.is_kernel:
            call.wait_offloaded(*call.rtp_ports)
        short, long = rtp(2, payload=bytes(115)), rtp(3, payload=bytes(116))
        call.caller.send(short)
        call.caller.send(long)
        assert sorted(call.callee.rtp.expect(3)) == sorted([(short, call.callee.to)] * 2 + [(long, call.callee.to)])
    if way.is_kernel:
        assert relay.stop() == 0
        counted = verdicts(relay)
        assert counted["up_doubled"] >= 1
        assert counted["forwarded"] >= 1


def by_the_other_interface(call, topology, data):
    """A packet of the caller, as it looks when it comes by the callee's interface."""
    return sent_frame(topology.callee, call._caller_at, call.caller.to, data)


@kernel_only
def test_rp_filter_holds_in_the_kernel(call, relay, topology, way):
    """Where it is strict, packets come by the interface of the route back; it may be changed while the relay runs."""
    call.establish(way)
    number = itertools.count(2)
    topology.relay.run(["sysctl", "-w", "net.ipv4.conf.all.rp_filter=1"])
    with Tap(topology.callee) as tap:

        def is_refused():
            """Send one by the other interface and then one by the right one; is only the latter forwarded?"""
            wrong, right = rtp(next(number)), rtp(next(number))
            tap.send(by_the_other_interface(call, topology, wrong))
            call.caller.send(right)
            got = call.callee.rtp.expect()
            while (right, call.callee.to) not in got:
                got += call.callee.rtp.expect()
            return got == [(right, call.callee.to)]

        wait_for(is_refused, DEADLINE_S, "rp_filter to be followed")
        topology.relay.run(["sysctl", "-w", "net.ipv4.conf.all.rp_filter=2"])
        wait_for(lambda: not is_refused(), DEADLINE_S, "rp_filter to be followed")
    assert relay.stop() == 0
    assert verdicts(relay)["up_other_interface"] > 0
