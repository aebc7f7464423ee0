"""A userspace tier with too little processor time: what arrives is fresh, and the rest is counted.

A quota of a control group keeps the time from it, however much the machine has. The kernel measures the delays, and
processor time stands for time, so that other work on the machine changes nothing.
"""

import itertools
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from rtpproxy.media import bound, receiving
from tests.cgroups import PERIOD_US, starved
from tests.netns import Topology
from tests.netns_call.call import BOUND, STEERED, paused
from tests.netns_call.dual_stack.families import EVERYWHERE
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

CALLS = 20
MANY_CALLS = 400
QUOTA_US = 10_000
OVERLOAD = 1.5
LIMIT_S = 0.2
"""By default (`--max-wait`)."""
FRESH_S = 0.25
"""What the delay of 99 of 100 packets is below."""
DEARER = 1.3
"""Processor time that a packet may cost under overload, by what it costs where late packets are relayed, too: nothing
but that time limits how many are relayed."""
COMMANDS = 30
SOCKETS = 16
"""Receiving sockets of steered ports, of both families."""
CALLER_PORT, CALLEE_PORT = 4000, 5000
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33

pytestmark = pytest.mark.parametrize("way", [STEERED, BOUND], ids=lambda way: way.name)


@pytest.fixture
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


class Media:
    """Calls, half of them over IPv6, whose callers send a packet each in turn; a context manager."""

    def __init__(self, relay, topology, calls=CALLS):
        self.sent_at = []
        """When each packet was sent: seconds of the wall clock."""
        self.arrived_at = {}
        """By number of the packet: when the callee's kernel had it."""
        self._rate = 0.0
        self._is_over = False
        self._failures = []
        self._to = []
        caller, callee = topology.caller, topology.callee
        for number in range(calls // 2):
            for modifier, ip in (("", "ip"), ("6", "ip6")):
                call = f"c{number}-{modifier}"
                relay.port(f"U{modifier} {call} {getattr(caller, ip)} {CALLER_PORT} f")
                port = relay.port(f"L{modifier} {call} {getattr(callee, ip)} {CALLEE_PORT} f t")
                self._to.append((getattr(caller.gateway, ip), port))
        self._relay = relay
        self._host = topology.relay
        self._came_before = self._delivered()
        self._callers = [_bound(caller, caller.ip, CALLER_PORT), _bound(caller, caller.ip6, CALLER_PORT)]
        self._callees = [_bound(callee, callee.ip, CALLEE_PORT), _bound(callee, callee.ip6, CALLEE_PORT)]
        for opened in self._callees:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            opened.setblocking(False)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self._thread.join()
        for opened in (*self._callers, *self._callees):
            opened.close()

    @property
    def sent(self):
        """Packets that were sent."""
        return len(self.sent_at)

    def stream_of(self, number):
        return number % len(self._to)

    def port_of(self, stream):
        """Where the caller of that stream sends to."""
        return self._to[stream][1]

    def delays(self, parity):
        """How long what arrived was under way: over IPv4 (0) or IPv6 (1)."""
        arrived = self.arrived_at.copy()
        return [at - self.sent_at[number] for number, at in arrived.items() if number % 2 == parity]

    def send(self, packets, rate):
        """Send so many more packets, so many a second or fewer on a busy machine."""
        wanted = self.sent + packets
        self.start(rate)
        self.wait(lambda: self.sent >= wanted, f"{packets} packets to be sent")
        self.start(0.0)

    def start(self, rate):
        """Send so many packets a second from now on."""
        self._rate = rate

    @property
    def came(self):
        """Packets that came to the relay's host: a link that nobody empties in time loses some."""
        return self._delivered() - self._came_before

    def _delivered(self):
        """Count what the host's stack took for itself, but for messages about neighbours."""
        lines = self._host.call(Path("/proc/thread-self/net/snmp").read_text).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip:"))
        lines = self._host.call(Path("/proc/thread-self/net/snmp6").read_text).splitlines()
        of_ipv6 = dict(line.split() for line in lines)
        return int(values[names.index("InDelivers")]) + int(of_ipv6["Ip6InDelivers"]) - int(of_ipv6["Icmp6InMsgs"])

    def wait_counted(self):
        """Wait until the relay has counted everything that came, once; how much."""
        self.wait(lambda: sum(counted(self._relay)) == self.came, "everything that came to be counted, once")
        return counted(self._relay)

    def wait_arrived(self):
        """Wait until everything that the relay sent on has arrived."""
        relayed = self.wait_counted()[0]
        self.wait(lambda: len(self.arrived_at) == relayed, "what was relayed to arrive")

    def wait(self, condition, what):
        wait_for(lambda: self._failures or condition(), DEADLINE_S, what)
        assert self._failures == []

    def _run(self):
        try:
            due = time.monotonic()
            while not self._is_over:
                now = time.monotonic()
                rate = self._rate
                # Behind time, a few packets follow each other at once; what was missed before that is left out.
                due = max(due, now - 0.01) if rate else now
                while rate and due <= now:
                    self._send()
                    due += 1 / rate
                select.select(self._callees, [], [], 0.001)
                for opened in self._callees:
                    self._receive(opened)
        except Exception as error:  # raised again by the waiting thread
            self._failures.append(error)

    def _send(self):
        number = self.sent
        stream = self.stream_of(number)
        data = rtp(number // len(self._to), ssrc=stream, payload=number.to_bytes(8) + bytes(152))
        self.sent_at.append(time.time())
        self._callers[number % 2].sendto(data, self._to[stream])

    def _receive(self, opened):
        while True:
            try:
                data, ancillary, _, _ = opened.recvmsg(2000, 100)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
            self.arrived_at[int.from_bytes(data[12:20])] = seconds + nanoseconds * 1e-9


def _bound(phone, ip, port):
    opened = phone.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    opened.bind((ip, port))
    return opened


def processor_time(process):
    """Seconds that a process ran, all threads together (clock_getcpuclockid(3))."""
    return time.clock_gettime(~process << 3 | 2)


def saturate(media, relay, packets, rate):
    """Send to a starved relay; the processor time that it took for each packet that it relayed meanwhile."""
    process = relay.process.pid
    with starved(process, QUOTA_US):
        media.send(packets // 5, rate)  # until the state is steady
        before_s, before = processor_time(process), len(media.arrived_at)
        media.send(packets, rate)
        return (processor_time(process) - before_s) / (len(media.arrived_at) - before)


def percentile(delays, share):
    return sorted(delays)[int(share * len(delays))]


def counted(relay):
    """Packets that the relay sent on, those that waited too long, and those without room."""
    lines = dict(line.rsplit(": ", 1) for line in relay.ask("It").splitlines())
    names = "packets transmitted", "frames dropped_waited_too_long", "frames dropped_no_room"
    return [int(lines.get(name, 0)) for name in names]


def running(topology, directory, way, *, drops_old=True):
    return RunningRelay(directory, *way.options, *EVERYWHERE, host=topology.relay, drops_old=drops_old)


def test_overload_is_heard_as_loss_and_not_as_delay(topology, tmp_path, way, capsys):
    with running(topology, tmp_path, way, drops_old=False) as patient, Media(patient, topology) as media:
        reference_s = saturate(media, patient, 20_000, 20_000)
        assert all(percentile(media.delays(parity), 0.99) > FRESH_S for parity in (0, 1))
    capacity = QUOTA_US / PERIOD_US / reference_s
    with running(topology, tmp_path, way) as relay, Media(relay, topology) as media, capsys.disabled():
        print(f"\n{way.name}: {capacity:.0f} packets/s could be relayed, {1e6 * reference_s:.1f} us each")

        def is_only_the_excess_lost():
            came_before, (relayed_before, old_before, excess_before) = media.came, media.wait_counted()
            packet_s = saturate(media, relay, round(10 * capacity), OVERLOAD * capacity)
            relayed, old, excess = media.wait_counted()
            relayed, old, excess = relayed - relayed_before, old - old_before, excess - excess_before
            print(
                f"of {media.came - came_before}, {relayed} were, {1e6 * packet_s:.1f} us each; "
                f"too old {old}, no room {excess}"
            )
            # The kernel drops most of the excess, because that takes userspace no time.
            return packet_s < DEARER * reference_s and 0 < old < excess

        # Other work on the machine may take more time from the relay than the quota does.
        wait_for(is_only_the_excess_lost, DEADLINE_S, "no more than the excess to be lost")
        media.wait_arrived()
        p99_s = [percentile(media.delays(parity), 0.99) for parity in (0, 1)]
        print(f"99 of 100 took less than {p99_s[0]:.3f} s over IPv4, {p99_s[1]:.3f} s over IPv6")
        assert "packets dropped because they waited longer than 200 ms: 1\n" in relay.log
    assert max(p99_s) < FRESH_S


def test_after_a_pause_what_is_old_is_dropped_and_nothing_else(topology, tmp_path, way):
    """As of a virtual machine that stands still: what came last waited less than the limit."""
    with running(topology, tmp_path, way) as relay, Media(relay, topology) as media:
        with paused(relay):
            media.send(2 * CALLS, 1000)
            media.wait(lambda: media.came == media.sent, "packets to come")
            first_new, old_from = media.sent, time.monotonic() + 1.1 * LIMIT_S
            media.wait(lambda: time.monotonic() > old_from, "these to be old")
            media.send(2 * CALLS, 1000)
            media.wait(lambda: media.came == media.sent, "packets to come")
        media.wait_arrived()
        _, old, excess = media.wait_counted()
    assert (old, excess) == (media.sent - len(media.arrived_at), 0)
    assert not any(number < first_new for number in media.arrived_at)
    # A packet was dropped before the next one of its stream was relayed. Had that been too soon, this would show it.
    taken_by = {}
    for number in reversed(range(media.sent)):
        stream = media.stream_of(number)
        if number in media.arrived_at:
            taken_by[stream] = media.arrived_at[number]
        elif stream in taken_by:
            assert taken_by[stream] - media.sent_at[number] > LIMIT_S


def test_what_comes_later_is_relayed_without_loss(topology, tmp_path, way):
    """Once the relay has processor time again."""
    with running(topology, tmp_path, way) as relay, Media(relay, topology) as media:
        with starved(relay.process.pid, QUOTA_US):
            media.start(20_000)
            media.wait(lambda: counted(relay)[1], "packets to be too old")
            media.start(0)

        def is_whole():
            relayed_before, came_before = media.wait_counted()[0], media.came
            media.send(500, 1000)
            return media.wait_counted()[0] - relayed_before == media.came - came_before

        # A machine that is busy may still keep the relay waiting.
        media.wait(is_whole, "500 packets to be relayed")


def test_new_sessions_are_refused_and_others_go_on(topology, tmp_path, way):
    """With `--overload_prot`: while there is too little processor time for the packets of those that exist."""
    number = itertools.count()

    def refuses():
        reply = relay.ask(f"U new{next(number)} {topology.caller.ip} {CALLER_PORT} f")
        assert reply == "E98" or reply.split()[0].isdecimal()
        return reply == "E98"

    options = (*way.options, *EVERYWHERE, "--overload_prot")
    with (
        RunningRelay(tmp_path, *options, host=topology.relay, drops_old=True) as relay,
        Media(relay, topology) as media,
    ):
        with starved(relay.process.pid, QUOTA_US):
            media.start(20_000)
            media.wait(refuses, "a new session to be refused")
            assert relay.port(f"L c0- {topology.callee.ip} {CALLEE_PORT} f t") == media.port_of(0)
            assert relay.counters("c0- f")["npkts_ina"] > 0
            assert relay.ask("D c1- f") == "0"
            media.start(0)
        media.wait(lambda: not refuses(), "new sessions to be accepted again")
        told = dict(line.split(": ") for line in relay.ask("It").splitlines())
        assert int(told["overload sessions_refused"]) == next(number) - int(told["sessions created"]) + CALLS
        times = int(told["overload times"])
        assert relay.log.count("overload: new sessions are refused, since the load is above 0.9\n") == times > 0
        # On a machine that is busy enough, it is refusing again.
        assert relay.log.count("overload is over after ") in (times, times - 1)


def test_commands_keep_their_turn(topology, tmp_path, way):
    """However many packets wait, and at however many ports, few are relayed before a command."""
    with (
        running(topology, tmp_path, way) as relay,
        Media(relay, topology, MANY_CALLS) as media,
        starved(relay.process.pid, QUOTA_US),
    ):
        media.start(20_000)
        media.wait(lambda: counted(relay)[1], "packets to be too old")
        before = sum(counted(relay)[:2])
        for _ in range(COMMANDS):
            counted(relay)
        packets = sum(counted(relay)[:2]) - before
        most = SOCKETS * receiving.BATCH if way is STEERED else bound.TURNS * bound.BATCH
        # A command takes two rounds of the event loop: for its connection, and for itself.
        assert packets <= 3 * COMMANDS * most
