"""The parts of the kernel tier that follow the network, at work in a namespace; next hop rows are a dictionary."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from rtpproxy.config import OffloadMode
from rtpproxy.network.events import EventHandlers, Events, hand_out
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.offload.attach import Attachable, Interfaces, ProgramSet
from rtpproxy.offload.entry import NO_INGRESS, NextHop, Tier, XdpWay
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.loading import BeingLoadedError
from rtpproxy.offload.neighbours import Neighbours
from rtpproxy.offload.nexthop import NextHops, NoRoute, Route
from tests.conftest import TC_BEHIND_NAME, TC_NAME, XDP_NAME
from tests.netns import Host, Interface
from tests.waiting import DEADLINE_S, wait_for

CAPACITY = 8
MAC, OTHER_MAC = "02:00:00:00:00:77", "02:00:00:00:00:88"


class Foreground:
    """Does work at once, in place of `network.background.Background`."""

    def run(self, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> None:
        """Do the work when its result is asked for."""
        on_done(work)


class Later:
    """Does work when the test says so, in place of `network.background.Background`."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Callable[[], Any]], None]]] = []

    def run(self, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> None:
        """Keep the work for `do_one`."""
        self.waiting.append((work, on_done))

    def do_one(self) -> None:
        """Do what was asked for first."""
        work, on_done = self.waiting.pop(0)
        on_done(work)


class RelayNetwork:
    """Makes everything in the namespace; sockets stay there, whichever thread uses them."""

    def __init__(self, host: Host, loaded: Loaded, mode: OffloadMode = OffloadMode.AUTO) -> None:
        self.host = host
        self.rows: dict[int, NextHop | None] = {}
        self.written: list[tuple[int, NextHop | None]] = []
        self.being_loaded: set[str] = set()
        """Names of programs for interfaces that are not loaded yet."""
        host.call(self._build, loaded, mode)

    def _build(self, loaded: Loaded, mode: OffloadMode) -> None:
        self.netlink, self.events = Rtnetlink(), Events()
        self.programs = ProgramSet(
            xdp=self._attachable(XDP_NAME, lambda: loaded.xdp_fd),
            tc=self._attachable(TC_NAME, lambda: loaded.tc_fd),
            tc_behind_xdp=self._attachable(TC_BEHIND_NAME, lambda: loaded.tc_behind_xdp_fd),
        )
        self.interfaces = Interfaces(self.netlink, self.programs, mode=mode)
        self.neighbours = Neighbours(self.interfaces, self._write, CAPACITY, Foreground())
        self.next_hops = NextHops(self.netlink, self.interfaces, self.neighbours)
        self.handlers = EventHandlers(
            on_link=self._on_link,
            on_neighbour=self.neighbours.on_neighbour,
            on_address=lambda: None,
            on_filter=lambda _: None,
            on_end=lambda: None,
            on_lost=lambda: None,
        )

    def _attachable(self, name: str, load: Callable[[], int]) -> Attachable:
        def fd() -> int:
            if name in self.being_loaded:
                raise BeingLoadedError
            return load()

        return Attachable(name, fd)

    def is_loaded(self, *names: str) -> set[int]:
        """Let programs be loaded, and interfaces that wait get them. Returns the indexes of those that waited."""
        self.being_loaded -= set(names)
        waiting = self.interfaces.take_waiting()
        for index in waiting:
            self.interfaces.renew(index)
        self.follow_links(waiting)
        return waiting

    def _on_link(self, message: bytes, is_gone: bool) -> None:
        index = self.interfaces.on_event(message, is_gone=is_gone)
        if index is not None:
            self.follow_links([index])

    def follow_links(self, indexes: Iterable[int]) -> None:
        """Write the rows that depend on these links."""
        for index in indexes:
            self.neighbours.on_link(index)
        self.work_off()

    def work_off(self) -> None:
        """Do all the work that was put off."""
        while self.neighbours.work_off(CAPACITY):
            pass

    def _write(self, number: int, hop: NextHop | None) -> None:
        self.rows[number] = hop
        self.written.append((number, hop))

    def ip(self, *commands: str) -> None:
        """Run iproute2 commands in the namespace."""
        for command in commands:
            self.host.run(["ip", *command.split()])

    def tc(self, *commands: str) -> str:
        """Run tc commands in the namespace. Returns the output of the last one."""
        shown = ""
        for command in commands:
            shown = str(self.host.run(["tc", *command.split()]).stdout)
        return shown

    def take_events(self) -> list[int]:
        """Hand pending events to the parts that follow them, as `offload.tier.KernelTier` does. Returns their kinds."""
        kinds = []
        while events := self.events.read():
            hand_out(events, self.handlers)
            kinds += [event.kind for event in events]
        assert events is not None
        return kinds

    def follow(self, condition: Callable[[], bool], what: str) -> None:
        """Take events until `condition` holds."""
        wait_for(lambda: self.take_events() is not None and condition(), DEADLINE_S, what)

    def reroute(self) -> list[tuple[str, str]]:
        """Ask for all routes again. Returns the peers whose route changed."""
        self.take_events()
        self.next_hops.start_reroute()
        return self.next_hops.reroute(CAPACITY)

    def xdp_programs(self) -> dict[str, str]:
        """XDP programs by interface, as `ip` shows them."""
        lines = self.host.run(["ip", "-d", "-o", "link"]).stdout.splitlines()
        named = ((line.split(":")[1].strip().partition("@")[0], line) for line in lines)
        return {name: line.partition("prog/xdp ")[2].partition(" \\")[0] for name, line in named if "prog/xdp" in line}

    def tc_programs(self) -> dict[str, list[str]]:
        """Names of the programs at the ingress of each interface that has a `clsact` qdisc."""
        shown = json.loads(self.host.run(["tc", "-j", "qdisc", "show"]).stdout)
        return {one["dev"]: self._filters(one["dev"]) for one in shown if one["kind"] == "clsact"}

    def _filters(self, name: str) -> list[str]:
        shown = json.loads(self.host.run(["tc", "-j", "filter", "show", "dev", name, "ingress"]).stdout)
        return [one["options"]["bpf_name"] for one in shown if "options" in one]

    def tier(self, name: str) -> Tier | None:
        """The tier that an interface got; None when it was not tried, or all was detached."""
        return {report.name: report.tier for report in self.interfaces.reports()}.get(name)

    def close(self) -> None:
        """Detach, and close all sockets."""
        self.interfaces.detach_all()
        self.interfaces.close()
        self.neighbours.close()
        self.events.close()
        self.netlink.close()


def to_callee(callee_link: Interface, mac: str, mtu: int = 1500) -> NextHop:
    """The row for a neighbour on the callee's link."""
    return NextHop(callee_link.ifindex, mac, callee_link.mac, mtu, XdpWay(callee_link.ifindex))


def no_ingress(route: Route | NoRoute) -> Route | NoRoute:
    """The route without the interface that the peer's packets come by."""
    return replace(route, ingress=NO_INGRESS)


def known_neighbour(network: RelayNetwork, host: str = "10.0.2.50", mac: str = MAC, dev: str = "to-callee") -> str:
    """Add a neighbour that the kernel need not resolve."""
    network.ip(f"neigh replace {host} lladdr {mac} dev {dev} nud permanent")
    network.take_events()
    return host


def row_becomes(network: RelayNetwork, number: int, expected: NextHop | None) -> None:
    """Wait for a row to be written."""
    network.follow(lambda: network.rows[number] == expected, f"row {number} to be {expected}")
