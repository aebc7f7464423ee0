"""The kernel tier of a running relay: programs attached to interfaces, and rows that follow the network.

Sets the order of steps at start, on each netlink event, and at exit; the steps are in other files of this directory.
"""

import logging
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections.abc import Callable, Collection

from rtpproxy.config import Config
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.network.addresses import HostAddresses, addresses_of_host
from rtpproxy.network.events import EventHandlers, Events
from rtpproxy.network.links import OurFrames
from rtpproxy.network.netlink import Message, Rtnetlink
from rtpproxy.network.rp_filter import RpFilter
from rtpproxy.offload.attach import Interfaces, Report, carriers
from rtpproxy.offload.contradictions import Contradictions
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.neighbours import Neighbours
from rtpproxy.offload.nexthop import NextHops
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.watch import Watch

log = logging.getLogger(__name__)

REROUTE_PAUSE_S = 0.05
"""Route events come in bursts: routes are asked for at the first event, and then not again for this long."""
REROUTE_BATCH = 32
"""Routes to ask for before packets and commands get their turn."""


class KernelTier:
    """The programs on the host's interfaces, with next hops that follow the network."""

    def __init__(
        self, config: Config, programs: Programs, on_routes: Callable[[], None], loop: AbstractEventLoop
    ) -> None:
        """`on_routes` is called when routes or addresses changed. Nothing is attached before `start`."""
        self._config = config
        self._on_routes = on_routes
        self._loop = loop
        self._events = Events()
        self._netlink = Rtnetlink()
        self._interfaces = Interfaces(
            *(self._netlink, programs.on_interfaces, config.interfaces, config.offload, programs.refusals.count)
        )
        tables = programs.tables
        hops = tables.next_hops
        self._neighbours = Neighbours(self._netlink, self._interfaces, hops.write, hops.capacity)
        self._next_hops = NextHops(self._netlink, self._interfaces, self._neighbours)
        self._addresses = HostAddresses(programs.host_maps.mark_host)
        self._frames = OurFrames(programs.host_maps.mark_frames)
        self._rp_filter = RpFilter()
        self.counters = tables.counts
        self.forwarder = Forwarder(tables.ports, self._next_hops, Contradictions(tables.counts.forwarded))
        self._watch = Watch(
            self._interfaces, self.forwarder, tables.counts.forwarded, tables.counts.unforwarded_by_verdict
        )
        self._handlers = EventHandlers(
            on_link=self._on_link,
            on_neighbour=self._neighbours.on_neighbour,
            on_routing=lambda _: self._reroute_soon(),
            on_filter=lambda message: self._watch.suspect(message["index"]),
            on_end=self._on_end_of_events,
            on_lost=self._on_lost_events,
        )
        self._changed_links: dict[int, None] = {}
        self._rerouting: TimerHandle | None = None
        self._continuing: Handle | None = None
        self._rerouted_at = 0.0
        self._has_warned_of_headroom = False

    def start(self) -> None:
        """Attach, and follow events. Raises StartError without a required tier."""
        # What a killed predecessor left may just have been detached.
        self._interfaces.links.reload()
        self._check_names()
        self._follow_addresses()
        self._follow_frames()
        reports = self._attach_wanted()
        if self._config.offload.is_required:
            self._require(reports)
        self._loop.add_reader(self._events.fileno(), self._events.hand_out, self._handlers)

    def close(self) -> None:
        """Detach from every interface."""
        self._loop.remove_reader(self._events.fileno())
        for pending in (self._rerouting, self._continuing):
            if pending is not None:
                pending.cancel()
        self._interfaces.detach_all()
        self._interfaces.close()
        self._events.close()
        self._netlink.close()

    def tick(self) -> None:
        """Check what no event reports. To be called every second."""
        self._neighbours.confirm_some()
        if self._rp_filter.check():
            self._follow_frames()
        self._follow_attached({*self._watch.tick(self._loop.time()), *self._interfaces.egress.check()})
        if self._next_hops.is_rerouted:
            self._next_hops.recheck_some()
            self._continue_reroute()
        self._warn_of_headroom()

    def _follow_attached(self, indexes: Collection[int]) -> None:
        """Adapt rows and routes to interfaces where a program came or went, or that can send other frames now."""
        for index in indexes:
            self._neighbours.on_link(index)
        if indexes:
            self._reroute_soon()

    def _warn_of_headroom(self) -> None:
        if not self._has_warned_of_headroom and self.counters.count("up_no_headroom"):
            self._has_warned_of_headroom = True
            log.warning(
                "a driver leaves no room before its frames for a longer header: userspace relays packets that arrive "
                "there and leave with IPv6 instead of IPv4, or with a VLAN tag (counted as up_no_headroom)"
            )

    def _check_names(self) -> None:
        for name in self._config.interfaces:
            if self._interfaces.links.by_name(name) is None:
                raise StartError(f"--interface {name}: there is no such interface")

    def _follow_addresses(self) -> None:
        self._addresses.follow({host for host, _ in addresses_of_host(self._netlink)})

    def _follow_frames(self) -> None:
        self._frames.follow(self._interfaces.links.frames(self._rp_filter.is_strict))

    def _attach_wanted(self) -> list[Report]:
        """Attach to the interfaces that the options name, or that carry a listen address; never twice to one."""
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
        # A wildcard includes the loopback interface, where nothing is ever forwarded.
        missing = [
            report
            for report in reports
            if report.tier is Tier.USERSPACE and (report.name != "lo" or report.name in self._config.interfaces)
        ]
        if missing or all(report.tier is Tier.USERSPACE for report in reports):
            why = "; ".join(map(str, missing or reports)) or "no interface carries a listen address"
            raise StartError(f"--offload {self._config.offload.value} cannot be had: {why}")

    def _on_link(self, message: Message) -> None:
        index = self._interfaces.on_event(message)
        if index is not None:
            self._changed_links[index] = None
            self._watch.suspect(index)

    def _on_end_of_events(self) -> None:
        changed, self._changed_links = self._changed_links, {}
        if changed:
            self._follow_frames()
            for index in changed:
                self._neighbours.on_link(index)
            self._reroute_soon()
        self._follow_attached(self._watch.check(self._loop.time()))

    def _on_lost_events(self) -> None:
        log.warning("netlink events were lost; asking for everything again")
        try:
            self._interfaces.reload()
            self._neighbours.reload()
        except OffloadError as error:
            log.error("cannot ask for links and neighbours: %s", error)
        self._follow_frames()
        self._watch.suspect_all()
        self._follow_attached(self._watch.check(self._loop.time()))
        self._reroute_soon()

    def _reroute_soon(self) -> None:
        if self._rerouting is None:
            at = max(self._loop.time(), self._rerouted_at + REROUTE_PAUSE_S)
            self._rerouting = self._loop.call_at(at, self._reroute)

    def _reroute(self) -> None:
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
        if self.forwarder.reroute(REROUTE_BATCH, self._loop.time()) and self._rerouting is None:
            self._continuing = self._loop.call_soon(self._continue_reroute)
