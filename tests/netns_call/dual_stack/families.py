"""Pairs of families for calls, and a relay that serves all of them."""

import pytest

EVERYWHERE = ("-l", "*", "-6", "six@::")
"""Options of a relay on all addresses of both families."""
PAIRS = {"4-4": (False, False), "6-6": (True, True), "4-6": (False, True), "6-4": (True, False)}
"""For caller and callee: true if it uses IPv6."""

pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
"""For tests of all of them."""


def addresses(topology, pair):
    """Where the phones of a call are, as options of `Call`."""
    caller, callee = topology.caller, topology.callee
    return {
        "caller_at": (caller.ip6 if pair[0] else caller.ip, 4000),
        "callee_at": (callee.ip6 if pair[1] else callee.ip, 5000),
    }
