"""What the relay says of its tiers while somebody else changes what is attached to its interfaces."""

import contextlib
import itertools
import os
import re
import resource
import socket
from pathlib import Path

import pytest

from rtpproxy.offload.forwarder import COMES_UP
from rtpproxy.offload.patience import TRIES
from tests.netns import Topology, tap
from tests.netns_call.call import (
    DEADLINE_S,
    KERNEL,
    TC,
    Call,
    Foreign,
    PhonePort,
    ip,
    kernel_only,
    paused,
    rtcp,
    xdp_of,
)
from tests.netns_call.traffic import Traffic, both_ways, in_the_kernel_again
from tests.plain_programs import filter_in_front, require_tcx, tcx_in_front
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

VETH_RING_FRAMES = 256
OPTIONS_INTERVAL_S = 1 / 400
"""Of packets with IP options, of which a port may have 1,000 a second (rtpproxy/offload/programs.py)."""

by_xdp = pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
by_tc = pytest.mark.parametrize("way", [TC], ids=[TC.name], indirect=True)


def streams(relay):
    """What `It` says of streams, by tier and by reason."""
    lines = (line.rpartition(": ") for line in relay.ask("It").splitlines())
    return {name: int(count) for name, _, count in lines if name.startswith(("streams by", "userspace, "))}


def becomes(relay, expected):
    """Wait until `It` says so."""
    wait_for(lambda: streams(relay) == expected, DEADLINE_S, f"{expected} of {relay.log}")


def warnings(relay):
    """The lines at WARN, without level and place."""
    return [line.split(": ", 1)[1] for line in relay.log.splitlines() if line.startswith("WARN:")]


@pytest.fixture
def traffic(call, way):
    """Packets both ways all the time, of a call in the kernel; in the end all are counted, and none was doubled.

    Not all arrive: a veth drops what is in its rings when an XDP program comes or goes, and every interface what it
    sends while a clsact goes.
    """
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(100)
        yield traffic
        traffic.stop_sending()
    for stream in streams:
        assert not stream.doubled
    # The first packets were those of `establish`.
    sent = sum(stream.sent for stream in streams) + 2
    wait_for(lambda: call.quote()["nrelayed"] == sent, DEADLINE_S, f"{sent} packets to be counted")
    assert call.quote()["ndropped"] == 0


@by_xdp
def test_program_that_somebody_took_off_is_attached_again(call, way, traffic, topology):
    relay = call.relay
    ip(topology.relay, "link set to-caller xdp off")
    wait_for(lambda: "rtpp_x_" in xdp_of(topology.relay, "to-caller"), DEADLINE_S, "the program")
    in_the_kernel_again(call, way, traffic)
    assert streams(relay) == {"streams by XDP": 4, "streams by userspace": 0}
    assert warnings(relay) == ["to-caller: somebody took our XDP program off; attached again"]


@by_xdp
def test_somebody_who_insists_gets_his_will(call, way, traffic, topology):
    relay = call.relay
    for time in range(TRIES):
        ip(topology.relay, "link set to-caller xdp off")
        wait_for(lambda time=time: relay.log.count("attached again") == time + 1, DEADLINE_S, "the program")
    assert len(warnings(relay)) == 1
    ip(topology.relay, "link set to-caller xdp off")
    # From the caller by TC, from the callee by XDP, with TC behind it, because to-caller takes no redirected frames.
    becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
    in_the_kernel_again(call, way, traffic)
    (_, told) = warnings(relay)
    assert re.fullmatch(
        r"to-caller: somebody took our XDP program off; to-caller: kernel, TC \(somebody took our XDP program off "
        r"again and again; next try in 600 s\)",
        told,
    )
    assert not xdp_of(topology.relay, "to-caller")


@by_xdp
def test_program_in_the_place_of_ours(call, way, traffic, topology):
    """It is left alone, TC serves behind it; and once it is gone, ours comes back."""
    relay = call.relay
    with Foreign(topology.relay, "to-caller") as foreign:
        becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
        in_the_kernel_again(call, way, traffic)
        assert foreign.is_attached()
        (told,) = warnings(relay)
        assert re.match(
            r"to-caller: somebody else's XDP program foreign \(id \d+\) took the place of ours and was left alone; "
            r"to-caller: kernel, TC \(",
            told,
        )
    becomes(relay, {"streams by XDP": 4, "streams by userspace": 0})
    in_the_kernel_again(call, way, traffic)
    assert len(warnings(relay)) == 1


@by_tc
@pytest.mark.parametrize(
    "command",
    ["filter del dev to-caller ingress", "qdisc del dev to-caller clsact", "filter del dev to-caller ingress pref 100"],
)
def test_filter_that_somebody_deleted_is_attached_again(call, way, traffic, topology, command):
    relay = call.relay
    topology.relay.run(["tc", *command.split()])
    wait_for(lambda: "attached again" in relay.log, DEADLINE_S, "the filter")
    in_the_kernel_again(call, way, traffic)
    assert streams(relay) == {"streams by TC": 4, "streams by userspace": 0}
    assert warnings(relay) == ["to-caller: somebody deleted our TC filter; attached again"]


@by_tc
@pytest.mark.parametrize(
    ("obstacle", "named"),
    [(tcx_in_front, r"tcx program foreign_tcx \(id \d+\)"), (filter_in_front, r"TC filter of priority 1 \(bpf\)")],
    ids=["tcx", "filter"],
)
def test_program_in_front_that_ends_the_chain(call, way, traffic, topology, obstacle, named):
    relay = call.relay
    if obstacle is tcx_in_front:
        require_tcx(topology.relay, "caller")
    with obstacle(topology.relay, "caller"):
        # All that arrives by that interface; what arrives by the other one goes on.
        becomes(
            relay,
            {
                "streams by TC": 2,
                "streams by userspace": 2,
                "userspace, ingress: nothing is forwarded that arrives via 10.0.1.2 dev to-caller": 2,
            },
        )
        traffic.resumed()
        (told,) = warnings(relay)
        assert re.fullmatch(f"to-caller: {named} in front of our TC program keeps packets from it", told)
    becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
    in_the_kernel_again(call, way, traffic)
    traffic.finish()
    assert len(warnings(relay)) == 1


def frames(relay, verdict):
    """How many frames `It` counts for a verdict."""
    return int((re.search(rf"frames {verdict}: (\d+)", relay.ask("It")) or [0, 0])[1])


@by_xdp
def test_frames_that_a_driver_does_not_send_are_dropped_ones(call, way, topology, told_senders):
    """A veth takes redirected frames only while its far end has GRO on; the relay hears of that within a second."""
    call.establish(way)
    relay = call.relay
    if "count as forwarded" in relay.log:
        pytest.skip("needs a kernel that describes its types (BTF)")
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(100)
        topology.callee.run(["ethtool", "-K", "callee", "gro", "off"])
        traffic.more(200)
        in_the_kernel_again(call, way, traffic)
        mark = streams[0].sent
        traffic.stop_sending()

        def has_arrived():
            return not streams[1].missing and max(streams[0].missing, default=0) < mark

        wait_for(has_arrived, DEADLINE_S, "all packets of later")
    sent, not_sent = sum(stream.sent for stream in streams), frames(relay, "dropped_not_sent")
    # What the veth had taken, and was still in its ring, is lost beside them.
    assert 0 < not_sent <= len(streams[0].missing) <= not_sent + VETH_RING_FRAMES
    # The packets of `establish`: two of RTP and two of RTCP.
    totals = relay.totals()
    assert (totals["packets received"], totals["packets transmitted"]) == (sent + 4, sent + 4 - not_sent)


def shorten(topology):
    """Let the interface to the callee take no long frames."""
    ip(topology.relay, "link set to-callee mtu 1000")


def refuse(topology):
    """Let the interface to the callee take no redirected frames; since Linux 6.3 they are not handed to a veth then."""
    topology.callee.run(["ethtool", "-K", "callee", "gro", "off"])


@by_xdp
@pytest.mark.parametrize(("change", "arriving"), [(shorten, [7]), (refuse, [])])
def test_frames_that_are_not_handed_to_a_driver_are_dropped_ones(call, way, topology, told_senders, change, arriving):
    """The kernel refuses them before (tracepoint xdp_redirect_err); as long as the relay stands still, all of them."""
    call.establish(way)
    relay = call.relay
    if "count as forwarded" in relay.log:
        pytest.skip("needs a kernel that describes its types (BTF)")
    before = relay.totals()
    packets = [rtp(number, payload=b"\xd5" * 1200) for number in range(2, 7)] + [rtp(7)]
    with paused(relay):
        change(topology)
        for packet in packets:
            call.caller.send(packet)
        # What takes the same way after them.
        if arriving:
            assert call.callee.rtp.expect() == [(rtp(number), call.callee.to) for number in arriving]
        call.callee.send(rtp(2))
        assert call.caller.rtp.expect() == [(rtp(2), call.caller.to)]
    lost = len(packets) - len(arriving)
    wait_for(lambda: frames(relay, "dropped_not_sent") == lost, DEADLINE_S, f"{lost} frames to be counted")
    totals = relay.totals()
    received, transmitted = (
        totals[f"packets {name}"] - before[f"packets {name}"] for name in ("received", "transmitted")
    )
    assert (received, transmitted) == (len(packets) + 1, len(packets) + 1 - lost)
    assert not call.callee.rtp.take()


@by_xdp
def test_frames_of_other_programs_are_not_ours(call, way, tmp_path, told_senders):
    """The tracepoints tell of every program on the host; another relay's losses are in its own counters only."""
    call.establish(way)
    with (
        Topology() as elsewhere,
        RunningRelay(tmp_path, host=elsewhere.relay, name="other") as other,
        Call(other, elsewhere.caller, elsewhere.callee) as lossy,
    ):
        lossy.establish(way)
        if "count as forwarded" in other.log:
            pytest.skip("needs a kernel that describes its types (BTF)")
        elsewhere.callee.run(["ethtool", "-K", "callee", "gro", "off"])
        wait_for(lambda: lossy.caller.send(rtp(2)) or frames(other, "dropped_not_sent"), DEADLINE_S, "a loss")
    assert frames(call.relay, "dropped_not_sent") == 0


def test_too_few_transmit_queues(topology, start):
    """Told once, with the command that helps; a veth is left out, because it uses the queues of its far end."""
    with tap(topology.relay, "tap0"):
        relay = start("--interface", "tap0")
        if "tap0: kernel, native XDP" not in relay.log:
            pytest.skip("needs native XDP on a tap")
        processors = os.sysconf("SC_NPROCESSORS_ONLN")
        told = [line for line in warnings(relay) if "transmit queues" in line]
        assert len(told) == (processors > 1)
        if told:
            assert told[0].startswith(f"tap0: 1 transmit queues for {processors} processors: ")
            assert told[0].endswith(f"Before the next start: ethtool -L tap0 combined {processors}")


def test_driver_that_refuses_frames_because_its_queue_is_gone(start, topology):
    """`It` says so, and TC sends; XDP sends again as soon as the number of queues has changed."""
    caller = topology.caller
    with tap(topology.relay, "tap0") as far_end, PhonePort(caller, caller.ip, 4000) as phone:
        ip(topology.relay, "addr add 10.0.9.1/24 dev tap0")
        ip(topology.relay, "neigh add 10.0.9.2 lladdr 02:00:00:00:09:02 dev tap0 nud permanent")
        relay = start()
        if "tap0: kernel, native XDP" not in relay.log or "count as forwarded" in relay.log:
            pytest.skip("needs native XDP on a tap, and a kernel that describes its types (BTF)")
        relay.port(f"U c1 {caller.ip} 4000 f")
        to = caller.gateway.ip, relay.port("L c1 10.0.9.2 5000 f t")
        numbers = itertools.count(1)

        def is_sent_by(tier):
            """Send one more; is it that tier's to send?"""
            phone.send(rtp(next(numbers)), to)
            return streams(relay).get(f"streams by {tier}") == 1

        def arrives():
            """Send one more; has it arrived at the far end?"""
            packet = rtp(next(numbers))
            phone.send(packet, to)
            return wait_for(lambda: any(packet in frame for frame in far_end.take()), DEADLINE_S, "the packet")

        wait_for(lambda: is_sent_by("XDP"), DEADLINE_S, "XDP to send")
        assert arrives()
        assert frames(relay, "dropped_not_sent") == 0
        far_end.set_queue(is_there=False)
        wait_for(lambda: is_sent_by("TC"), DEADLINE_S, "the relay to notice")
        not_sent = frames(relay, "dropped_not_sent")
        assert not_sent > 0
        totals = relay.totals()
        assert totals["packets received"] - totals["packets transmitted"] == not_sent
        far_end.set_queue(is_there=True)
        wait_for(lambda: is_sent_by("XDP"), DEADLINE_S, "XDP to send again")
        assert arrives()
        assert frames(relay, "dropped_not_sent") == not_sent
        (told,) = [line for line in warnings(relay) if "refuses" in line]
        assert re.match(r"tap0: its driver refuses frames that XDP sends there \(\d+ so far, counted as ", told)
        assert "ethtool -L tap0 gives it more" in told


def test_without_the_powers_of_root(start, topology):
    """What is kept after the start suffices to notice and to act; names of others' programs are not to be read then."""
    relay = start("-u", "nobody")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(KERNEL)
        with Traffic(*both_ways(call)) as traffic:
            ip(topology.relay, "link set to-caller xdp off")
            wait_for(lambda: "attached again" in relay.log, DEADLINE_S, "the program")
            in_the_kernel_again(call, KERNEL, traffic)
            with Foreign(topology.relay, "to-caller"):
                becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
                in_the_kernel_again(call, KERNEL, traffic)
                require_tcx(topology.relay, "caller")
                with tcx_in_front(topology.relay, "caller"):
                    wait_for(lambda: streams(relay)["streams by userspace"] == 2, DEADLINE_S, "the obstacle to be seen")
                becomes(relay, {"streams by TC": 4, "streams by userspace": 0})
                in_the_kernel_again(call, KERNEL, traffic)
            becomes(relay, {"streams by XDP": 4, "streams by userspace": 0})
            traffic.stop_sending()
    assert not [line for line in relay.log.splitlines() if line.startswith("ERR:")]
    assert [line for line in warnings(relay) if "XDP program without name (id " in line]
    assert [line for line in warnings(relay) if "tcx program without name (id " in line]


@kernel_only
def test_packets_that_the_kernel_leaves_to_userspace_for_a_reason(call, way, topology):
    """`It` counts their stream where it is relayed; nobody is warned, because a verdict says why."""
    call.establish(way)
    call.caller.rtp.set_ip_options(b"\1\1\1\1")
    to_userspace, to_kernel = both_ways(call)
    with Traffic(to_userspace, to_kernel, interval_s=OPTIONS_INTERVAL_S) as traffic:
        kernel = f"streams by {'TC' if way is TC else 'XDP'}"
        becomes(call.relay, {kernel: 3, "streams by userspace": 1, f"userspace, {COMES_UP}": 1})
        call.caller.rtp.set_ip_options(b"")
        in_the_kernel_again(call, way, traffic)
        becomes(call.relay, {kernel: 4, "streams by userspace": 0})
        traffic.finish()
    assert warnings(call.relay) == []


@by_xdp
def test_tcx_program_in_front_of_tc_behind_xdp(call, way, topology, told_senders):
    """Only streams that XDP leaves to TC are concerned, and only they are told so."""
    call.establish(way)
    require_tcx(topology.relay, "caller")
    topology.callee.run(["ethtool", "-K", "callee", "gro", "off"])
    relay = call.relay
    with Traffic(*both_ways(call)) as traffic:
        becomes(relay, {"streams by TC": 2, "streams by XDP": 2, "streams by userspace": 0})
        in_the_kernel_again(call, way, traffic)
        with tcx_in_front(topology.relay, "caller"):
            one = {"streams by TC": 1, "streams by XDP": 2, "streams by userspace": 1, f"userspace, {COMES_UP}": 1}
            becomes(relay, one)
            traffic.resumed()
        becomes(relay, {"streams by TC": 2, "streams by XDP": 2, "streams by userspace": 0})
        in_the_kernel_again(call, way, traffic)
        traffic.stop_sending()
    (told,) = warnings(relay)
    assert "in front of our TC program keeps packets from it" in told


def test_kernel_that_does_not_describe_its_types(topology, tmp_path):
    """Then nothing is known of frames that were not sent, which is said; all else is as ever."""
    hidden = "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$0" "$@"'
    with RunningRelay(tmp_path, host=topology.relay, prefix=hidden) as relay:
        with Call(relay, topology.caller, topology.callee) as call:
            call.establish(KERNEL)
        why = "/sys/kernel/btf/vmlinux: No such file or directory"
        assert f"not all frames that drivers do not send for XDP are seen; they count as forwarded: {why}" in relay.log


def test_tracepoints_are_used_for_xdp_only(topology, start):
    """Their programs cost every XDP program of the host a little."""
    for options, expected in (((), 2), (("--offload", "tc"), 0), (("--offload", "off"), 0)):
        relay = start(*options)
        links = Path(f"/proc/{relay.process.pid}/fdinfo").glob("*")
        assert sum("raw_tracepoint" in link.read_text() for link in links) == expected
        assert relay.stop() == 0


@contextlib.contextmanager
def one_more_file(process):
    """Meanwhile the process can open but one file."""
    before = resource.prlimit(process, resource.RLIMIT_NOFILE)
    # Those that it opens for a moment are not in all of them.
    listings = ({int(one.name) for one in Path(f"/proc/{process}/fd").iterdir()} for _ in range(5))
    opened = set.intersection(*listings)
    _, second_free = itertools.islice((number for number in range(before[0]) if number not in opened), 2)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (second_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)


class OpenConnection:
    """A connection to a control socket `cunix:`, for when the relay can accept no more."""

    def __init__(self, path):
        self._client = socket.socket(socket.AF_UNIX)
        self._client.settimeout(DEADLINE_S)
        self._client.connect(str(path))

    def ask(self, command):
        """Return the reply without its last line feed; the relay writes it at once."""
        self._client.sendall(f"{command}\n".encode())
        reply = self._client.recv(1 << 16).decode()
        assert reply.endswith("\n")
        return reply.removesuffix("\n")

    def close(self):
        self._client.close()


def test_programs_that_could_not_be_loaded_in_passing(start, topology, tmp_path):
    """There is no descriptor left for them when media needs them: userspace relays, until a later try succeeds."""
    lines = tmp_path / "lines.sock"
    ip(topology.relay, "addr add 192.0.2.1/32 dev lo")
    relay = start("-l", "192.0.2.1", "-s", f"cunix:{lines}")
    why = "cannot load the program for %s: Too many open files"
    nothing = f"userspace ({why % 'XDP'}; no TC: {why % 'TC'})"
    with (
        contextlib.closing(OpenConnection(lines)) as connection,
        Call(relay, topology.caller, topology.callee, relay_host="192.0.2.1") as call,
    ):
        assert connection.ask("V") == "20040107"
        # Userspace needs that one to send.
        with one_more_file(relay.process.pid):
            call.cross(rtp(1))
            call.cross(rtcp(1), is_rtcp=True)
            for name in ("to-caller", "to-callee"):
                wait_for(lambda name=name: f"{name}: {nothing}" in relay.log, DEADLINE_S, "a report")
                wait_for(lambda name=name: f"{name}: trying XDP and TC again" in relay.log, DEADLINE_S, "another try")
            reason = "userspace, ingress: nothing is forwarded that arrives via"
            vias = "10.0.1.2 dev to-caller", "10.0.2.2 dev to-callee"
            assert streams(connection) == {"streams by userspace": 4, **{f"{reason} {via}": 2 for via in vias}}
        call.wait_offloaded()
        becomes(relay, {"streams by XDP": 4, "streams by userspace": 0})
        with paused(relay):
            call.cross(rtp(2))
            call.cross(rtcp(2), is_rtcp=True)
    # Each reason once, and nothing else went wrong.
    errors = [line.split(": ", 1)[1] for line in relay.log.splitlines() if line.startswith(("ERR:", "CRIT:"))]
    assert errors == [why % "XDP", why % "TC"]
