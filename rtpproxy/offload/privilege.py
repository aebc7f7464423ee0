"""What to do when the kernel refuses programs or maps: this process may lack a privilege, or the kernel be too old."""

import os
from pathlib import Path

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 1 << 12, 1 << 21
_CAPS_TO_LOAD = (38, 39)
"""CAP_PERFMON and CAP_BPF; CAP_SYS_ADMIN stands for both."""


def with_advice(reason: str) -> str:
    """Return why compiling or loading failed, in one line, and what can be done."""
    if not _is_privileged():
        return "no privilege; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW"
    if "Invalid argument" in reason:
        return f"{reason} (kernel {os.uname().release}; 5.11 or later is needed; -d DBUG shows its reasons)"
    return reason


def _is_privileged() -> bool:
    """True if this process may load programs: its capabilities decide that, not its user (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(held & (1 << number | _CAP_SYS_ADMIN) for number in _CAPS_TO_LOAD) and bool(held & _CAP_NET_ADMIN)
