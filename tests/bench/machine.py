"""Describes the machine, kernel, compiler and commit that results depend on."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import bcc

ROOT = Path(__file__).parent.parent.parent


def describe_machine() -> dict[str, Any]:
    """Processor, kernel and compiler, without host names, addresses or paths."""
    of_first_core = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", _first_core(), re.MULTILINE))
    return {
        "cpu": of_first_core.get("model name", platform.processor() or platform.machine()),
        "cpu_family_model": [int(of_first_core.get(name, 0)) for name in ("cpu family", "model")],
        "cores": os.cpu_count(),
        "l2_kb": _cache_kb(2),
        "is_virtual": "hypervisor" in of_first_core.get("flags", "").split(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bcc": bcc.__version__,
        "clang": _clang_version(),
        "driver": "veth",
    }


def commit_of(checkout: Path) -> str:
    """The commit that is checked out, with a `+` behind it where files differ; empty outside a repository."""

    def git(*arguments: str) -> str:
        # root may measure what another user has checked out
        command = ["git", "-c", "safe.directory=*", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "rtpproxy", "bpf")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _first_core() -> str:
    return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]


def _cache_kb(level: int) -> int:
    """Size of the first core's cache of that level; 0 where the kernel does not tell."""
    for cache in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (cache / "level").read_text().strip() == str(level):
            return int((cache / "size").read_text().strip().removesuffix("K"))
    return 0


def _clang_version() -> str:
    """Version of the compiler that is mapped into this process with bcc."""
    found = re.search(r"libclang(?:-cpp)?[-.](?:so\.)?(\d[\d.]*)", Path("/proc/self/maps").read_text())
    return found[1].rstrip(".") if found else ""
