"""A place for the traffic generator: a host with an interface on either side of a relay."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.netns import Host, Topology
from tests.netns_call.call import ip
from tests.waiting import DEADLINE_S

PROGRAM = Path(__file__).parents[2] / "vm-test" / "traffic.py"
IPV4 = "10.0.1.10", "10.0.2.10"
IPV6 = "fd00:0:1::10", "fd00:0:2::10"
"""Addresses of phones on either side."""


@dataclass
class Stage:
    """The relay's host, and the generator's, which has interfaces named `caller` and `callee`."""

    topology: Topology

    @classmethod
    def of(cls, topology: Topology) -> "Stage":
        """Move the callee's interface beside the caller's."""
        outside = topology.caller
        ip(topology.callee, f"link set callee netns {outside.ns}")
        ip(outside, "link set callee up")
        return cls(topology)

    @property
    def relay(self) -> Host:
        return self.topology.relay

    @property
    def outside(self) -> Host:
        return self.topology.caller

    def command(
        self,
        control: str,
        *options: str,
        phones: tuple[str, str] = IPV4,
        relays: tuple[str, ...] | None = None,
    ) -> list[str]:
        """A command line; `phones` are addresses of either side, and `relays` the relay's as they see it, or none."""
        if relays is None:
            relays = relay_beside(phones[0], 1), relay_beside(phones[1], 2)
        sides = [
            "--caller",
            "caller",
            "--caller-address",
            phones[0],
            "--callee",
            "callee",
            "--callee-address",
            phones[1],
        ]
        for name, relay in zip(("caller", "callee"), relays, strict=False):
            sides += [f"--{name}-relay", relay]
        return [sys.executable, str(PROGRAM), "--control", control, "--deadline", str(DEADLINE_S), *sides, *options]

    def judge(self, command: Sequence[str], *, status: int = 0) -> dict[str, Any]:
        """Run the generator; its result, after a look at its exit status."""
        done = self.outside.run([*command, "--json", "-"], check=False)
        if done.returncode not in (0, 1):
            raise AssertionError(f"status {done.returncode}\n{done.stderr}")
        result = json.loads(done.stdout)
        assert done.returncode == status, [result["faults"], result["notes"], result["totals"], result["streams"]]
        return result

    def start(self, command: Sequence[str]) -> subprocess.Popen:
        """Start the generator."""
        return self.outside.popen(list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def relay_beside(phone: str, segment: int) -> str:
    """The relay's address on a segment, of the family of a phone."""
    return f"fd00:0:{segment}::1" if ":" in phone else f"10.0.{segment}.1"
