"""Attaches our programs to the host's interfaces: XDP, else TC.

Programs attached by netlink stay when their process dies. Their names contain the instance of the relay, so a successor
recognizes what a killed predecessor left, and leaves alone what anybody else attached.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from pyroute2.netlink.rtnl import RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from rtpproxy.addr import is_ipv6 as is_ipv6_host
from rtpproxy.addr import is_link_local
from rtpproxy.config import OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.network.addresses import addresses_of_host
from rtpproxy.network.links import MAX_TAGS, Link, Links
from rtpproxy.network.netlink import Message, Rtnetlink
from rtpproxy.offload.clsact import Clsact
from rtpproxy.offload.egress import Egress
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.syscall import program_id, program_name

log = logging.getLogger(__name__)

_XDP_IF_NOEXIST, _XDP_DRIVER_MODE = 1, 4
_NATIVE = "xdp"  # what pyroute2 calls the driver mode
PROGRAM_PREFIX = "rtpp_"


@dataclass(frozen=True, slots=True)
class Report:
    """The tier that an interface got, and why not a better one, or which other interface gives it this one."""

    name: str
    tier: Tier
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.tier.value}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class ProgramSet:
    """The loaded programs: descriptor and name of each."""

    xdp: tuple[int, str]
    tc: tuple[int, str]
    tc_behind_xdp: tuple[int, str]


class Interfaces:
    """The links of this network namespace, and our programs on them."""

    def __init__(
        self,
        netlink: Rtnetlink,
        programs: ProgramSet,
        names: Collection[str] = (),
        mode: OffloadMode = OffloadMode.AUTO,
    ) -> None:
        """`names` are the only interfaces to attach to; when empty, any may be."""
        self._netlink = netlink
        self._programs = programs
        self._names = frozenset(names)
        self._mode = mode
        self.links = Links(netlink)
        self._clsact = Clsact(netlink, (programs.tc[1], programs.tc_behind_xdp[1]))
        self._reports: dict[int, Report] = {}
        self._with_xdp: set[int] = set()
        """Interfaces that the XDP program was attached to."""
        self.egress = Egress(self.links, self._with_xdp.__contains__)
        self._is_backed = False

    def close(self) -> None:
        """Close the sockets to the kernel. Programs stay attached."""
        self.egress.close()

    def clear_leftovers(self) -> list[str]:
        """Detach what a killed predecessor of this instance left. Returns the names of the interfaces."""
        cleared = []
        for link in self.links.all():
            if link.xdp_mode == _NATIVE and program_name(link.xdp_program_id) == self._programs.xdp[1]:
                self._set_program(link.index, -1, _XDP_DRIVER_MODE)
                cleared.append(link.name)
        if cleared:
            self.links.reload()
        try:
            for index in self._clsact.clear_leftovers():
                found = self.links.get(index)
                cleared.append(found.name if found else f"interface {index}")
        except OffloadError as error:
            log.warning("cannot look for TC programs that a killed predecessor left: %s", error)
        return list(dict.fromkeys(cleared))

    def attach(self, index: int) -> Report:
        """Attach to an interface, unless that was tried before. The report tells the result, and is logged once."""
        known = self._reports.get(index)
        if known is not None:
            return known
        link = self.links.get(index)
        if link is None:
            # Its event has not been read yet; that event causes another try.
            return Report(f"interface {index}", Tier.USERSPACE, "it is gone")
        report = self._reports[index] = self._attach(link)
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
            if self._mode is OffloadMode.XDP:
                return Report(link.name, Tier.USERSPACE, reason)
        try:
            self._clsact.attach(link.index, *self._programs.tc)
        except OffloadError as error:
            return Report(link.name, Tier.USERSPACE, f"{reason}; no TC: {error}")
        return Report(link.name, Tier.TC, reason)

    def _attach_xdp(self, link: Link) -> str:
        """Attach the XDP program. Returns the reason when that is not possible, else nothing."""
        if link.index in self._with_xdp:
            return ""
        if link.xdp_mode and link.xdp_program_id == program_id(self._programs.xdp[0]):
            # The interface went to another namespace and came back.
            self._with_xdp.add(link.index)
            return ""
        if link.xdp_mode:
            return _taken_by(program_name(link.xdp_program_id))
        try:
            self._set_program(link.index, self._programs.xdp[0], _XDP_IF_NOEXIST | _XDP_DRIVER_MODE)
        except OffloadError as error:
            return f"no native XDP: {error}"
        self._with_xdp.add(link.index)
        if self._is_backed:
            self._back_up(link)
        return ""

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
        try:
            self._clsact.attach(link.index, *self._programs.tc_behind_xdp)
        except OffloadError as error:
            log.warning("%s: no TC behind XDP, so some of its streams stay in userspace: %s", link.name, error)
        else:
            log.info(
                "%s: TC behind XDP, for streams that leave by interfaces that take no redirected frames", link.name
            )

    def detach_all(self) -> None:
        """Detach our programs from every interface. Programs that somebody else attached meanwhile stay."""
        self.links.reload()
        for index in self._with_xdp:
            link = self.links.get(index)
            if link is None or not link.xdp_program_id:
                continue
            if link.xdp_program_id != program_id(self._programs.xdp[0]):
                log.warning("%s: our XDP program was replaced by somebody else's; left alone", link.name)
                continue
            try:
                self._set_program(index, -1, _XDP_DRIVER_MODE)
            except OffloadError as error:
                log.error("%s: cannot detach the XDP program: %s", link.name, error)
        behind = self._with_xdp if self._is_backed else ()
        for index in {*behind, *(index for index, report in self._reports.items() if report.tier is Tier.TC)}:
            link = self.links.get(index)
            if link is None:
                continue
            try:
                self._clsact.detach(index)
            except OffloadError as error:
                log.error("%s: cannot detach the TC program: %s", link.name, error)
        self._with_xdp.clear()
        self._is_backed = False
        self._reports.clear()

    def on_event(self, message: Message) -> int | None:
        """Process an event. Returns the index of the link that came, changed or went, None for other events."""
        index = self.links.on_event(message)
        if index is not None and self.links.get(index) is None:
            self._forget(index)
        return index

    def reload(self) -> None:
        """Ask for all links after events were lost, and forget those that are gone. Raises OffloadError."""
        self.links.reload()
        for index in {*self._reports, *self.egress.known(), *self._with_xdp}:
            if self.links.get(index) is None:
                self._forget(index)

    def _forget(self, index: int) -> None:
        self._reports.pop(index, None)
        self._with_xdp.discard(index)
        self.egress.forget(index)
        self._clsact.forget(index)

    def _set_program(self, index: int, fd: int, flags: int) -> None:
        message = ifinfmsg()
        message["index"] = index
        message["attrs"] = [("IFLA_XDP", {"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]})]
        self._netlink.request(message, RTM_SETLINK)


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


def _taken_by(name: str) -> str:
    if name.startswith(PROGRAM_PREFIX):
        return f"another rtpproxy instance has it: XDP program {name}"
    return f"somebody else's XDP program {name or 'without name'} is attached; it was left alone"
