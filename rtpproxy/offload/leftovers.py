"""Detaches programs that a killed relay left on interfaces: what is attached by netlink outlives its process.

They are recognized by their IDs, which netlink tells everybody, and which were noted before the program was attached.
The kernel counts up to 2 billion before it gives an ID to another program (`bpf_prog_alloc_id`), and notes of before
this boot are not followed. An `sk_lookup` program needs none of this: its link goes with the process.
"""

import logging
from collections.abc import Collection
from contextlib import closing

from rtpproxy.errors import OffloadError
from rtpproxy.network.links import Links
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.offload.attach import NATIVE_XDP, detach_xdp
from rtpproxy.offload.clsact import Clsact

log = logging.getLogger(__name__)


def detach(programs: Collection[int]) -> bool:
    """Detach these programs from all interfaces of this network namespace; one line is logged for each interface.

    False if something had to stay, which is logged. Raises OffloadError when interfaces cannot be asked for.
    """
    if not programs:
        return True
    with closing(Rtnetlink()) as netlink:
        links = Links(netlink)
        cleared, left = [], []
        for link in links.all():
            if link.xdp_mode == NATIVE_XDP and link.xdp_program_id in programs:
                try:
                    detach_xdp(netlink, link.index)
                    cleared.append(link.name)
                except OffloadError as error:
                    left.append(f"{link.name}, XDP: {error}; `ip link set dev {link.name} xdp off` detaches it")
        try:
            for index in Clsact(netlink, programs).clear_leftovers():
                found = links.get(index)
                cleared.append(found.name if found else f"interface {index}")
        except OffloadError as error:
            left.append(f"TC: {error}; `tc filter show dev NAME ingress` shows it")
    for name in dict.fromkeys(cleared):
        log.warning("%s: detached what a killed predecessor left", name)
    for what in left:
        log.warning("a program that a killed predecessor left stays, and takes packets of calls: %s", what)
    return not left
