"""The TC program on an interface: a filter at the ingress of its `clsact` qdisc, which others may use as well.

The qdisc is removed again if we added it and nobody else has a filter in it. Our filters are recognized by the ID of
their program, which nobody else's has.
"""

import errno
import socket
from collections.abc import Collection

from rtpproxy.errors import OffloadError
from rtpproxy.network.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Message, Rtnetlink, attribute, number_of
from rtpproxy.network.rtnl import (
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TC_H_CLSACT,
    tcmsg,
)
from rtpproxy.offload.syscall import program_id

_QDISC_HANDLE = 0xFFFF0000
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_ALL_PROTOCOLS = 0x0003
_PRIORITY = 100
"""Filters with a lower number run before ours. Ours lets later filters decide, too, also another instance's."""
_DIRECT_ACTION = 1
_PROGRAM_ID = 11
"""TCA_BPF_ID of linux/pkt_cls.h, which pyroute2 does not know."""
_GONE = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
"""Errors of the kernel for filters, qdiscs and interfaces that are gone."""


class Clsact:
    """Our filters, and the qdiscs that were added for them."""

    def __init__(self, netlink: Rtnetlink, programs: Collection[int] = ()) -> None:
        """`programs` are the IDs of our programs, by which filters are recognized, beside those that are attached."""
        self._netlink = netlink
        self._programs = set(programs)
        self._added: set[int] = set()

    def attach(self, index: int, program_fd: int, name: str) -> None:
        """Put a program at the ingress of an interface. Raises OffloadError with the kernel's reason."""
        self._programs.add(program_id(program_fd))
        self._add_qdisc(index)
        message = _filter(index)
        options = [["TCA_BPF_FD", program_fd], ["TCA_BPF_NAME", name], ["TCA_BPF_FLAGS", _DIRECT_ACTION]]
        message["attrs"] = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": options})]
        try:
            self._netlink.request(message, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL)
        except OffloadError:
            self._remove_qdisc(index, is_ours=index in self._added)
            raise

    def detach(self, index: int) -> bool:
        """Detach our program from an interface; False when it was gone already. Raises OffloadError."""
        had_ours = self.take_off(index)
        self._remove_qdisc(index, is_ours=index in self._added)
        return had_ours

    def take_off(self, index: int) -> bool:
        """Detach our program, and leave the qdisc: the kernel drops packets that leave while that one goes.

        Returns False when our program was gone already. Raises OffloadError.
        """
        ours = [found["handle"] for found in self._filters(index, _INGRESS) if self._is_ours(found)]
        for handle in ours:
            self._forgiving(_filter(index, handle), RTM_DELTFILTER)
        return bool(ours)

    def programs(self, index: int) -> set[int]:
        """Return the ids of our programs at the ingress of an interface. Raises OffloadError."""
        ours = (found for found in self._filters(index, _INGRESS) if self._is_ours(found))
        return {number_of(attribute(found, "TCA_OPTIONS"), _PROGRAM_ID) for found in ours}

    def in_front(self, index: int) -> list[str]:
        """Name the filters that run before ours at the ingress of an interface. Raises OffloadError."""
        found = ((one["info"] >> 16, attribute(one, "TCA_KIND")) for one in self._filters(index, _INGRESS))
        return [f"TC filter of priority {priority} ({kind})" for priority, kind in found if priority < _PRIORITY]

    def forget(self, index: int) -> None:
        """Forget an interface that is gone, and with it what was attached to it."""
        self._added.discard(index)

    def clear_leftovers(self) -> list[int]:
        """Detach our programs wherever they are. Returns the indexes of interfaces. Raises OffloadError."""
        answers = self._netlink.request(tcmsg(), RTM_GETQDISC, NLM_F_DUMP)
        kinds = {
            answer["index"]: attribute(answer, "TCA_KIND") for answer in answers if answer["parent"] == TC_H_CLSACT
        }
        cleared = []
        for index, kind in kinds.items():
            if self.detach(index):
                # Nobody knows if the predecessor that is cleared up after added it; without a filter it does nothing.
                self._remove_qdisc(index, is_ours=kind == "clsact")
                cleared.append(index)
        return cleared

    def _add_qdisc(self, index: int) -> None:
        message = _qdisc(index)
        message["attrs"] = [("TCA_KIND", "clsact")]
        try:
            self._netlink.request(message, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
        except OffloadError as error:
            if _error_number(error) != errno.EEXIST:
                raise
        else:
            self._added.add(index)

    def _remove_qdisc(self, index: int, *, is_ours: bool) -> None:
        self._added.discard(index)
        if is_ours and not (self._filters(index, _INGRESS) or self._filters(index, _EGRESS)):
            self._forgiving(_qdisc(index), RTM_DELQDISC)

    def _forgiving(self, message: Message, kind: int) -> None:
        """Remove something that may be gone already."""
        try:
            self._netlink.request(message, kind)
        except OffloadError as error:
            if _error_number(error) not in _GONE:
                raise

    def _filters(self, index: int, parent: int) -> list[Message]:
        message = tcmsg()
        message["index"], message["parent"] = index, parent
        try:
            answers = self._netlink.request(message, RTM_GETTFILTER, NLM_F_DUMP)
        except OffloadError as error:
            if _error_number(error) in _GONE:
                return []
            raise
        return [answer for answer in answers if answer["handle"]]

    def _is_ours(self, found: Message) -> bool:
        options = attribute(found, "TCA_OPTIONS")
        return bool(
            options
            and attribute(found, "TCA_KIND") == "bpf"
            and number_of(options, _PROGRAM_ID) in self._programs
            and found["info"] >> 16 == _PRIORITY
        )


def _qdisc(index: int) -> Message:
    message = tcmsg()
    message["index"], message["handle"], message["parent"] = index, _QDISC_HANDLE, TC_H_CLSACT
    return message


def _filter(index: int, handle: int = 0) -> Message:
    """Our filter; a new one gets its handle from the kernel."""
    message = tcmsg()
    message["index"], message["handle"], message["parent"] = index, handle, _INGRESS
    message["info"] = _PRIORITY << 16 | socket.htons(_ALL_PROTOCOLS)
    message["attrs"] = [("TCA_KIND", "bpf")]
    return message


def _error_number(error: OffloadError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None
