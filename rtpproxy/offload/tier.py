"""The kernel tier of a running relay: programs attached to interfaces, and rows that follow the network.

Sets the order of steps at start, on each netlink event, and at exit; the steps are in other files of this directory.
"""

import logging
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections.abc import Callable, Collection

from rtpproxy.config import Config
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.network.addresses import HostAddresses, addresses_of_host
from rtpproxy.network.background import Runner
from rtpproxy.network.events import EventHandlers, Events, RoutingChanges
from rtpproxy.network.links import OurFrames
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rp_filter import RpFilter
from rtpproxy.network.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_ROUTE, RTMGRP_IPV6_RULE
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
"""Route events come in bursts: all routes are asked for at the first event, and then not again for this long."""
_PAUSE_SHARE = 2
"""Nor for so many times as long as asking took: where routes change all the time, it has a third of a processor."""
REROUTE_BATCH = 32
"""Routes to ask for before packets and commands get their turn."""
ROWS_BATCH = 64
"""Neighbours whose rows are written before packets and commands get their turn."""
_ROUTING = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_RULE


class KernelTier:
    """The programs on the host's interfaces, with next hops that follow the network."""

    def __init__(
        self,
        config: Config,
        programs: Programs,
        on_routes: Callable[[], None],
        loop: AbstractEventLoop,
        runner: Runner,
    ) -> None:
        """`on_routes` is called when routes or addresses changed; `runner` does what the kernel may take its time for.

        Nothing is attached before `start`.
        """
        self._config = config
        self._on_routes = on_routes
        self._loop = loop
        self._runner = runner
        self._programs = programs
        self._events = Events()
        self._routing = RoutingChanges(loop, _ROUTING, self._on_routing)
        self._netlink = Rtnetlink()
        self._interfaces = Interfaces(
            *(self._netlink, programs.on_interfaces, config.interfaces, config.offload, programs.refusals.count)
        )
        tables = programs.tables
        hops = tables.next_hops
        self._neighbours = Neighbours(self._interfaces, hops.write, hops.capacity, runner)
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
            on_address=self._on_address,
            on_filter=self._watch.suspect,
            on_end=self._on_end_of_events,
            on_lost=self._on_lost_events,
        )
        self._changed_links: dict[int, None] = {}
        self._are_addresses_new = False
        self._are_interfaces_new = False
        self._are_lists_old = False
        """Events were lost, and the kernel did not give a list in their place."""
        self._rerouting: TimerHandle | None = None
        self._continuing: Handle | None = None
        self._is_reroute_due = False
        """Something changed again while all routes were asked for."""
        self._working_off: Handle | None = None
        self._reroute_began_at = 0.0
        self._no_reroute_until = 0.0
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
        self._programs.load_by(self._runner, self._on_program_tried)
        self._loop.add_reader(self._events.fileno(), self._events.hand_out, self._handlers)
        self._routing.listen()

    def load_rest(self, at_end: Callable[[], None]) -> None:
        """Let the runner load all that an interface may ever need. Calls `at_end` here, and there once that is done."""
        self._programs.load_rest()
        self._runner.run(at_end, lambda outcome: outcome())
        at_end()

    def close(self) -> None:
        """Detach from every interface. To be called after the runner was closed."""
        self._loop.remove_reader(self._events.fileno())
        self._routing.close()
        for pending in (self._rerouting, self._continuing, self._working_off):
            if pending is not None:
                pending.cancel()
        self._programs.load_at_once()
        self._watch.close()
        self._interfaces.detach_all()
        self._interfaces.close()
        self._neighbours.close()
        self._events.close()
        self._netlink.close()

    def tick(self) -> None:
        """Check what no event reports. To be called every second."""
        if self._are_lists_old:
            self._ask_for_everything()
        self._neighbours.confirm_some()
        if self._rp_filter.check():
            self._follow_frames()
        self._follow_attached({*self._watch.tick(self._loop.time()), *self._interfaces.egress.check()})
        if self._continuing is None:
            self._reroute_began_at = self._loop.time()
            self._next_hops.recheck_some()
            self._continue_reroute()
        self._warn_of_headroom()

    def _on_program_tried(self) -> None:
        self._follow_attached(self._watch.retry_waiting())

    def _follow_attached(self, indexes: Collection[int]) -> None:
        """Adapt rows and routes to interfaces where a program came or went, or that can send other frames now."""
        if indexes:
            self._follow_links(indexes)

    def _follow_links(self, indexes: Collection[int]) -> None:
        for index in indexes:
            self._neighbours.on_link(index)
        self._work_off()
        self._are_interfaces_new = True
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

    def _on_link(self, message: bytes, is_gone: bool) -> None:
        index = self._interfaces.on_event(message, is_gone=is_gone)
        if index is not None:
            self._changed_links[index] = None
            self._watch.suspect(index)

    def _on_address(self) -> None:
        self._are_addresses_new = True
        self._reroute_soon()

    def _on_routing(self) -> None:
        # What changes from here on is asked for once more.
        self._routing.forget()
        self._routing.listen(REROUTE_PAUSE_S)
        self._reroute_soon()

    def _on_end_of_events(self) -> None:
        changed, self._changed_links = self._changed_links, {}
        if changed:
            self._follow_frames()
            self._follow_links(changed)
        self._follow_attached(self._watch.check(self._loop.time()))

    def _on_lost_events(self) -> None:
        log.warning("netlink events were lost; asking for everything again")
        self._ask_for_everything()

    def _ask_for_everything(self) -> None:
        self._are_lists_old = False
        try:
            self._interfaces.reload()
        except OffloadError as error:
            self._are_lists_old = True
            log.error("cannot ask for links: %s", error)
        self._neighbours.reload()
        self._follow_frames()
        self._watch.suspect_all()
        self._follow_links([link.index for link in self._interfaces.links.all()])
        self._follow_attached(self._watch.check(self._loop.time()))
        self._on_address()

    def _work_off(self) -> None:
        if self._working_off is not None:
            self._working_off.cancel()
            self._working_off = None
        try:
            is_more = self._neighbours.work_off(ROWS_BATCH)
        except OffloadError as error:
            log.error("cannot ask for neighbours: %s", error)
            self._are_lists_old = is_more = True
        if is_more:
            self._working_off = self._loop.call_soon(self._work_off)

    def _reroute_soon(self) -> None:
        if self._continuing is not None:
            self._is_reroute_due = True
        elif self._rerouting is None:
            self._rerouting = self._loop.call_at(max(self._loop.time(), self._no_reroute_until), self._reroute)

    def _reroute(self) -> None:
        self._rerouting = None
        self._on_routes()
        are_interfaces_new, self._are_interfaces_new = self._are_interfaces_new, False
        self._are_addresses_new |= are_interfaces_new
        if self._are_addresses_new:
            try:
                self._follow_addresses()
                self._attach_wanted()
                self._are_addresses_new = False
            except OffloadError as error:
                log.error("cannot ask for addresses: %s", error)
        self._reroute_began_at = self._loop.time()
        self._next_hops.start_reroute(are_interfaces_same=not are_interfaces_new)
        self._continue_reroute()

    def _continue_reroute(self) -> None:
        if self._continuing is not None:
            self._continuing.cancel()
            self._continuing = None
        if self.forwarder.reroute(REROUTE_BATCH, self._loop.time()):
            self._continuing = self._loop.call_soon(self._continue_reroute)
            return
        now = self._loop.time()
        self._no_reroute_until = now + max(REROUTE_PAUSE_S, _PAUSE_SHARE * (now - self._reroute_began_at))
        if self._is_reroute_due:
            self._is_reroute_due = False
            self._reroute_soon()
