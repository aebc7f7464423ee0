"""A relay in one latching mode and one way to own ports and forward, a victim's calls, and somebody who attacks them.

Everybody has addresses that count as public, since strict mode tells private ones from them, and IPv6 addresses, too.
The calls of many tests are played on one stage in turn, so no attack may leave anything behind.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.all import IP, UDP, Ether, IPv6, Packet, Raw

from tests.netns import Phone, Topology
from tests.netns_call.call import (
    BOUND,
    KERNEL,
    STEERED,
    TC,
    Address,
    Call,
    Party,
    PhonePort,
    Tap,
    Way,
    number_of,
    numbered,
    paused,
    rtcp,
)
from tests.netns_call.dual_stack.families import EVERYWHERE
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

CALLER, CALLER_MOVED, CALLEE, ATTACKER = "198.51.100.2", "198.51.100.3", "203.0.113.2", "192.0.2.66"
STOLEN = rtp(0x6666, ssrc=0xBAD)
LATCHING = ("compatible", "strict")
WAYS = (KERNEL, TC, STEERED, BOUND)
STAGES = [(latching, way) for latching in LATCHING for way in WAYS]
ETH_P_ALL = 3
CONTROL_PORT = 22222
"""Of the relay's UDP control sockets, on all of its addresses."""
UNUSED = 40_000
"""A number for RTP, higher than those that `check_stream` gets to before its deadline."""
FLOODER = """
import socket, sys
ifname, *frames = sys.argv[1:]
frames = [bytes.fromhex(frame) for frame in frames]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind((ifname, 0))
    print("flooding", flush=True)
    while True:
        for frame in frames:
            try:
                out.send(frame)
            except OSError:  # the queue is full
                pass
"""

_names = itertools.count(1)


def stage_name(stage: tuple[str, Way]) -> str:
    """Name a stage in test reports: `strict-steered+tc`."""
    return f"{stage[0]}-{stage[1].name}"


def on_stages(*, latching: str = "", is_kernel: bool | None = None, way: Way | None = None) -> pytest.MarkDecorator:
    """Mark a test that is for some stages only."""
    chosen = [
        stage
        for stage in STAGES
        if latching in ("", stage[0]) and is_kernel in (None, stage[1].is_kernel) and way in (None, stage[1])
    ]
    return pytest.mark.parametrize("stage", chosen, ids=stage_name, indirect=True, scope="session")


class Attacker:
    """A stranger with an RTP and an RTCP port, who can also send frames of any kind."""

    def __init__(self, host: Phone, relay: RunningRelay) -> None:
        self.host = host
        self.rtp, self.rtcp = PhonePort(host, ATTACKER, 6000), PhonePort(host, ATTACKER, 6001)
        self._relay = relay
        self._tap = Tap(host)

    def close(self) -> None:
        self.rtp.__exit__()
        self.rtcp.__exit__()
        self._tap.__exit__()

    def send(self, party: Party, data: bytes) -> None:
        """Send to the port that the party sends its RTP to."""
        self.rtp.send(data, party.to)

    def fail(self, party: Party, data: bytes = STOLEN, *, count: int = 1, is_rtcp: bool = False) -> None:
        """Attack a stream and be refused: wait until the relay has dropped it all."""
        before = self._discarded()
        for _ in range(count):
            if is_rtcp:
                self.rtcp.send(data, party.to_rtcp)
            else:
                self.rtp.send(data, party.to)
        wait_for(lambda: self._discarded() == before + count, DEADLINE_S, f"{count} packets to be dropped")

    def has_nothing(self) -> bool:
        """True if nobody's media came to the attacker."""
        return self.rtp.take() == self.rtcp.take() == []

    def frame(
        self,
        to: Address,
        data: bytes = STOLEN,
        *,
        source: Address | None = None,
        between: Packet | None = None,
        **ip_fields: object,
    ) -> bytes:
        """Make a frame to the relay, from the attacker's own address unless another one is forged.

        `between` are headers between IP and UDP; `ip_fields` are those of the IP header.
        """
        is_ipv6 = ":" in to[0]
        host, port = source or (self.host.ip6 if is_ipv6 else ATTACKER, 6000)
        header = (IPv6 if is_ipv6 else IP)(src=host, dst=to[0], **ip_fields)
        packet = header / between if between is not None else header
        ethernet = Ether(src=self.host.mac, dst=self.host.gateway.mac)
        return bytes(ethernet / packet / UDP(sport=port, dport=to[1]) / Raw(data))

    def inject(self, *frames: bytes) -> None:
        """Send frames as they are."""
        for frame in frames:
            self._tap.send(frame)

    @contextlib.contextmanager
    def flooding(self, *frames: bytes) -> Iterator[None]:
        """Send the same frames over and over, as fast as a process can, until the context ends."""
        command = [sys.executable, "-c", FLOODER, self.host.ifname, *(frame.hex() for frame in frames)]
        process = self.host.popen(command, stdout=-1)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"flooding\n"
            yield
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def _discarded(self) -> int:
        return int(self._relay.ask("G npkts_discard"))


@dataclass
class Stage:
    """A relay in one mode and way, and the hosts around it."""

    topology: Topology
    relay: RunningRelay
    attacker: Attacker
    way: Way
    is_strict: bool

    @contextlib.contextmanager
    def call(self, **options: object) -> Iterator[Call]:
        """A call that nobody has sent a packet in."""
        options = {"caller_at": (CALLER, 4000), "callee_at": (CALLEE, 5000), **options}
        call = Call(self.relay, self.topology.caller, self.topology.callee, f"c{next(_names)}", **options)
        with call:
            yield call
            assert self.relay.ask(f"D {call.tags}") == "0"

    @contextlib.contextmanager
    def established(self, **options: object) -> Iterator[Call]:
        """A call whose streams are learned, and in the kernel where there is one."""
        with self.call(**options) as call:
            call.establish(self.way)
            yield call

    @contextlib.contextmanager
    def established_ipv6(self) -> Iterator[Call]:
        """The same over IPv6."""
        caller, callee = self.topology.caller, self.topology.callee
        with self.established(caller_at=(caller.ip6, 4000), callee_at=(callee.ip6, 5000)) as call:
            yield call

    def seen_by_attacker(self, ours: Address) -> Address:
        """The address that packets from one of our ports have for the attacker, if he gets any.

        A port with a socket of its own has no address under a wildcard: the route to the receiver gives it one.
        """
        return (self.attacker.host.gateway.ip, ours[1]) if self.way is BOUND else ours

    def settle(self) -> None:
        """Wait until the relay has done all that a packet caused: it is sent on before anything else."""
        assert self.relay.ask("V") == "20040107"

    def goes_on(self, call: Call, *, number: int) -> None:
        """The call's media flows both ways, in the kernel where it was, and nobody else gets any of it."""
        call.cross(rtp(number))
        call.cross(rtcp(number), is_rtcp=True)
        if self.way.is_kernel:
            call.wait_offloaded()
            with paused(self.relay):
                call.cross(rtp(number + 1))
                call.cross(rtcp(number + 1), is_rtcp=True)
        assert self.attacker.has_nothing()


def add_address(topology: Topology, phone: Phone, ip: str) -> None:
    """Give a phone another address, which the relay's host knows the way to."""
    phone.run(["ip", "addr", "add", f"{ip}/32", "dev", phone.ifname])
    topology.relay.run(["ip", "route", "add", f"{ip}/32", "dev", phone.gateway.ifname])


def check_stream(way: Way, sender: Party, receiver: Party) -> None:
    """Check that packets get through a flood, intact and from our address: in the kernel all of them, else some."""
    sent, arrived = 0, []

    def is_enough() -> bool:
        nonlocal sent
        if sent < 40 or not way.is_kernel:
            sent += 1
            sender.send(numbered(sent))
        arrived.extend(receiver.rtp.take())
        return len(arrived) >= 40

    wait_for(is_enough, DEADLINE_S, "packets to get through the flood")
    assert {source for _, source in arrived} == {receiver.to}
    assert [data for data, _ in arrived] == [numbered(number_of(data)) for data, _ in arrived]


def drain(call: Call) -> int:
    """Wait until nothing is under way any more. What is sent last is relayed last, but may be lost until then.

    Returns the next number for RTP. One that came before might be lost: of what repeats a number, has none or starts
    anew, no relay passes more than a limit on within a second, so each packet has a number of its own.
    """
    numbers = itertools.count(UNUSED)
    for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):

        def comes(sender: Party = sender, receiver: Party = receiver) -> bool:
            sender.send(numbered(next(numbers)))
            return any(number_of(data) >= UNUSED for data, _ in receiver.rtp.take())

        def is_last(last: int, receiver: Party = receiver) -> bool:
            return last in [number_of(data) for data, _ in receiver.rtp.take()]

        wait_for(comes, DEADLINE_S, "a packet")
        last = next(numbers)
        sender.send(numbered(last))
        wait_for(lambda is_last=is_last, last=last: is_last(last), DEADLINE_S, "the last packet")
    return next(numbers)


@contextlib.contextmanager
def staged(directory: Path, way: Way, latching: str) -> Iterator[Stage]:
    """Set a stage. It also has control sockets that an attacker would like to reach."""
    with Topology(ipv6=True) as topology:
        host = topology.add_host("attacker")
        for phone, ip in (
            *((topology.caller, CALLER), (topology.caller, CALLER_MOVED)),
            *((topology.callee, CALLEE), (host, ATTACKER)),
        ):
            add_address(topology, phone, ip)
        control = ("-F", "-s", f"udp:*:{CONTROL_PORT}", "-s", f"udp6:*:{CONTROL_PORT}")
        options = (*way.options, *EVERYWHERE, "--latching", latching, *control)
        with RunningRelay(directory, *options, host=topology.relay) as relay:
            attacker = Attacker(host, relay)
            yield Stage(topology, relay, attacker, way, latching == "strict")
            attacker.close()
            assert "unexpected" not in relay.log
