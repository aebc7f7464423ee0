"""Attaches our programs to the host's interfaces: XDP, else TC.

Programs attached by netlink stay when their process dies; `leftovers` detaches those of a killed relay. What anybody
else attached is left alone.
"""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from rtpproxy.addr import is_ipv6 as is_ipv6_host
from rtpproxy.addr import is_link_local
from rtpproxy.config import OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.network.addresses import addresses_of_host
from rtpproxy.network.links import MAX_TAGS, Link, Links
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.queues import transmit_queues
from rtpproxy.network.rtnl import RTM_SETLINK, ifinfmsg
from rtpproxy.offload.clsact import Clsact
from rtpproxy.offload.egress import Egress
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.loading import BeingLoadedError
from rtpproxy.offload.passing import is_passing
from rtpproxy.offload.syscall import program_id, program_name, tcx_programs

log = logging.getLogger(__name__)

_XDP_IF_NOEXIST, _XDP_DRIVER_MODE = 1, 4
NATIVE_XDP = "xdp"
"""iproute2's word for the driver mode."""
PROGRAM_PREFIX = "rtpp_"


@dataclass(frozen=True, slots=True)
class Report:
    """The tier that an interface got, and why not a better one, or which other interface gives it this one."""

    name: str
    tier: Tier
    reason: str = ""
    is_waiting: bool = False
    """True while a program is being loaded; the interface may get a better tier then."""

    def __str__(self) -> str:
        return f"{self.name}: {self.tier.value}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Attachable:
    """A program for interfaces, which need not be loaded yet."""

    name: str
    load: Callable[[], int]
    """Loads it, unless that was done before, and returns the descriptor.

    Raises OffloadError, and BeingLoadedError as long as that takes.
    """

    @property
    def id(self) -> int:
        """The kernel's ID of the program; for one that was attached."""
        return program_id(self.load())


@dataclass(frozen=True, slots=True)
class ProgramSet:
    """The programs for interfaces."""

    xdp: Attachable
    tc: Attachable
    tc_behind_xdp: Attachable


class Hook(Enum):
    """Names where a program is attached to an interface."""

    XDP = "XDP"
    TC = "TC"


Place = tuple[int, Hook]
"""An interface, by its index, and a hook there."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A program of ours that is not where it was attached."""

    hook: Hook
    taken_by: str = ""
    """Somebody else's program in its place, in words; empty for none."""


class Interfaces:
    """The links of this network namespace, and our programs on them."""

    def __init__(
        self,
        netlink: Rtnetlink,
        programs: ProgramSet,
        names: Collection[str] = (),
        mode: OffloadMode = OffloadMode.AUTO,
        refused: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """`names` are the only interfaces to attach to; when empty, any may be.

        `refused` counts the frames that a driver refused to send for XDP, by the index of its interface.
        """
        self._netlink = netlink
        self._programs = programs
        self._names = frozenset(names)
        self._mode = mode
        self.links = Links(netlink)
        self._clsact = Clsact(netlink)
        self._reports: dict[int, Report] = {}
        self._with_xdp: set[int] = set()
        """Interfaces that the XDP program was attached to."""
        self._with_tc: dict[int, Attachable] = {}
        """By interface: the program that was attached at TC."""
        self._known_queues: set[int] = set()
        """Interfaces whose number of transmit queues was looked at."""
        self._barred: dict[Place, str] = {}
        """Why nothing is attached there for now."""
        self._failed: dict[Place, str] = {}
        """Where attaching failed for a reason that may pass, and for which; `renew` tries again."""
        self._waiting: set[Place] = set()
        """Where the program is being loaded."""
        self._told: dict[int, str] = {}
        """By interface: why there is no TC behind XDP, as it was logged last."""
        self.egress = Egress(self.links, self._with_xdp.__contains__, refused)
        self._is_backed = False

    def close(self) -> None:
        """Close the sockets to the kernel. Programs stay attached."""
        self.egress.close()

    def attach(self, index: int) -> Report:
        """Attach to an interface, unless that was tried before. The report tells the result, and is logged once."""
        known = self._reports.get(index)
        return self._attach_anew(index) if known is None else known

    def _attach_anew(self, index: int) -> Report:
        link = self.links.get(index)
        if link is None:
            # Its event has not been read yet; that event causes another try.
            return Report(f"interface {index}", Tier.USERSPACE, "it is gone")
        before = self._reports.get(index)
        report = self._reports[index] = self._attach(link)
        if report != before:
            log.info("%s", report)
        return report

    def _attach(self, link: Link) -> Report:
        if self._names and link.name not in self._names:
            return Report(link.name, Tier.USERSPACE, "not named by --interface")
        if not link.is_ethernet:
            return Report(link.name, Tier.USERSPACE, "not an Ethernet interface")
        lower, tags = self.links.lower(link)
        reason = "--offload tc"
        if self._mode is not OffloadMode.TC:
            reason = self._attach_xdp(lower) if len(tags) <= MAX_TAGS else f"over {MAX_TAGS} VLAN tags"
            if not reason:
                return Report(link.name, Tier.XDP, f"by {lower.name}, which carries it" if tags else "")
            if self._is_awaited((lower.index, Hook.XDP)):
                return Report(link.name, Tier.USERSPACE, reason, is_waiting=True)
            if self._mode is OffloadMode.XDP:
                return Report(link.name, Tier.USERSPACE, reason)
        place = link.index, Hook.TC
        no_tc = self._barred.get(place) or self._attach_tc(link, self._programs.tc)
        if no_tc:
            is_waiting = self._is_awaited(place)
            return Report(link.name, Tier.USERSPACE, f"{reason}; no TC: {no_tc}", is_waiting=is_waiting)
        return Report(link.name, Tier.TC, reason)

    def _attach_tc(self, link: Link, program: Attachable) -> str:
        """Attach a TC program. Returns the reason when that is not possible, else nothing."""
        place = link.index, Hook.TC
        if self._with_tc.get(link.index) is program:
            return ""
        try:
            fd = program.load()
            self._take_off_tc(link.index)
            self._clsact.attach(link.index, fd, program.name)
        except OffloadError as error:
            return self._refused(place, error)
        self._forget_failure(place)
        self._with_tc[link.index] = program
        return ""

    def _attach_xdp(self, link: Link) -> str:
        """Attach the XDP program. Returns the reason when that is not possible, else nothing."""
        place = link.index, Hook.XDP
        if link.index in self._with_xdp:
            return ""
        if place in self._barred:
            return self._barred[place]
        try:
            fd = self._programs.xdp.load()
        except OffloadError as error:
            return self._refused(place, error)
        self._forget_failure(place)
        if link.xdp_mode and link.xdp_program_id == program_id(fd):
            # The interface went to another namespace and came back.
            self._with_xdp.add(link.index)
            return ""
        if link.xdp_mode:
            return _taken_by(program_name(link.xdp_program_id))
        try:
            self._set_program(link.index, fd, _XDP_IF_NOEXIST | _XDP_DRIVER_MODE)
        except OffloadError as error:
            return f"no native XDP: {self._refused(place, error)}"
        self._with_xdp.add(link.index)
        if link.index not in self._known_queues:
            self._known_queues.add(link.index)
            _warn_of_queues(link)
        if self._is_backed:
            self._back_up(link)
        return ""

    def _refused(self, place: Place, error: OffloadError) -> str:
        """Note that nothing was attached at a hook. Returns why."""
        if isinstance(error, BeingLoadedError):
            self._waiting.add(place)
            # What failed before fails until the program is there.
            return self._failed.get(place, str(error))
        self._forget_failure(place)
        if is_passing(error):
            self._failed[place] = str(error)
        return str(error)

    def _forget_failure(self, place: Place) -> None:
        self._failed.pop(place, None)
        self._waiting.discard(place)

    def failed(self) -> set[Place]:
        """List where nothing could be attached for a reason that may pass."""
        return set(self._failed)

    def _is_awaited(self, place: Place) -> bool:
        """Tell if a program is being loaded for a hook, and it is not one that could not be loaded before."""
        return place in self._waiting and place not in self._failed

    def take_waiting(self) -> set[int]:
        """Take the interfaces that wait for a program: `renew` each once one was loaded, or could not be."""
        waiting, self._waiting = self._waiting, set()
        return {index for index, _ in waiting}

    @property
    def is_backup_waiting(self) -> bool:
        """True while the program is being loaded that sends what XDP cannot."""
        return any(index in self._with_xdp and self._is_awaited((index, hook)) for index, hook in self._waiting)

    def reports(self) -> list[Report]:
        """The result for every interface that was tried."""
        return list(self._reports.values())

    def back_up_xdp(self) -> bool:
        """From now on, let TC send what XDP cannot on interfaces with XDP. False when TC may not be used."""
        if self._mode is OffloadMode.XDP:
            return False
        if not self._is_backed:
            self._is_backed = True
            for index in self._with_xdp:
                link = self.links.get(index)
                if link is not None:
                    self._back_up(link)
        return True

    def _back_up(self, link: Link) -> None:
        place = link.index, Hook.TC
        no_tc = self._barred.get(place) or self._attach_tc(link, self._programs.tc_behind_xdp)
        if self._is_awaited(place):
            return
        if not no_tc:
            log.info(
                "%s: TC behind XDP, for streams that leave by interfaces that take no redirected frames", link.name
            )
        elif no_tc != self._told.get(link.index):
            log.warning("%s: no TC behind XDP, so some of its streams stay in userspace: %s", link.name, no_tc)
        self._told[link.index] = no_tc

    def losses(self, index: int, *, is_link_known: bool = False) -> list[Loss]:
        """Compare what was attached to an interface with what the kernel says. Raises OffloadError.

        `is_link_known` spares a question if the last event of the link shows our XDP program: older events do not.
        """
        found = []
        link = self.links.get(index)
        if index in self._with_xdp:
            ours = self._programs.xdp.id
            if not (is_link_known and link is not None and link.xdp_program_id == ours):
                link = self.links.ask(index)
                if link is not None and link.xdp_program_id != ours:
                    found.append(Loss(Hook.XDP, _named(link.xdp_program_id) if link.xdp_mode else ""))
        program = self._with_tc.get(index)
        if program is not None and link is not None and program.id not in self._clsact.programs(index):
            found.append(Loss(Hook.TC))
        return found

    def has(self, index: int, hook: Hook) -> bool:
        """Tell if our program was attached at a hook of an interface."""
        return index in (self._with_xdp if hook is Hook.XDP else self._with_tc)

    def reports_by(self, index: int) -> list[Report]:
        """Return the results for an interface and for the VLAN interfaces that it carries."""
        return [report for number, report in self._reports.items() if self._is_carried_by(number, index)]

    def report(self, index: int) -> Report | None:
        """Return the result for an interface, if it was tried."""
        return self._reports.get(index)

    def is_used(self, index: int) -> bool:
        """Tell if one of our programs was attached to an interface, or is to be later."""
        return index in self._with_xdp or index in self._with_tc or any(at == index for at, _ in self._barred)

    def in_front(self, index: int) -> list[str]:
        """Name what runs before our TC program on an interface and can keep packets from it. Raises OffloadError."""
        if index not in self._with_tc and (index, Hook.TC) not in self._barred:
            return []
        return [f"tcx program {_named(number)}" for number in tcx_programs(index)] + self._clsact.in_front(index)

    def bar(self, index: int, hook: Hook, why: str) -> None:
        """Attach nothing at a hook of an interface until `unbar`; `renew` makes the interface follow."""
        self._forget_failure((index, hook))
        self._barred[index, hook] = why

    def unbar(self, index: int, hook: Hook) -> None:
        """Let a hook be used again; `renew` makes the interface follow."""
        self._barred.pop((index, hook), None)

    def renew(self, index: int, lost: Collection[Hook] = ()) -> list[Report]:
        """Attach to an interface anew: programs were lost, a hook was barred or is so no more, or the last try failed.

        VLAN interfaces that it carries get reports anew, too. Returns the reports. Raises OffloadError.
        """
        if Hook.XDP in lost:
            self._with_xdp.discard(index)
        if Hook.TC in lost:
            self._with_tc.pop(index, None)
        had_xdp = index in self._with_xdp
        known = [number for number in self._reports if self._is_carried_by(number, index)]
        reports = [self._attach_anew(number) for number in known]
        if Hook.XDP in lost or (index in self._with_xdp) != had_xdp:
            self.egress.forget(index)
        for number in {index, *known}:
            self._adapt_tc(number)
        return reports

    def _adapt_tc(self, index: int) -> None:
        """Let TC on an interface with XDP have the program behind XDP, or none. Raises OffloadError."""
        report = self._reports.get(index)
        link = self.links.get(index)
        if link is not None and index in self._with_xdp and self._is_backed:
            if self._with_tc.get(index) is not self._programs.tc_behind_xdp:
                self._back_up(link)
        elif index in self._with_xdp or (report is not None and report.tier is Tier.XDP):
            self._take_off_tc(index)
            self._forget_failure((index, Hook.TC))

    def _take_off_tc(self, index: int) -> None:
        if index in self._with_tc:
            self._clsact.take_off(index)
            del self._with_tc[index]

    def _is_carried_by(self, index: int, lower: int) -> bool:
        """Tell if frames of interface `index` go by interface `lower`, or the two are the same."""
        link = self.links.get(index)
        return index == lower or (link is not None and self.links.lower(link)[0].index == lower)

    def detach_all(self) -> None:
        """Detach our programs from every interface. Programs that somebody else attached meanwhile stay."""
        self.links.reload()
        for index in self._with_xdp:
            link = self.links.get(index)
            if link is None or not link.xdp_program_id:
                continue
            if link.xdp_program_id != self._programs.xdp.id:
                log.warning("%s: our XDP program was replaced by somebody else's; left alone", link.name)
                continue
            try:
                self._set_program(index, -1, _XDP_DRIVER_MODE)
            except OffloadError as error:
                log.error("%s: cannot detach the XDP program: %s", link.name, error)
        for index in self._with_tc:
            link = self.links.get(index)
            if link is None:
                continue
            try:
                self._clsact.detach(index)
            except OffloadError as error:
                log.error("%s: cannot detach the TC program: %s", link.name, error)
        self._with_xdp.clear()
        self._with_tc.clear()
        self._barred.clear()
        self._failed.clear()
        self._waiting.clear()
        self._told.clear()
        self._is_backed = False
        self._reports.clear()

    def on_event(self, message: bytes, *, is_gone: bool) -> int | None:
        """Process an event. Returns the index of the link that came, changed or went, None for other events."""
        index = self.links.on_event(message, is_gone=is_gone)
        if index is not None and self.links.get(index) is None:
            self._forget(index)
        return index

    def reload(self) -> None:
        """Ask for all links after events were lost, and forget those that are gone. Raises OffloadError."""
        self.links.reload()
        for index in {*self._reports, *self.egress.known(), *self._with_xdp, *self._with_tc}:
            if self.links.get(index) is None:
                self._forget(index)

    def _forget(self, index: int) -> None:
        self._reports.pop(index, None)
        self._with_xdp.discard(index)
        self._with_tc.pop(index, None)
        self._known_queues.discard(index)
        self._told.pop(index, None)
        for hook in Hook:
            self._barred.pop((index, hook), None)
            self._forget_failure((index, hook))
        self.egress.forget(index)
        self._clsact.forget(index)

    def _set_program(self, index: int, fd: int, flags: int) -> None:
        _set_xdp(self._netlink, index, fd, flags)


def detach_xdp(netlink: Rtnetlink, index: int) -> None:
    """Detach the XDP program that an interface has in its driver. Raises OffloadError."""
    _set_xdp(netlink, index, -1, _XDP_DRIVER_MODE)


def _set_xdp(netlink: Rtnetlink, index: int, fd: int, flags: int) -> None:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = [("IFLA_XDP", {"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]})]
    netlink.request(message, RTM_SETLINK)


def carriers(netlink: Rtnetlink, hosts: Collection[str], *, is_ipv6: bool = False) -> list[int]:
    """Find the indexes of interfaces that have one of these addresses of a family; an empty one stands for any address.

    Link-local addresses do not count as any: in IPv6 every interface has one.
    """
    found = (
        index
        for host, index in addresses_of_host(netlink)
        if is_ipv6_host(host) == is_ipv6 and (host in hosts or ("" in hosts and not is_link_local(host)))
    )
    return list(dict.fromkeys(found))


def _warn_of_queues(link: Link) -> None:
    """Warn of an interface by which not every processor has a queue to send. A veth uses those of its far end."""
    queues, processors = transmit_queues(link.name), os.sysconf("SC_NPROCESSORS_ONLN")
    if link.kind == "veth" or queues is None or queues.count >= processors:
        return
    remedy = f"ethtool -L {link.name} {queues.kind} {min(queues.most, processors)}"
    if queues.most <= queues.count:
        remedy = "no command helps, it has no more"
    log.warning(
        "%s: %d transmit queues for %d processors: XDP sends by the processor's own queue, and with too few of them "
        "drivers let processors wait for each other, or drop frames. Before the next start: %s",
        *(link.name, queues.count, processors, remedy),
    )


def _named(number: int) -> str:
    """Name a program of somebody else in words."""
    return f"{program_name(number) or 'without name'} (id {number})"


def _taken_by(name: str) -> str:
    if name.startswith(PROGRAM_PREFIX):
        return f"another rtpproxy instance has it: XDP program {name}"
    return f"somebody else's XDP program {name or 'without name'} is attached; it was left alone"
