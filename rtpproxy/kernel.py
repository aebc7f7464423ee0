"""The kernel side of a running relay, put together: programs loaded and attached, events followed.

The parts are in `offload/`; here is what must happen in which order, at start, on each event, and at exit.
"""

import hashlib
import ipaddress
import logging
import os
import socket
import struct
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rtpproxy.addr import ipv4_number
from rtpproxy.config import Config, ListenAddress, OffloadMode
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.offload import loader
from rtpproxy.offload.addresses import HostAddresses, ipv4_addresses
from rtpproxy.offload.attach import PROGRAM_PREFIX, Interfaces, Report, Tier, carriers
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.netlink import Events, Message, Rtnetlink
from rtpproxy.offload.nexthop import NextHops
from rtpproxy.offload.syscall import attach_sk_lookup, map_delete, map_write, sockmap_set
from rtpproxy.offload.tables import Tables
from rtpproxy.session.local import slots_of

log = logging.getLogger(__name__)

REROUTE_DELAY_S = 0.05
"""Route events come in bursts; routes are asked again this long after the first."""
REROUTE_BATCH = 32
"""Routes asked before packets and commands get their turn."""
_DEFAULT_TTL = Path("/proc/sys/net/ipv4/ip_default_ttl")


def instance_name(config: Config) -> str:
    """Eight characters that tell this relay from others: they are in the names of its programs."""
    return hashlib.sha256(config.instance.encode()).hexdigest()[:8]


class Programs:
    """The loaded programs and mapped tables. `close` leaves nothing but what is attached to interfaces."""

    def __init__(self, config: Config) -> None:
        """Load everything. Raises OffloadError, and leaves nothing loaded then."""
        name = instance_name(config)
        self.xdp_name = f"{PROGRAM_PREFIX}x_{name}"
        listen = config.listen
        first_port, last_port = config.port_min, config.port_max + 1
        self._steer_link = -1
        with ExitStack() as stack:
            self._loaded = loader.load(
                {
                    "ON_XDP": self.xdp_name,
                    "ON_STEER": f"{PROGRAM_PREFIX}s_{name}",
                    "FIRST_PORT": str(first_port),
                    "PORT_SPAN": str(last_port + 1 - first_port),
                    "LOCAL_SLOTS": str(max(slots_of(listen)) + 1),
                    **_slot_defines(listen),
                }
            )
            stack.callback(self._loaded.close)
            try:
                ttl = int(_DEFAULT_TTL.read_text())
                self.tables = Tables(self._loaded, first_port, last_port, ttl)
            except OSError as error:
                raise OffloadError(f"cannot map the tables: {error.strerror}") from error
            stack.callback(self.tables.close)
            wildcards = {address.is_ipv6 for address in listen if not address.host}
            for address, slot in zip(listen, slots_of(listen), strict=True):
                if address.is_ipv6 not in wildcards:
                    self.add_local(address.host, slot)
            stack.pop_all()

    @property
    def xdp_fd(self) -> int:
        """Descriptor of the XDP program."""
        return self._loaded.xdp_fd

    def steer(self, receivers: list[int]) -> None:
        """Hand packets for open ports to these sockets: eight of IPv4, then eight of IPv6 or none.

        Raises OffloadError.
        """
        try:
            for number, receiver in enumerate(receivers):
                sockmap_set(self._loaded.map_fds["steered_sockets"], number, receiver)
            self._steer_link = attach_sk_lookup(self._loaded.steer_fd)
        except OSError as error:
            raise OffloadError(f"cannot attach the sk_lookup program: {error.strerror}") from error

    def add_local(self, host: str, slot: int) -> None:
        """Give an address of ours the port space `slot`. Raises OffloadError when it cannot be had.

        An address of a family that is listened on as a whole keeps that family's port space.
        """
        try:
            map_write(self._loaded.map_fds["local_slots"], _local_address(host), struct.pack("=I", slot))
        except OSError as error:
            raise OffloadError(f"{host}: cannot give it a port space: {error.strerror}") from error

    def mark_host(self, host: str, is_ours: bool) -> None:
        """Let the programs know that an IPv4 address is one of this host's, or is not any more. Raises OffloadError."""
        map_fd, key = self._loaded.map_fds["host_addresses"], socket.inet_aton(host)
        try:
            if is_ours:
                map_write(map_fd, key, b"\1")
            else:
                map_delete(map_fd, key)
        except OSError as error:
            raise OffloadError(f"{host}: the list of this host's addresses: {error.strerror}") from error

    def mark(self, key: int, is_open: bool) -> None:
        """Open or close a port in the port table."""
        (self.tables.open_port if is_open else self.tables.close_port)(key)

    def close(self) -> None:
        """Stop steering and let everything go."""
        if self._steer_link >= 0:
            os.close(self._steer_link)
        self.tables.close()
        self._loaded.close()


def _slot_defines(listen: tuple[ListenAddress, ...]) -> dict[str, str]:
    """What the programs know of `listen` without looking anything up."""
    by_slot = list(zip(listen, slots_of(listen), strict=True))
    defines = {f"ANY_IPV{6 if one.is_ipv6 else 4}_SLOT": str(slot) for one, slot in by_slot if not one.host}
    for one, slot in by_slot:
        if not one.is_ipv6 and one.host:
            number = ipv4_number(one.host)
            return {**defines, "FIRST_IPV4": f"__constant_htonl({number:#x})", "FIRST_IPV4_SLOT": str(slot)}
    return defines


def _local_address(host: str) -> bytes:
    """A key of `local_slots`."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


class KernelTier:
    """The XDP program on the host's interfaces, with next hops that follow the network."""

    def __init__(self, config: Config, programs: Programs, on_routes: Callable[[], None]) -> None:
        """`on_routes` is called when routes or addresses changed. Nothing is attached before `start`."""
        self._config = config
        self._on_routes = on_routes
        self._events = Events()
        self._netlink = Rtnetlink()
        self._interfaces = Interfaces(self._netlink, programs.xdp_fd, programs.xdp_name, config.interfaces)
        tables = programs.tables
        self._next_hops = NextHops(self._netlink, self._interfaces, tables.write_next_hop, tables.max_next_hops)
        self._addresses = HostAddresses(programs.mark_host)
        self.forwarder = Forwarder(tables, self._next_hops)
        self._loop: AbstractEventLoop | None = None
        self._rerouting: TimerHandle | None = None

    def start(self, loop: AbstractEventLoop) -> None:
        """Clear what a killed predecessor left, attach, and follow events. Raises StartError under `--offload xdp`."""
        for name in self._interfaces.clear_leftovers():
            log.warning("%s: detached the XDP program that a killed predecessor left", name)
        self._check_names()
        self._follow_addresses()
        reports = self._attach_wanted()
        if self._config.offload is OffloadMode.XDP:
            self._require_xdp(reports)
        self._loop = loop
        loop.add_reader(self._events.fileno(), self._on_events)

    def close(self) -> None:
        """Detach from every interface."""
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
        if self._rerouting is not None:
            self._rerouting.cancel()
        self._interfaces.detach_all()
        self._interfaces.close()
        self._events.close()
        self._netlink.close()

    def tick(self) -> None:
        """Look at what no event tells. To be called every second."""
        self._next_hops.confirm_some()
        changed = self._interfaces.check_senders()
        for index in changed:
            self._next_hops.on_link(index)
        if changed:
            self._reroute_soon()
        if self._next_hops.is_rerouted:
            self._next_hops.recheck_some()
            self._continue_reroute()

    def _check_names(self) -> None:
        for name in self._config.interfaces:
            if self._interfaces.by_name(name) is None:
                raise StartError(f"--interface {name}: there is no such interface")

    def _follow_addresses(self) -> None:
        self._addresses.follow({host for host, _ in ipv4_addresses(self._netlink)})

    def _attach_wanted(self) -> list[Report]:
        """Attach to what the options name, or to what carries a listen address; nothing is attached twice."""
        if self._config.interfaces:
            links = [self._interfaces.by_name(name) for name in self._config.interfaces]
            indexes = [link.index for link in links if link is not None]
        else:
            hosts = {address.host for address in self._config.listen if not address.is_ipv6}
            indexes = carriers(self._netlink, hosts)
        return [self._interfaces.attach(index) for index in indexes]

    def _require_xdp(self, reports: list[Report]) -> None:
        # Under the wildcard, the loopback interface is found too; it has no native XDP on any host.
        missing = [
            report
            for report in reports
            if report.tier is not Tier.XDP and (report.name != "lo" or report.name in self._config.interfaces)
        ]
        if missing or not any(report.tier is Tier.XDP for report in reports):
            why = "; ".join(map(str, missing or reports)) or "no interface carries a listen address"
            raise StartError(f"--offload xdp cannot be had: {why}")

    def _on_events(self) -> None:
        messages = self._events.read()
        if messages is None:
            log.warning("netlink events were lost; asking for everything again")
            self._interfaces.reload()
            self._next_hops.reload()
            self._reroute_soon()
            return
        for message in messages:
            self._on_event(message)

    def _on_event(self, message: Message) -> None:
        event = message["event"]
        if event in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
            self._next_hops.on_neighbour(message)
            return
        if event in ("RTM_NEWLINK", "RTM_DELLINK"):
            index = self._interfaces.on_event(message)
            if index is None:
                return
            self._next_hops.on_link(index)
        self._reroute_soon()

    def _reroute_soon(self) -> None:
        if self._rerouting is None and self._loop is not None:
            self._rerouting = self._loop.call_later(REROUTE_DELAY_S, self._reroute)

    def _reroute(self) -> None:
        assert self._loop is not None
        self._rerouting = None
        self._on_routes()
        try:
            self._follow_addresses()
            self._attach_wanted()
        except OffloadError as error:
            log.error("cannot ask for addresses: %s", error)
        self._next_hops.start_reroute()
        self._continue_reroute()

    def _continue_reroute(self) -> None:
        assert self._loop is not None
        if self.forwarder.reroute(REROUTE_BATCH) and self._rerouting is None:
            self._loop.call_soon(self._continue_reroute)
