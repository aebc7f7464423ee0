"""Network namespaces joined by veth pairs: caller - relay - callee, and further hosts, for tests, demo and bench.

      caller                  relay                  callee
    10.0.1.2  ─────────  10.0.1.1  10.0.2.1  ─────────  10.0.2.2

Each host but the relay has a segment of its own and a default route through the relay's address on it.
"""

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import DEADLINE_S, wait_for

_RUN_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
_TUNSETIFF = 0x400454CA
_TUNSETQUEUE = 0x400454D9
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x100
_IFF_ATTACH_QUEUE, _IFF_DETACH_QUEUE = 0x200, 0x400
_TERM_WAIT_S = 2.0
_NAME = re.compile(r"rtpt(\d+)-\d+-\w+")

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Interface:
    """One end of a veth pair. `ip6` is empty unless the topology was made with IPv6."""

    ifname: str
    ifindex: int
    mac: str
    ip: str
    ip6: str = ""


class Host:
    """A network namespace, its interfaces by the name of the segment they are on, and the processes started in it."""

    def __init__(self, name: str, ns: str) -> None:
        self.name = name
        self.ns = ns
        self.interfaces: dict[str, Interface] = {}
        self._processes: list[subprocess.Popen] = []

    def run(self, args: list[str], **options: Any) -> subprocess.CompletedProcess:
        """Run a command in the namespace and wait for it; a failing command raises unless `check=False`."""
        options = {"check": True, "capture_output": True, "text": True, **options}
        return subprocess.run(self._command(args), **options)

    def popen(self, args: list[str], **options: Any) -> subprocess.Popen:
        """Start a process in the namespace. It leads a process group, which ends with the topology at the latest."""
        process = subprocess.Popen(self._command(args), start_new_session=True, **options)
        self._processes.append(process)
        return process

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in a thread that has entered the namespace; its sockets belong there ever after."""
        outcome: list[Any] = []
        errors: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                with open(_RUN_NETNS / self.ns) as netns:
                    if _libc.setns(netns.fileno(), _CLONE_NEWNET) < 0:  # os.setns comes with Python 3.12
                        raise OSError(ctypes.get_errno(), f"setns {self.ns}")
                outcome.append(function(*args))
            except BaseException as error:  # raised again in the calling thread
                errors.append(error)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return outcome[0]

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """A socket of the namespace, usable from any thread."""
        return self.call(socket.socket, family, kind, protocol)

    def end_processes(self) -> None:
        """End what `popen` started, process group by process group."""
        for process in self._processes:
            _signal_group(process, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_TERM_WAIT_S)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        self._processes.clear()

    def _command(self, args: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.ns, *map(str, args)]  # it executes: the process id is the command's


class Phone(Host):
    """A host with one interface, whose gateway is the relay's interface `gateway`."""

    interface: Interface
    gateway: Interface

    @property
    def ifname(self) -> str:
        return self.interface.ifname

    @property
    def ifindex(self) -> int:
        return self.interface.ifindex

    @property
    def mac(self) -> str:
        return self.interface.mac

    @property
    def ip(self) -> str:
        return self.interface.ip

    @property
    def ip6(self) -> str:
        return self.interface.ip6


class Topology:
    """The namespaces as a context manager. Everything is removed on leaving, also when set-up or the body fails."""

    def __init__(self, *, ipv6: bool = False) -> None:
        self._ipv6 = ipv6
        self._prefix = f"rtpt{os.getpid()}-{next(_numbers)}"
        self._hosts: list[Host] = []
        self.relay = Host("relay", f"{self._prefix}-relay")
        self.caller: Phone
        self.callee: Phone

    def __enter__(self) -> "Topology":
        _remove_leftovers()
        try:
            self._add_namespace(self.relay)
            self.caller = self.add_host("caller")
            self.callee = self.add_host("callee")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def add_host(self, name: str, segment: int | None = None) -> Phone:
        """Another host on a segment of its own: 10.0.`segment`.2, the relay being 10.0.`segment`.1 there."""
        phone = Phone(name, f"{self._prefix}-{name}")
        self._add_namespace(phone)
        self.connect(phone, segment or len(self._hosts) - 1)
        return phone

    def connect(self, phone: Phone, segment: int) -> None:
        """Join a host to the relay, for the first time or again after the pair was deleted."""
        name = phone.name
        # Two ends with the same index, even in two namespaces, get their carrier up to a second late.
        _ip(
            f"link add {name} netns {phone.ns} index {_index(segment, 2)} address {_mac(segment, 2)} type veth"
            f" peer name to-{name} netns {self.relay.ns} index {_index(segment, 1)} address {_mac(segment, 1)}"
        )
        phone.interface = self._set_up(phone, name, segment, 2)
        phone.gateway = self._set_up(self.relay, f"to-{name}", segment, 1)
        phone.interfaces[name] = phone.interface
        self.relay.interfaces[name] = phone.gateway
        routes = [f"route add default via {phone.gateway.ip}"]
        if self._ipv6:
            routes.append(f"route add default via {phone.gateway.ip6}")
        _ip(*routes, ns=phone.ns)
        for host in (phone, self.relay):
            ifname = host.interfaces[name].ifname
            host.call(wait_for, lambda ifname=ifname: _is_running(ifname), DEADLINE_S, f"carrier on {ifname}")

    def close(self) -> None:
        """End the processes and remove the namespaces; veth pairs go with them."""
        for host in reversed(self._hosts):
            host.end_processes()
        for host in self._hosts:
            subprocess.run(["ip", "netns", "del", host.ns], capture_output=True, check=False)
        self._hosts.clear()

    def _add_namespace(self, host: Host) -> None:
        self._hosts.append(host)
        _ip(f"netns add {host.ns}")
        host.call(_set_ipv6, self._ipv6)  # before there are interfaces, which inherit it
        _ip("link set lo up", ns=host.ns)

    def _set_up(self, host: Host, ifname: str, segment: int, number: int) -> Interface:
        ip, ip6 = f"10.0.{segment}.{number}", f"fd00:0:{segment}::{number}" if self._ipv6 else ""
        commands = [f"addr add {ip}/24 dev {ifname}"]
        if ip6:
            commands.append(f"addr add {ip6}/64 dev {ifname} nodad")
        _ip(*commands, f"link set {ifname} up", ns=host.ns)
        # A veth hands its peer unfinished checksums unless told not to, and takes redirected frames in only if it
        # runs an XDP program or has GRO on.
        host.run(["ethtool", "-K", ifname, "tx", "off", "gro", "on"])
        features = host.run(["ethtool", "-k", ifname]).stdout
        for feature in ("tx-checksumming: off", "generic-receive-offload: on"):
            if feature not in features:
                raise RuntimeError(f"{ifname} in {host.ns} is not {feature}")
        return Interface(ifname, _index(segment, number), _mac(segment, number), ip, ip6)


class TapDevice:
    """The far end of a tap interface: a program that takes the frames that are sent by it."""

    def __init__(self, device: int) -> None:
        self._device = device

    def take(self) -> list[bytes]:
        """Take the frames that have arrived; does not wait."""
        arrived = []
        with contextlib.suppress(BlockingIOError):
            while True:
                arrived.append(os.read(self._device, 65536))
        return arrived

    def set_queue(self, *, is_there: bool) -> None:
        """Take the interface its only transmit queue, or give it back; its carrier stays."""
        flag = _IFF_ATTACH_QUEUE if is_there else _IFF_DETACH_QUEUE
        fcntl.ioctl(self._device, _TUNSETQUEUE, struct.pack("16sH22x", b"", flag))


@contextlib.contextmanager
def tap(host: Host, name: str) -> Iterator[TapDevice]:
    """A tap interface with one transmit queue, that could have more, while a program has it open."""
    _ip(f"tuntap add {name} mode tap multi_queue", f"link set {name} up", ns=host.ns)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE)
    # It belongs to the namespace where it was opened.
    device = host.call(os.open, "/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, request)
        yield TapDevice(device)
    finally:
        os.close(device)
        _ip(f"link del {name}", ns=host.ns)


def _index(segment: int, number: int) -> int:
    return 10 * segment + number


def _mac(segment: int, number: int) -> str:
    return f"02:00:00:00:{segment:02x}:{number:02x}"


def _ip(*commands: str, ns: str | None = None) -> None:
    """Run iproute2 commands, in one process, in the namespace if given."""
    where = ["-n", ns] if ns else []
    batch = "\n".join(commands) + "\n"
    done = subprocess.run(["ip", *where, "-batch", "-"], input=batch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(where)}: {batch.strip()}: {done.stderr.strip()}")


def _is_running(ifname: str) -> bool:
    request = struct.pack("16sH22x", ifname.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
    return bool(struct.unpack("16sH22x", answer)[1] & _IFF_RUNNING)


def _set_ipv6(enabled: bool) -> None:
    for scope in ("all", "default"):
        directory = Path("/proc/sys/net/ipv6/conf", scope)
        (directory / "disable_ipv6").write_text("0" if enabled else "1")
        (directory / "accept_dad").write_text("0")


def udp_counter(name: str, process: int | str = "self") -> int:
    """Read a counter of UDP over IPv4 in the network namespace of a process: InCsumErrors, RcvbufErrors, ..."""
    lines = Path(f"/proc/{process}/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    return int(values[names.index(name)])


def _signal_group(process: subprocess.Popen, number: int) -> None:
    if process.returncode is None:  # else it was waited for, and the number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _remove_leftovers() -> None:
    """Remove the namespaces of processes that died before they could."""
    for name in _dead_names():
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _dead_names() -> Iterator[str]:
    names = os.listdir(_RUN_NETNS) if _RUN_NETNS.exists() else []
    for name in names:
        match = _NAME.fullmatch(name)
        if match and not Path("/proc", match[1]).exists():
            yield name
