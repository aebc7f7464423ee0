"""Control groups that keep processor time from a process, of version 1 or 2, whichever has the cpu controller here."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PERIOD_US = 100_000

_numbers = itertools.count(1)


@contextlib.contextmanager
def starved(process: int, quota_us: int) -> Iterator[None]:
    """Give a process no more than `quota_us` of processor time in each tenth of a second; skip where that cannot be."""
    try:
        group, before = _make_group(quota_us)
    except OSError as error:
        pytest.skip(f"no control group for processor time can be made here: {error}")
    try:
        (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            (before / "cgroup.procs").write_text(str(process))
        group.rmdir()


def _make_group(quota_us: int) -> tuple[Path, Path]:
    """Make a group with that quota; and the group of this process, where its members are to go in the end."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    groups = re.findall(r"^\d+:(.*):(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    of_controllers = {controllers: path.lstrip("/") for controllers, path in groups}
    for _, at, kind, options, *_ in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            (path,) = [path for controllers, path in of_controllers.items() if "cpu" in controllers.split(",")]
            before = Path(at, path)
            group = _make(before)
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            return group, before
    for _, at, kind, *_ in mounts:
        if kind == "cgroup2":
            before = Path(at, of_controllers[""])
            parent = Path(at)
            (parent / "cgroup.subtree_control").write_text("+cpu")
            group = _make(parent)
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            return group, before
    raise OSError("no cpu controller is mounted")


def _make(parent: Path) -> Path:
    group = parent / f"rtpt{os.getpid()}-{next(_numbers)}"
    group.mkdir()
    return group
