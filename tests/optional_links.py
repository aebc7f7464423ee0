"""Kinds of interfaces that not every kernel has.

Tests that need one are marked `vm`, so that `vm-test/run` tries them on kernels that have it (tests/test_vm_marker.py).
"""

import subprocess

import pytest

from tests.netns import Host

VLAN = "VLAN devices (8021q)"
BOND = "bonds (bonding)"


def add_or_skip(host: Host, kind: str, arguments: str) -> None:
    """Run `ip link add` in a namespace; skips the test where the kernel has no such kind, and only there."""
    command = ["ip", "link", "add", *arguments.split()]
    done = host.run(command, check=False)
    if done.returncode and "Unknown device type" in done.stderr:
        pytest.skip(f"needs a kernel with {kind}")
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
