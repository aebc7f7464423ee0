"""pyroute2's messages of rtnetlink and their numbers, without the rest of pyroute2.

The package itself imports everything that it has (ethtool, nftables, a database of the network), which took an eighth
of a start's processor time and 8 MB. So its modules are imported while an empty package stands in for it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "pyroute2"
_MODULES = ("marshal", "ifinfmsg", "tcmsg")


@contextmanager
def _empty_package() -> Iterator[None]:
    """Let the package have its modules, but nothing of its own, unless somebody else imported it already."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or _PACKAGE in sys.modules:
        yield
        return
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        # Whoever imports from pyroute2 later gets all of it.
        del sys.modules[_PACKAGE]


def _import_modules() -> None:
    before = set(sys.modules)
    try:
        with _empty_package():
            for name in _MODULES:
                importlib.import_module(f"{_PACKAGE}.netlink.rtnl.{name}")
    except (ImportError, AttributeError):
        # A version in which modules need the package is imported as a whole, and only takes longer to start.
        for name in set(sys.modules) - before:
            if name.startswith(f"{_PACKAGE}."):
                del sys.modules[name]


_import_modules()

from pyroute2.netlink.rtnl import (  # noqa: E402
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELQDISC,
    RTM_DELTCLASS,
    RTM_DELTFILTER,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_GETTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWQDISC,
    RTM_NEWTCLASS,
    RTM_NEWTFILTER,
    RTM_SETLINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV4_RULE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_IPV6_RULE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
    RTMGRP_TC,
    TC_H_CLSACT,
)
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # noqa: E402
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # noqa: E402

__all__ = [
    "RTMGRP_IPV4_IFADDR",
    "RTMGRP_IPV4_ROUTE",
    "RTMGRP_IPV4_RULE",
    "RTMGRP_IPV6_IFADDR",
    "RTMGRP_IPV6_ROUTE",
    "RTMGRP_IPV6_RULE",
    "RTMGRP_LINK",
    "RTMGRP_NEIGH",
    "RTMGRP_TC",
    "RTM_DELADDR",
    "RTM_DELLINK",
    "RTM_DELNEIGH",
    "RTM_DELQDISC",
    "RTM_DELTCLASS",
    "RTM_DELTFILTER",
    "RTM_GETADDR",
    "RTM_GETLINK",
    "RTM_GETNEIGH",
    "RTM_GETQDISC",
    "RTM_GETROUTE",
    "RTM_GETTFILTER",
    "RTM_NEWADDR",
    "RTM_NEWLINK",
    "RTM_NEWNEIGH",
    "RTM_NEWQDISC",
    "RTM_NEWTCLASS",
    "RTM_NEWTFILTER",
    "RTM_SETLINK",
    "TC_H_CLSACT",
    "MarshalRtnl",
    "ifinfmsg",
    "tcmsg",
]
