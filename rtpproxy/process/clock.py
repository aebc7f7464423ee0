"""Finds how far this process's monotonic clock is from the one that BPF programs read (time_namespaces(7))."""

from pathlib import Path

from rtpproxy.errors import StartError

_NS_PER_S = 1_000_000_000


def monotonic_offset_ns(process: Path = Path("/proc/self")) -> int:
    """Nanoseconds by which CLOCK_MONOTONIC is ahead for this process; 0 outside a time namespace.

    The kernel's own clock, `bpf_ktime_get_ns`, is the host's in every time namespace. Raises StartError where it
    cannot be told: the kernel shows the offset of the namespace that children are born into, and this process may not
    be in it.
    """
    try:
        text = (process / "timens_offsets").read_text()
    except FileNotFoundError:
        return 0  # the kernel has no time namespaces
    offsets = {name: int(seconds) * _NS_PER_S + int(ns) for name, seconds, ns in map(str.split, text.splitlines())}
    if (process / "ns/time").readlink() != (process / "ns/time_for_children").readlink():
        raise StartError(
            "this process is in another time namespace than its children will be, so its clock cannot be compared with "
            "the kernel's: start it as a child of the process that made the namespace (unshare --fork)"
        )
    return offsets["monotonic"]
