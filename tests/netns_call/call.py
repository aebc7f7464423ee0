"""Calls between phones in namespaces: two phones, their sockets, and the relay's ports between them."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.all import IP, UDP, Ether, IPv6, Raw

from tests.netns import Host, Phone, Topology
from tests.plain_programs import load_plain_xdp
from tests.running import PhoneSocket, RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

_XDP_FLAGS_DRV_MODE = 1 << 2
TOS = 0xB8
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
_IP_RECVERR = 11
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20

Address = tuple[str, int]
Arrival = tuple[bytes, Address]


@dataclass(frozen=True)
class Way:
    """A way to own ports and to forward: the options that choose it."""

    name: str
    options: tuple[str, ...] = ()
    is_kernel: bool = False


KERNEL = Way("steered+kernel", is_kernel=True)
TC = Way("steered+tc", ("--offload", "tc"), is_kernel=True)
STEERED = Way("steered", ("--offload", "off"))
BOUND = Way("bound", ("--ports", "bound", "--offload", "off"))
WAYS = (KERNEL, TC, STEERED, BOUND)

kernel_only = pytest.mark.parametrize("way", [KERNEL, TC], ids=[KERNEL.name, TC.name], indirect=True)
"""For tests of what only the kernel does."""


def rtcp(number: int) -> bytes:
    """A receiver report without blocks; its SSRC is the number."""
    return bytes((0x80, 201, 0, 1)) + number.to_bytes(4)


class PhonePort(PhoneSocket):
    """One port of a phone that notes the TOS of what arrives, and that no burst overflows."""

    def __init__(self, host: Host, ip: str, port: int) -> None:
        super().__init__(host, ip, port)
        if self.is_ipv6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self.tos: set[int] = set()

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_ip_options(self, options: bytes) -> None:
        """Send all packets with these IPv4 options from now on."""
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)

    def take(self) -> list[Arrival]:
        arrived = []
        while True:
            try:
                data, ancillary, _, source = self._socket.recvmsg(65535, 64)
            except BlockingIOError:
                return arrived
            self.tos.update(value[0] for _, kind, value in ancillary if kind in (socket.IP_TOS, socket.IPV6_TCLASS))
            arrived.append((data, source[:2]))

    def expect_refusal(self, data: bytes, to: Address) -> None:
        """Send what nobody takes: it is answered with port unreachable, and by nothing else."""
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        self.send(data, to)

        def is_refused() -> bool:
            try:
                arrived = self.take()
            except ConnectionRefusedError:
                return True
            assert not arrived
            return False

        wait_for(is_refused, DEADLINE_S, f"port unreachable from {to}")
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recvmsg(1, 512, socket.MSG_ERRQUEUE)
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 0)


def ip(host: Host, *commands: str) -> None:
    """Run iproute2 commands on a host."""
    for command in commands:
        host.run(["ip", *command.split()])


def allow_refusals(host: Host) -> None:
    """Let the host answer every packet to a closed port; the kernel holds most of such answers back."""
    host.run(["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0"])


@dataclass
class Party:
    """A phone in a call: its sockets, and the relay's address and RTP port that it was told."""

    rtp: PhonePort
    rtcp: PhonePort
    to: Address = ("", 0)

    @property
    def to_rtcp(self) -> Address:
        return self.to[0], self.to[1] + 1

    def send(self, data: bytes) -> None:
        self.rtp.send(data, self.to)

    def send_rtcp(self, data: bytes) -> None:
        self.rtcp.send(data, self.to_rtcp)

    def close(self) -> None:
        self.rtp.__exit__()
        self.rtcp.__exit__()


class Call:
    """A call through the relay, from `U` and `L` on. The phones signal where they are unless told otherwise."""

    def __init__(
        self,
        relay: RunningRelay,
        caller: Phone,
        callee: Phone,
        name: str = "c1",
        *,
        caller_at: Address | None = None,
        callee_at: Address | None = None,
        caller_says: Address | None = None,
        callee_says: Address | None = None,
        relay_host: str = "",
    ) -> None:
        self.relay = relay
        self.name = name
        self.tags = f"{name} f t"
        self._caller_at = caller_at = caller_at or (caller.ip, 4000)
        self._callee_at = callee_at = callee_at or (callee.ip, 5000)
        self.caller = _party(caller, caller_at)
        self.callee = _party(callee, callee_at)
        callee_port = self.update(*(caller_says or caller_at))
        caller_port = self.lookup(*(callee_says or callee_at))
        self.callee.to = relay_host or _relay_host(callee, callee_at), callee_port
        self.caller.to = relay_host or _relay_host(caller, caller_at), caller_port

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        self.caller.close()
        self.callee.close()

    def update(self, host: str, port: int) -> int:
        """`U`: where the caller is; the port for the callee."""
        return self.relay.port(f"U{self._families(host, self._callee_at)} {self.name} {host} {port} f")

    def lookup(self, host: str, port: int) -> int:
        """`L`: where the callee is; the port for the caller."""
        return self.relay.port(f"L{self._families(host, self._caller_at)} {self.name} {host} {port} f t")

    def _families(self, host: str, peer_at: Address) -> str:
        """Modifiers: that the host is IPv6, and whom the reply is for where families differ (protocol.md 7.4)."""
        is_ipv6, is_peer_ipv6 = ":" in host, ":" in peer_at[0]
        peer = f"[{peer_at[0]}]" if is_peer_ipv6 else peer_at[0]
        return ("6" if is_ipv6 else "") + (f"r{peer}" if is_ipv6 != is_peer_ipv6 else "")

    @property
    def ports(self) -> list[int]:
        """The relay's four ports."""
        return [self.caller.to[1], self.caller.to[1] + 1, self.callee.to[1], self.callee.to[1] + 1]

    @property
    def rtp_ports(self) -> list[int]:
        """Those of RTP."""
        return self.ports[::2]

    def cross(self, data: bytes, *, is_rtcp: bool = False) -> None:
        """Send the same both ways; each must arrive alone and intact, from the address that its receiver sends to."""
        for sender, receiver in ((self.caller, self.callee), (self.callee, self.caller)):
            if is_rtcp:
                sender.send_rtcp(data)
                assert receiver.rtcp.expect() == [(data, receiver.to_rtcp)]
            else:
                sender.send(data)
                assert receiver.rtp.expect() == [(data, receiver.to)]

    def establish(self, way: Way) -> None:
        """First packets of all four streams; then, where the kernel forwards, wait until it does."""
        self.cross(rtp(1))
        self.cross(rtcp(1), is_rtcp=True)
        if way.is_kernel:
            self.wait_offloaded()

    def wait_offloaded(self, *ports: int) -> None:
        """Wait until the relay says that streams are in the kernel, by default all four, and their next hops known."""
        try:
            wait_for(lambda: all(self._is_offloaded(port) for port in ports or self.ports), DEADLINE_S, "offload")
        except AssertionError as error:
            shown = re.compile(rf" {re.escape(self.name)}( media \d+)?: |next hop")
            lines = [line for line in self.relay.log.splitlines() if shown.search(line)]
            raise AssertionError("\n".join([str(error), *lines])) from None

    def quote(self) -> dict[str, int]:
        """`Q`, by name."""
        return self.relay.counters(self.tags)

    def _is_offloaded(self, port: int) -> bool:
        """Tell whether the last log lines say that the port is in the kernel, and its next hop usable."""
        log = self.relay.log
        lines = re.findall(rf"{re.escape(self.name)}(?: media \d+)?: stream .*\bport {port}\b.*", log)
        entry = re.search(r" via (\S+) dev (\S+); (enters|changed in) the kernel", lines[-1]) if lines else None
        if entry is None:
            return False
        hops = re.findall(rf"next hop {re.escape(entry[1])} on {entry[2]} is (not)?", log)
        return bool(hops) and not hops[-1]


def _relay_host(phone: Phone, at: Address) -> str:
    """The relay's address that a phone sends to from an address of its own."""
    return phone.gateway.ip6 if ":" in at[0] else phone.gateway.ip


def _party(phone: Phone, at: Address) -> Party:
    host, port = at
    return Party(PhonePort(phone, host, port), PhonePort(phone, host, port + 1))


@contextlib.contextmanager
def paused(relay: RunningRelay) -> Iterator[None]:
    """While the relay's process stands still, only the kernel can relay.

    It is stopped when userspace has no packet left to count: while it counts one, nothing of that stream is forwarded.
    """
    process = relay.process.pid
    wait_for(lambda: _handled(relay) == _handled(relay), DEADLINE_S, "userspace to have no packets left")
    os.kill(process, signal.SIGSTOP)
    try:
        wait_for(lambda: " T " in Path(f"/proc/{process}/stat").read_text(), DEADLINE_S, "the relay to stand still")
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _handled(relay: RunningRelay) -> int:
    """Packets that came to userspace up to now. Those that wait there are taken before a second command is answered."""
    told = dict(line.split(": ") for line in relay.ask("It").splitlines())
    return int(told["packets received"]) - int(told.get("frames forwarded", 0))


def verdicts(relay: RunningRelay) -> dict[str, int]:
    """Frames by verdict, from the relay's last report; ask after it was stopped."""
    reports = re.findall(r"frames by verdict: (.*)", relay.log)
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", reports[-1])} if reports else {}


def xdp_of(host: Host, ifname: str) -> str:
    """The XDP program on an interface as `ip -d link` shows it; empty for none."""
    found = re.search(r"prog/xdp.*|\bxdp\S*/id:\d+", host.run(["ip", "-d", "link", "show", "dev", ifname]).stdout)
    return found[0] if found else ""


def is_attached(topology: Topology, name: str) -> bool:
    """Tell whether the relay's interface to that phone has an XDP program."""
    return bool(xdp_of(topology.relay, f"to-{name}"))


class Tap:
    """Whole frames of one kind, IPv4 by default, in and out of a phone's interface."""

    def __init__(self, phone: Phone, kind: int = ETH_P_IP) -> None:
        self._socket = phone.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        self._socket.bind((phone.ifname, kind))
        self._socket.setblocking(False)

    def __enter__(self) -> "Tap":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def expect(self, is_wanted: Callable[[bytes], bool]) -> bytes:
        """The first frame that is wanted; those before it are forgotten."""

        def find() -> bytes | None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = self._socket.recv(65535)
                    if is_wanted(frame):
                        return frame
            return None

        return wait_for(find, DEADLINE_S, "a frame")


def sent_frame(
    phone: Phone, source: Address, to: Address, payload: bytes, *, chksum: int | None = None, **ip_fields: int
) -> bytes:
    """A frame as the phone sends it to its gateway; `ip_fields` are IPv4's or IPv6's."""
    ip = (IPv6 if ":" in to[0] else IP)(src=source[0], dst=to[0], **ip_fields)
    udp = UDP(sport=source[1], dport=to[1], chksum=chksum)
    frame = Ether(src=phone.mac, dst=phone.gateway.mac) / ip / udp
    return bytes(frame / Raw(payload) if payload else frame)


def relayed_frame(phone: Phone, source: Address, to: Address, payload: bytes, number: int) -> bytes:
    """The frame by which the relay hands a payload to a phone: TTL, TOS and flags are a socket's; IP id `number`."""
    if ":" in to[0]:
        ip = IPv6(src=source[0], dst=to[0], tc=TOS, hlim=64, fl=0)
    else:
        ip = IP(src=source[0], dst=to[0], tos=TOS, ttl=64, flags="DF", id=number)
    frame = Ether(src=phone.gateway.mac, dst=phone.mac) / ip / UDP(sport=source[1], dport=to[1])
    return bytes(frame / Raw(payload) if payload else frame)


class Limited:
    """A host whose processes may open no more than so many files."""

    def __init__(self, host: Host, files: int) -> None:
        self._host = host
        self._files = files

    def popen(self, args: list[str], **options: object) -> subprocess.Popen:
        return self._host.popen(["prlimit", f"--nofile={self._files}:{self._files}", *args], **options)


def number_of(packet: bytes) -> int:
    """The number that `numbered` put into a packet."""
    return struct.unpack_from("!I", packet, 12)[0]


def numbered(number: int) -> bytes:
    """An RTP packet that carries its number beyond 16 bits."""
    return rtp(number, payload=struct.pack("!I", number) + b"\xd5" * 156)


class Foreign:
    """Somebody else's XDP program, `foreign`, on an interface."""

    def __init__(self, host: Host, ifname: str) -> None:
        self._host = host
        self._ifname = ifname
        self._fd = load_plain_xdp("foreign")
        self._set(self._fd)
        self._line = xdp_of(host, ifname)

    def __enter__(self) -> "Foreign":
        return self

    def __exit__(self, *_: object) -> None:
        self._set(-1)
        os.close(self._fd)

    def is_attached(self) -> bool:
        """Tell whether the same program is still attached."""
        return xdp_of(self._host, self._ifname) == self._line != ""

    def _set(self, fd: int) -> None:
        def set_program() -> None:
            attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _XDP_FLAGS_DRV_MODE)]
            with IPRoute() as netlink:
                (index,) = netlink.link_lookup(ifname=self._ifname)
                netlink.link("set", index=index, IFLA_XDP={"attrs": attributes})

        self._host.call(set_program)
