"""Requirements of tests, how tests are divided among processes, and the loaded programs that they share.

A test marked `root` or `kernel` is skipped where a probe shows that it cannot run. The reason names what is missing
and starts with `needs privilege:` or `needs software:`; a run that must be complete looks for these words.

Each process that runs tests has namespaces of its own (`tests/workers.py`). A test marked `alone` measures the
machine or changes it; it is left out of a parallel run, and is run with `--alone`, one process, when that is over.
`python -m tests.run` (`make test`) does both.
"""

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rtpproxy.config import CACHE_DIRECTORY
from rtpproxy.network.features import XdpFeatures
from rtpproxy.network.links import Reception
from rtpproxy.offload import loader
from rtpproxy.offload.host_maps import HostMaps
from rtpproxy.offload.programs import LIMITS
from rtpproxy.offload.tables import Tables
from tests.plain_programs import load_plain_xdp
from tests.workers import enter_own_namespaces

TOS, TTL = 0xB8, 64
"""Of packets that leave."""
FIRST_PORT, LAST_PORT = 1024, 65535
XDP_NAME, TC_NAME, TC_BEHIND_NAME, STEER_NAME = "rtpp_x_test", "rtpp_t_test", "rtpp_b_test", "rtpp_s_test"
PROGRAM_NAMES = {"on_xdp": XDP_NAME, "on_tc": TC_NAME, "on_tc_behind_xdp": TC_BEHIND_NAME, "on_steer": STEER_NAME}
RELAY_MAC = "02:00:00:00:01:01"
"""Of the interface that frames come in by when a program is run on them."""
VLAN = ((0x8100, 5),)
QINQ = ((0x88A8, 7), (0x8100, 6))
"""Tags of VLAN interfaces on it."""


@functools.cache
def _missing_namespaces() -> str:
    for tool in ("ip", "ethtool", "unshare"):
        if shutil.which(tool) is None:
            return f"needs software: {tool}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"needs privilege: network namespaces ({probe.stderr.strip()})" if probe.returncode else ""


@functools.cache
def _missing_bpf() -> str:
    try:
        os.close(load_plain_xdp("probe"))
    except OSError as error:
        return f"needs privilege: loading BPF programs ({error.strerror})"
    probe = subprocess.run(
        [sys.executable, "-P", "-c", "from bcc import BPF"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        return f"needs software: bcc for {sys.executable} ({probe.stderr.strip().splitlines()[-1]})"
    return ""


_SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine may take any time for an input, and to make one."""
settings.register_profile("fixed", _SLOWLY, derandomize=True)
settings.register_profile("fuzz", _SLOWLY, derandomize=False)
settings.load_profile("fixed")  # `--hypothesis-profile=fuzz` in its place: `make fuzz`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", action="store_true", help="run only tests that cannot run beside others")
    parser.addoption("--counts", metavar="PATH", help="write the numbers of tests by outcome to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    is_controller = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    if os.geteuid() == 0 and not is_controller and not config.option.collectonly:
        enter_own_namespaces()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first: those that need nothing, then those that need root, then those with kernel programs.

    Parallel runs leave out the tests that must run alone; `--alone` leaves out all others.
    """
    items.sort(key=lambda item: (bool(item.get_closest_marker("kernel")), bool(item.get_closest_marker("root"))))
    is_alone = config.getoption("--alone")
    if is_alone or hasattr(config, "workerinput"):
        kept = [item for item in items if bool(item.get_closest_marker("alone")) is is_alone]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """With `--alone`: the reasons, test by test or, where they are the same, module by module."""
    if not config.getoption("--alone"):
        return []
    reasons: dict[str, None] = {}
    for item in items:
        mark = item.get_closest_marker("alone")
        assert mark is not None
        reasons.setdefault(f"alone: {item.location[0]}: {mark.args[0]}")
    return list(reasons)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the counts that were asked for."""
    if config.getoption("--counts"):
        numbers = {name: len(terminalreporter.getreports(name)) for name in ("passed", "failed", "error", "skipped")}
        Path(config.getoption("--counts")).write_text(json.dumps(numbers))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is set up."""
    probes = {"root": _missing_namespaces, "kernel": _missing_bpf}
    for mark, missing in probes.items():
        if item.get_closest_marker(mark) and missing():
            pytest.skip(missing())


def load_programs(**defines: str) -> loader.Loaded:
    """The real programs and maps, attached to nothing. All addresses have one port space; frames come by loopback."""
    span = LAST_PORT + 1 - FIRST_PORT
    ports = {"FIRST_PORT": str(FIRST_PORT), "PORT_SPAN": str(span), "LOCAL_SLOTS": "1"}
    slots = {"ANY_IPV4_SLOT": "0", "ANY_IPV6_SLOT": "0"}
    macros = {**LIMITS, **ports, **slots, **defines}
    loaded = loader.load(macros, PROGRAM_NAMES, directory=CACHE_DIRECTORY, is_strict=True)
    host_maps = HostMaps(loaded)
    for tags in ((), VLAN, QINQ):
        host_maps.mark_frames((1, tags), Reception(RELAY_MAC, 1))
    return loaded


@pytest.fixture
def told_senders():
    """For tests that need a kernel that tells which veths can send redirected frames."""
    with contextlib.closing(XdpFeatures()) as features:
        if features.can_transmit(socket.if_nametoindex("lo")) is None:
            pytest.skip("this kernel does not tell whether a veth can send redirected frames (Linux 6.3)")


@pytest.fixture(scope="session")
def loaded():
    """Loaded once."""
    with contextlib.closing(load_programs()) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def tables(loaded):
    """The maps of `loaded`, as the relay maps them."""
    tables = Tables(loaded, FIRST_PORT, LAST_PORT)
    yield tables
    tables.close()
