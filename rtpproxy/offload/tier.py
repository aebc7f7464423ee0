"""The kernel side of a running relay, put together: programs loaded and attached, events followed.

The parts are in `offload/`; here is what must happen in which order, at start, on each event, and at exit.
"""

import hashlib
import ipaddress
import logging
import os
import struct
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections.abc import Callable
from contextlib import ExitStack

from rtpproxy.config import SHORT_BYTES, Config, ListenAddress
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.network.addresses import HostAddresses, addresses_of_host
from rtpproxy.network.links import FrameKey, OurFrames
from rtpproxy.network.netlink import Events, Rtnetlink
from rtpproxy.offload import loader
from rtpproxy.offload.attach import PROGRAM_PREFIX, Interfaces, ProgramSet, Report, carriers
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.nexthop import NextHops
from rtpproxy.offload.syscall import attach_sk_lookup, map_delete, map_write, sockmap_set
from rtpproxy.offload.tables import Tables, mac_bytes, tag_bytes
from rtpproxy.session.local import slots_of

log = logging.getLogger(__name__)

REROUTE_PAUSE_S = 0.05
"""Route events come in bursts: after the first, routes are asked at once, and then not again for this long."""
REROUTE_BATCH = 32
"""Routes asked before packets and commands get their turn."""


def instance_name(config: Config) -> str:
    """Eight characters that tell this relay from others: they are in the names of its programs."""
    return hashlib.sha256(config.instance.encode()).hexdigest()[:8]


class Programs:
    """The loaded programs and mapped tables. `close` leaves nothing but what is attached to interfaces."""

    def __init__(self, config: Config) -> None:
        """Load everything. Raises OffloadError, and leaves nothing loaded then."""
        name = instance_name(config)
        names = dict(zip(loader.PROGRAM_MACROS, (f"{PROGRAM_PREFIX}{letter}_{name}" for letter in "xtbs"), strict=True))
        listen = config.listen
        first_port, last_port = config.port_min, config.port_max + 1
        self._steer_link = -1
        with ExitStack() as stack:
            self._loaded = loader.load(
                {
                    **names,
                    "FIRST_PORT": str(first_port),
                    "PORT_SPAN": str(last_port + 1 - first_port),
                    "LOCAL_SLOTS": str(max(slots_of(listen)) + 1),
                    "DOUBLED_BYTES": str(SHORT_BYTES if config.is_doubling else 0),
                    **_slot_defines(listen),
                }
            )
            stack.callback(self._loaded.close)
            try:
                self.tables = Tables(self._loaded, first_port, last_port)
            except OSError as error:
                raise OffloadError(f"cannot map the tables: {error.strerror}") from error
            stack.callback(self.tables.close)
            wildcards = {address.is_ipv6 for address in listen if not address.host}
            for address, slot in zip(listen, slots_of(listen), strict=True):
                if address.is_ipv6 not in wildcards:
                    self.add_local(address.host, slot)
            stack.pop_all()
        self.on_interfaces = ProgramSet(
            xdp=(self._loaded.xdp_fd, names["ON_XDP"]),
            tc=(self._loaded.tc_fd, names["ON_TC"]),
            tc_behind_xdp=(self._loaded.tc_behind_xdp_fd, names["ON_TC_BEHIND_XDP"]),
        )

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
        """Let the programs know that an address is one of this host's, or is not any more. Raises OffloadError."""
        map_fd, key = self._loaded.map_fds["host_addresses"], _local_address(host)
        try:
            if is_ours:
                map_write(map_fd, key, b"\1")
            else:
                map_delete(map_fd, key)
        except OSError as error:
            raise OffloadError(f"{host}: the list of this host's addresses: {error.strerror}") from error

    def mark_frames(self, key: FrameKey, mac: str | None) -> None:
        """Let the programs know which MAC frames for this host have, or that there are none. Raises OffloadError."""
        (index, tags), value = key, (mac_bytes(mac) if mac else bytes(6)) + bytes(2)
        packed = struct.pack("=I", index)
        try:
            if not tags and index < loader.UNTAGGED_LINKS:
                map_write(self._loaded.map_fds["untagged_links"], packed, value)
            elif mac is None:
                map_delete(self._loaded.map_fds["links"], packed + tag_bytes(tags))
            else:
                map_write(self._loaded.map_fds["links"], packed + tag_bytes(tags), value)
        except OSError as error:
            raise OffloadError(f"interface {index}: the list of interfaces: {error.strerror}") from error

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
    for is_ipv6, family in ((False, "IPV4"), (True, "IPV6")):
        first = next(((one.host, slot) for one, slot in by_slot if one.host and one.is_ipv6 is is_ipv6), None)
        if first is not None:
            host, slot = first
            packed = ipaddress.ip_address(host).packed
            words = [f"__constant_htonl({word:#x})" for word in struct.unpack(f"!{len(packed) // 4}I", packed)]
            defines[f"FIRST_{family}"] = f"{{{','.join(words)}}}" if is_ipv6 else words[0]
            defines[f"FIRST_{family}_SLOT"] = str(slot)
    return defines


def _local_address(host: str) -> bytes:
    """A key of `local_slots` and `host_addresses`."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


class KernelTier:
    """The programs on the host's interfaces, with next hops that follow the network."""

    def __init__(self, config: Config, programs: Programs, on_routes: Callable[[], None]) -> None:
        """`on_routes` is called when routes or addresses changed. Nothing is attached before `start`."""
        self._config = config
        self._on_routes = on_routes
        self._events = Events()
        self._netlink = Rtnetlink()
        self._interfaces = Interfaces(self._netlink, programs.on_interfaces, config.interfaces, config.offload)
        tables = programs.tables
        self._next_hops = NextHops(self._netlink, self._interfaces, tables.write_next_hop, tables.max_next_hops)
        self._addresses = HostAddresses(programs.mark_host)
        self._frames = OurFrames(programs.mark_frames)
        self.forwarder = Forwarder(tables, self._next_hops)
        self.counters = tables
        self._loop: AbstractEventLoop | None = None
        self._rerouting: TimerHandle | None = None
        self._continuing: Handle | None = None
        self._rerouted_at = 0.0
        self._tables = tables
        self._has_told_of_headroom = False

    def start(self, loop: AbstractEventLoop) -> None:
        """Clear what a killed predecessor left, attach, and follow events. Raises StartError where that is required."""
        for name in self._interfaces.clear_leftovers():
            log.warning("%s: detached what a killed predecessor left", name)
        self._check_names()
        self._follow_addresses()
        self._follow_frames()
        reports = self._attach_wanted()
        if self._config.offload.is_required:
            self._require(reports)
        self._loop = loop
        loop.add_reader(self._events.fileno(), self._on_events)

    def close(self) -> None:
        """Detach from every interface."""
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
        for pending in (self._rerouting, self._continuing):
            if pending is not None:
                pending.cancel()
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
        self._tell_of_headroom()

    def _tell_of_headroom(self) -> None:
        if not self._has_told_of_headroom and self._tables.count("up_no_headroom"):
            self._has_told_of_headroom = True
            log.warning(
                "a driver leaves no room before its frames for a longer header: userspace relays what arrives there "
                "and goes from IPv4 to IPv6, or gets a VLAN tag (counted as up_no_headroom)"
            )

    def _check_names(self) -> None:
        for name in self._config.interfaces:
            if self._interfaces.links.by_name(name) is None:
                raise StartError(f"--interface {name}: there is no such interface")

    def _follow_addresses(self) -> None:
        self._addresses.follow({host for host, _ in addresses_of_host(self._netlink)})

    def _follow_frames(self) -> None:
        self._frames.follow(self._interfaces.links.frames())

    def _attach_wanted(self) -> list[Report]:
        """Attach to what the options name, or to what carries a listen address; nothing is attached twice."""
        if self._config.interfaces:
            links = [self._interfaces.links.by_name(name) for name in self._config.interfaces]
            indexes = [link.index for link in links if link is not None]
        else:
            indexes = []
            for is_ipv6 in (False, True):
                hosts = {address.host for address in self._config.listen if address.is_ipv6 is is_ipv6}
                indexes += carriers(self._netlink, hosts, is_ipv6=is_ipv6)
        return [self._interfaces.attach(index) for index in indexes]

    def _require(self, reports: list[Report]) -> None:
        # Under the wildcard, the loopback interface is found too, where nothing is forwarded on any host.
        missing = [
            report
            for report in reports
            if report.tier is Tier.USERSPACE and (report.name != "lo" or report.name in self._config.interfaces)
        ]
        if missing or all(report.tier is Tier.USERSPACE for report in reports):
            why = "; ".join(map(str, missing or reports)) or "no interface carries a listen address"
            raise StartError(f"--offload {self._config.offload.value} cannot be had: {why}")

    def _on_events(self) -> None:
        messages = self._events.read()
        if messages is None:
            log.warning("netlink events were lost; asking for everything again")
            try:
                self._interfaces.reload()
                self._next_hops.reload()
            except OffloadError as error:
                log.error("cannot ask for links and neighbours: %s", error)
            self._follow_frames()
            self._reroute_soon()
            return
        changed: dict[int, None] = {}
        is_routing = False
        for message in messages:
            event = message["event"]
            if event in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
                self._next_hops.on_neighbour(message)
            elif event in ("RTM_NEWLINK", "RTM_DELLINK"):
                index = self._interfaces.on_event(message)
                if index is not None:
                    changed[index] = None
            else:
                is_routing = True
        if changed:
            self._follow_frames()
            for index in changed:
                self._next_hops.on_link(index)
        if changed or is_routing:
            self._reroute_soon()

    def _reroute_soon(self) -> None:
        if self._rerouting is None and self._loop is not None:
            at = max(self._loop.time(), self._rerouted_at + REROUTE_PAUSE_S)
            self._rerouting = self._loop.call_at(at, self._reroute)

    def _reroute(self) -> None:
        assert self._loop is not None
        self._rerouting = None
        self._rerouted_at = self._loop.time()
        self._on_routes()
        try:
            self._follow_addresses()
            self._attach_wanted()
        except OffloadError as error:
            log.error("cannot ask for addresses: %s", error)
        self._next_hops.start_reroute()
        self._continue_reroute()

    def _continue_reroute(self) -> None:
        if self._continuing is not None:
            self._continuing.cancel()
            self._continuing = None
        assert self._loop is not None
        if self.forwarder.reroute(REROUTE_BATCH, self._loop.time()) and self._rerouting is None:
            self._continuing = self._loop.call_soon(self._continue_reroute)
