"""A userspace tier with too little processor time: what arrives is fresh, and the rest is counted.

A quota of a control group keeps the time from it, however much the machine has. The kernel measures the delays, and
processor time stands for time, so that other work on the machine changes nothing.
"""

import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from rtpproxy.media import bound, receiving
from tests.cgroups import PERIOD_US, starved
from tests.netns_call.call import BOUND, STEERED
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

CALLS = 20
MANY_CALLS = 400
QUOTA_US = 10_000
OVERLOAD = 1.5
FRESH_S = 0.25
"""What the delay of 99 of 100 packets is below."""
DEARER = 1.3
"""Processor time that a packet may cost under overload, by what it costs where late packets are relayed, too: nothing
but that time limits how many are relayed."""
COMMANDS = 30
SOCKETS = 8
"""Receiving sockets of steered ports and one family."""
CALLER_PORT, CALLEE_PORT = 4000, 5000
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_NS_PER_S = 1_000_000_000

pytestmark = pytest.mark.parametrize("way", [STEERED, BOUND], ids=lambda way: way.name)


class Media:
    """Calls whose callers send a packet each in turn; a context manager."""

    def __init__(self, relay, topology, calls=CALLS):
        self.sent = 0
        self.delays = []
        """Of what arrived, in seconds, from just before it was sent until the callee's kernel had it."""
        self._rate = 0.0
        self._is_over = False
        self._failures = []
        self._ports = []
        for number in range(calls):
            relay.port(f"U c{number} {topology.caller.ip} {CALLER_PORT} f")
            self._ports.append(relay.port(f"L c{number} {topology.callee.ip} {CALLEE_PORT} f t"))
        self._relay = relay
        self._host = topology.relay
        self._came_before = self._delivered()
        self._to = topology.caller.gateway.ip
        self._caller, self._callee = topology.caller.socket(), topology.callee.socket()
        self._caller.bind((topology.caller.ip, CALLER_PORT))
        self._callee.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._callee.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._callee.bind((topology.callee.ip, CALLEE_PORT))
        self._callee.setblocking(False)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self._thread.join()
        self._caller.close()
        self._callee.close()

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
        lines = self._host.call(Path("/proc/thread-self/net/snmp").read_text).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip:"))
        return int(values[names.index("InDelivers")])

    def wait_counted(self):
        """Wait until the relay has counted everything that came, once; how much."""
        self.wait(lambda: sum(counted(self._relay)) == self.came, "everything that came to be counted, once")
        return counted(self._relay)

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
                select.select([self._callee], [], [], 0.001)
                self._receive()
        except Exception as error:  # raised again by the waiting thread
            self._failures.append(error)

    def _send(self):
        number, stream = divmod(self.sent, len(self._ports))
        data = rtp(number, ssrc=stream, payload=time.time_ns().to_bytes(8) + bytes(152))
        self._caller.sendto(data, (self._to, self._ports[stream]))
        self.sent += 1

    def _receive(self):
        while True:
            try:
                data, ancillary, _, _ = self._callee.recvmsg(2000, 100)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
            delay_ns = seconds * _NS_PER_S + nanoseconds - int.from_bytes(data[12:20])
            self.delays.append(delay_ns / _NS_PER_S)


def processor_time(process):
    """Seconds that a process ran, all threads together (clock_getcpuclockid(3))."""
    return time.clock_gettime(~process << 3 | 2)


def saturate(media, relay, packets, rate):
    """Send to a starved relay; the processor time that it took for each packet that it relayed meanwhile."""
    process = relay.process.pid
    with starved(process, QUOTA_US):
        media.send(packets // 5, rate)  # until the state is steady
        before_s, before = processor_time(process), len(media.delays)
        media.send(packets, rate)
        return (processor_time(process) - before_s) / (len(media.delays) - before)


def percentile(delays, share):
    return sorted(delays)[int(share * len(delays))]


def counted(relay):
    """Packets that the relay sent on, those that waited too long, and those without room."""
    lines = dict(line.rsplit(": ", 1) for line in relay.ask("It").splitlines())
    names = "packets transmitted", "frames dropped_waited_too_long", "frames dropped_no_room"
    return [int(lines.get(name, 0)) for name in names]


def test_overload_is_heard_as_loss_and_not_as_delay(topology, tmp_path, way, capsys):
    with RunningRelay(tmp_path, *way.options, host=topology.relay) as patient, Media(patient, topology) as media:
        reference_s = saturate(media, patient, 20_000, 20_000)
        assert percentile(media.delays, 0.99) > FRESH_S
    capacity = QUOTA_US / PERIOD_US / reference_s
    with (
        RunningRelay(tmp_path, *way.options, host=topology.relay, drops_old=True) as relay,
        Media(relay, topology) as media,
        capsys.disabled(),
    ):
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
        relayed = media.wait_counted()[0]
        media.wait(lambda: len(media.delays) == relayed, "what was relayed to arrive")
        p50_s, p99_s = (percentile(media.delays, share) for share in (0.5, 0.99))
        print(f"delay p50 {p50_s:.3f} s, p99 {p99_s:.3f} s")
        assert "packets dropped because they waited longer than 200 ms: 1\n" in relay.log
    assert p99_s < FRESH_S


def test_what_comes_later_is_relayed_without_loss(topology, tmp_path, way):
    """Once the relay has processor time again."""
    with (
        RunningRelay(tmp_path, *way.options, host=topology.relay, drops_old=True) as relay,
        Media(relay, topology) as media,
    ):
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


def test_commands_keep_their_turn(topology, tmp_path, way):
    """However many packets wait, and at however many ports, few are relayed before a command."""
    with (
        RunningRelay(tmp_path, *way.options, host=topology.relay, drops_old=True) as relay,
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
