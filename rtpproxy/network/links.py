"""Follows the links of this network namespace by events, and tells which frames are for this host."""

import errno
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rtpproxy.errors import OffloadError
from rtpproxy.network.messages import ALL_LINKS, family_of_link, link_request, read_link_message
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rtnl import RTM_GETLINK
from rtpproxy.network.vlan import TAG_BYTES, VlanTag

log = logging.getLogger(__name__)

_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_ETHERNET = 1
_8021Q = 0x8100
_XDP_MODES = {1: "xdp", 2: "xdpgeneric", 3: "xdpoffload", 4: "xdpmulti"}
MAX_TAGS = 2
"""Frames with more are left to the kernel's stack."""
_AGGREGATES = ("bond", "team")
"""Kinds whose XDP programs run on their ports."""
_STAND_FOR_PORTS = (*_AGGREGATES, "bridge")
"""Kinds by which the stack takes what arrives at their ports."""

FrameKey = tuple[int, tuple[VlanTag, ...]]
"""The ingress interface of a frame, and its VLAN tags, outer first."""


@dataclass(frozen=True, slots=True)
class Reception:
    """How this host takes frames that are for it."""

    mac: str
    """The frames are addressed to it."""
    index: int
    """The interface by which the kernel's stack takes them: a VLAN, a bond, ..."""
    is_strict: bool = False
    """IPv4 packets must come by the interface of the route back to their source."""


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
    """iproute2's word for how an XDP program is attached, empty for none."""
    xdp_program_id: int
    """That of the driver; where there is none, of whatever else runs it. 0 for none."""
    parent: int = 0
    """The interface that carries it; 0 for none, or for one of another namespace."""
    master: int = 0
    """The bond, bridge, ... that it is a port of; 0 for none."""
    vlan: VlanTag | None = None
    """The tag of a VLAN interface."""


class Links:
    """All links by index."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._links: dict[int, Link] = {}
        self.reload()

    def reload(self) -> None:
        """Ask the kernel for all links."""
        links = map(read_link, self._netlink.dump(RTM_GETLINK, ALL_LINKS))
        self._links = {link.index: link for link in links}

    def ask(self, index: int) -> Link | None:
        """Ask the kernel for one link, because events may be older; None when it is gone."""
        (answer,) = self._netlink.ask_each(RTM_GETLINK, [link_request(index)])
        if isinstance(answer, OffloadError):
            if not isinstance(answer.__cause__, OSError) or answer.__cause__.errno != errno.ENODEV:
                raise answer
            return None
        link = self._links[index] = read_link(answer)
        return link

    def all(self) -> list[Link]:
        """Every link."""
        return list(self._links.values())

    def get(self, index: int) -> Link | None:
        """The link with that index, if there is one."""
        return self._links.get(index)

    def by_name(self, name: str) -> Link | None:
        """The link with that name, if there is one."""
        return next((link for link in self._links.values() if link.name == name), None)

    def lower(self, link: Link) -> tuple[Link, tuple[VlanTag, ...]]:
        """The interface that a VLAN's frames use, and their tags, outer first; for other links the link itself."""
        tags: tuple[VlanTag, ...] = ()
        while link.vlan is not None and link.parent in self._links:
            tags = (link.vlan, *tags)
            link = self._links[link.parent]
        return link, tags

    def frames(self, is_strict: Callable[[str], bool]) -> dict[FrameKey, Reception]:
        """The frames for this host, by ingress interface and tags.

        `is_strict` tells by an interface's name if rp_filter is strict there. If the driver removes the outer of two
        tags before XDP sees a frame, it counts for the interface behind both.
        """
        found: dict[FrameKey, Reception] = {}
        without_outer: dict[FrameKey, Reception] = {}
        ports: dict[int, list[int]] = defaultdict(list)
        for link in self._links.values():
            ports[link.master].append(link.index)
        for link in self._links.values():
            if not link.is_ethernet:
                continue
            # At the interface itself, as TC sees them.
            layer3 = self._layer3(link)
            found[link.index, ()] = Reception(link.mac, layer3.index, is_strict(layer3.name))
            lower, tags = self.lower(link)
            if not tags or len(tags) > MAX_TAGS:
                continue
            for index in (lower.index, *(ports[lower.index] if lower.kind in _AGGREGATES else ())):
                reception = Reception(link.mac, layer3.index, is_strict(layer3.name))
                found[index, tags] = reception
                without_outer[index, tags[1:]] = reception
        # Last: an interface that has exactly these tags takes precedence, also where there is no room for all.
        for key, reception in without_outer.items():
            found.setdefault(key, reception)
        return found

    def _layer3(self, link: Link) -> Link:
        """The interface by which the stack takes what arrives at a link: a bond or bridge stands for its ports."""
        while link.master in self._links and self._links[link.master].kind in _STAND_FOR_PORTS:
            link = self._links[link.master]
        return link

    def on_event(self, message: bytes, *, is_gone: bool) -> int | None:
        """Process an event. Returns the index of the link that came, changed or went, None for other events."""
        # Bridges report their ports under another family; that is no change of the link.
        if family_of_link(message):
            return None
        link = read_link(message)
        if is_gone:
            self._links.pop(link.index, None)
        else:
            self._links[link.index] = link
        return link.index


class OurFrames:
    """Keeps the kernel's copy of `Links.frames` up to date."""

    def __init__(self, write: Callable[[FrameKey, Reception | None], None]) -> None:
        """`write(key, reception)` changes the copy; None takes the key out. It raises OffloadError when it cannot."""
        self._write = write
        self._written: dict[FrameKey, Reception] = {}
        self._is_warned = False

    def follow(self, frames: Mapping[FrameKey, Reception]) -> None:
        """Change the copy to the frames that are for this host now. Those that cannot be written go to userspace."""
        for key in [key for key in self._written if key not in frames]:
            del self._written[key]
            self._try(key, None)
        for key, reception in frames.items():
            if self._written.get(key) != reception and self._try(key, reception):
                self._written[key] = reception

    def _try(self, key: FrameKey, reception: Reception | None) -> bool:
        try:
            self._write(key, reception)
        except OffloadError as error:
            if not self._is_warned:
                self._is_warned = True
                log.warning("%s; what arrives at such an interface stays in userspace", error)
            return False
        return True


def redirected_mtu(lower: Link, tags: Sequence[VlanTag]) -> int:
    """Largest IP packet in a redirected frame, in bytes: the kernel allows one tag above the interface's MTU."""
    return lower.mtu - TAG_BYTES * max(0, len(tags) - 1)


def read_link(message: bytes) -> Link:
    """Make a link from the kernel's message."""
    sent = read_link_message(message)
    vlan = (sent.vlan_protocol or _8021Q, sent.vlan_id) if sent.kind == "vlan" and sent.vlan_id is not None else None
    return Link(
        index=sent.ifindex,
        name=sent.name or "?",
        mac=sent.mac,
        mtu=sent.mtu,
        is_up=sent.flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        is_ethernet=sent.hardware == _ETHERNET,
        kind=sent.kind,
        xdp_mode=_XDP_MODES.get(sent.xdp_mode, ""),
        xdp_program_id=sent.xdp_driver_program or sent.xdp_program,
        parent=0 if sent.is_parent_elsewhere else sent.parent,
        master=sent.master,
        vlan=vlan,
    )
