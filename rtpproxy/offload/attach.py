"""The host's interfaces: what each can do for the relay, and attaching the XDP program to them.

An XDP program attached by netlink stays when its process dies. Its name carries the instance of the relay, so a
successor recognizes what a killed predecessor left, and nobody touches a program that somebody else attached.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from rtpproxy.errors import OffloadError
from rtpproxy.offload.addresses import ipv4_addresses
from rtpproxy.offload.features import XdpFeatures
from rtpproxy.offload.netlink import NLM_F_DUMP, Message, Rtnetlink, attribute
from rtpproxy.offload.syscall import program_id, program_name

log = logging.getLogger(__name__)

_XDP_IF_NOEXIST, _XDP_DRIVER_MODE = 1, 4
_NATIVE = "xdp"  # what pyroute2 calls the driver mode
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_ETHERNET = 1
PROGRAM_PREFIX = "rtpp_"


class Tier(Enum):
    """Who forwards what arrives at an interface."""

    XDP = "kernel, native XDP"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True)
class Report:
    """Which tier an interface got, and why not a better one (empty when it is the best)."""

    name: str
    tier: Tier
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.tier.value}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it. `mtu` in bytes of IP packet."""

    index: int
    name: str
    mac: str
    mtu: int
    is_up: bool
    is_ethernet: bool
    kind: str
    """`veth`, `vlan`, ...; empty for a plain device."""
    xdp_mode: str
    """pyroute2's word for how an XDP program is attached, empty for none."""
    xdp_program_id: int


class Interfaces:
    """The links of this network namespace, kept true by events, and the attachments to them."""

    def __init__(self, netlink: Rtnetlink, program_fd: int, program: str, names: Collection[str] = ()) -> None:
        """`program` is the XDP program's name, by which own attachments are recognized.

        `names` are the only interfaces to attach to; when empty, any may be.
        """
        self._netlink = netlink
        self._program_fd = program_fd
        self._program = program
        self._names = frozenset(names)
        self._links: dict[int, Link] = {}
        self._reports: dict[int, Report] = {}
        self._features = XdpFeatures()
        self._can_send: dict[int, bool] = {}
        self.reload()

    def close(self) -> None:
        """Ask no more."""
        self._features.close()

    def reload(self) -> None:
        """Ask the kernel for all links."""
        self._links = {
            message["index"]: _link(message) for message in self._netlink.request(ifinfmsg(), RTM_GETLINK, NLM_F_DUMP)
        }

    def link(self, index: int) -> Link | None:
        """The link with that number, if there is one."""
        return self._links.get(index)

    def by_name(self, name: str) -> Link | None:
        """The link with that name, if there is one."""
        return next((link for link in self._links.values() if link.name == name), None)

    def clear_leftovers(self) -> list[str]:
        """Detach what a killed predecessor of this instance left; names of the interfaces it was on."""
        cleared = []
        for link in list(self._links.values()):
            if link.xdp_mode == _NATIVE and program_name(link.xdp_program_id) == self._program:
                self._set_program(link.index, -1, _XDP_DRIVER_MODE)
                cleared.append(link.name)
        if cleared:
            self.reload()
        return cleared

    def attach(self, index: int) -> Report:
        """Attach to an interface, unless that was tried before. The report says what came of it, and is logged once."""
        known = self._reports.get(index)
        if known is not None:
            return known
        if index not in self._links:
            # Its event is still to come; then it is tried again.
            return Report(f"interface {index}", Tier.USERSPACE, "it is gone")
        report = self._reports[index] = self._attach(self._links[index])
        log.info("%s", report)
        return report

    def _attach(self, link: Link) -> Report:
        if self._names and link.name not in self._names:
            return Report(link.name, Tier.USERSPACE, "not named by --interface")
        if not link.is_ethernet:
            return Report(link.name, Tier.USERSPACE, "not an Ethernet interface")
        if link.xdp_mode:
            return Report(link.name, Tier.USERSPACE, _taken_by(program_name(link.xdp_program_id)))
        try:
            self._set_program(link.index, self._program_fd, _XDP_IF_NOEXIST | _XDP_DRIVER_MODE)
        except OffloadError as error:
            return Report(link.name, Tier.USERSPACE, f"no native XDP: {error}")
        return Report(link.name, Tier.XDP)

    def reports(self) -> list[Report]:
        """What became of every interface that was tried."""
        return list(self._reports.values())

    def is_attached(self, index: int) -> bool:
        """Whether our program runs there, which is also what lets drivers send redirected frames."""
        report = self._reports.get(index)
        return report is not None and report.tier is Tier.XDP

    def can_send(self, index: int) -> bool:
        """Whether frames redirected to that interface leave it, as far as the kernel tells."""
        known = self._can_send.get(index)
        if known is None:
            known = self._can_send[index] = self.is_attached(index) and self._can_transmit(index)
        return known

    def check_senders(self) -> list[int]:
        """Ask again; numbers of the interfaces that could send and cannot now, or the other way round."""
        before, self._can_send = self._can_send, {}
        return [index for index, could_send in before.items() if self.can_send(index) != could_send]

    def _can_transmit(self, index: int) -> bool:
        answer = self._features.can_transmit(index)
        if answer is None:
            # A kernel before 6.3. With our program attached all drivers can; a veth depends on its far end.
            link = self._links.get(index)
            return link is not None and link.kind != "veth"
        return answer

    def detach_all(self) -> None:
        """Take our program off every interface; what somebody else put there meanwhile stays."""
        self.reload()
        for index, report in self._reports.items():
            link = self._links.get(index)
            if report.tier is not Tier.XDP or link is None:
                continue
            if not link.xdp_program_id:
                continue
            if link.xdp_program_id != program_id(self._program_fd):
                log.warning("%s: our XDP program was replaced by somebody else's; left alone", link.name)
                continue
            try:
                self._set_program(index, -1, _XDP_DRIVER_MODE)
            except OffloadError as error:
                log.error("%s: cannot detach the XDP program: %s", link.name, error)
        self._reports.clear()

    def on_event(self, message: Message) -> int | None:
        """Take in a link event; the number of the link that came, changed or went, if the event is of that kind."""
        if message["event"] == "RTM_NEWLINK":
            # Bridges report their ports under another family; that is no change of the link.
            if message["family"] not in (0, None):
                return None
            link = _link(message)
            self._links[link.index] = link
            return link.index
        if message["event"] == "RTM_DELLINK" and message["family"] in (0, None):
            self._links.pop(message["index"], None)
            self._reports.pop(message["index"], None)
            self._can_send.pop(message["index"], None)
            return int(message["index"])
        return None

    def _set_program(self, index: int, fd: int, flags: int) -> None:
        message = ifinfmsg()
        message["index"] = index
        message["attrs"] = [("IFLA_XDP", {"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]})]
        self._netlink.request(message, RTM_SETLINK)


def carriers(netlink: Rtnetlink, hosts: Collection[str]) -> list[int]:
    """Numbers of the interfaces that carry one of the IPv4 addresses; the empty one stands for any."""
    found = (index for host, index in ipv4_addresses(netlink) if "" in hosts or host in hosts)
    return list(dict.fromkeys(found))


def _link(message: Message) -> Link:
    xdp = attribute(message, "IFLA_XDP")
    mode = xdp.get_attr("IFLA_XDP_ATTACHED") if xdp else None
    linkinfo = attribute(message, "IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=attribute(message, "IFLA_IFNAME") or "?",
        mac=attribute(message, "IFLA_ADDRESS") or "",
        mtu=attribute(message, "IFLA_MTU") or 0,
        is_up=message["flags"] & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        is_ethernet=message["ifi_type"] == _ETHERNET,
        kind=(linkinfo.get_attr("IFLA_INFO_KIND") or "") if linkinfo else "",
        xdp_mode=mode or "",
        xdp_program_id=(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0,
    )


def _taken_by(name: str) -> str:
    if name.startswith(PROGRAM_PREFIX):
        return f"another rtpproxy instance has it: XDP program {name}"
    return f"somebody else's XDP program {name or 'without name'} is attached; it was left alone"
