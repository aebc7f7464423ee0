"""The gateway that tests ask things of: one machine for all of them, booted when the first needs it."""

import json
from pathlib import Path

import pytest
from lab.gateway import Gateway
from lab.guest import GuestError
from lab.report import FACTS
from lab.shell import attach, described, uncaptured


def pytest_addoption(parser):
    parser.addoption("--machine", metavar="FILE", help="what to boot, as vm-test/run wrote it")
    parser.addoption("--short", action="store_true", help="only tests marked `short`")
    parser.addoption("--keep", action="store_true", help="a shell in the machine after the tests")


def pytest_configure(config):
    if not config.getoption("--machine") and not config.option.collectonly:
        raise pytest.UsageError("these tests need a machine: vm-test/run makes one")


def pytest_collection_modifyitems(config, items):
    """What changes the machine for good comes last."""
    items.sort(key=lambda item: bool(item.get_closest_marker("last")))
    if config.getoption("--short"):
        kept = [item for item in items if item.get_closest_marker("short")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that failed shows the last lines of the console."""
    outcome = yield
    report = outcome.get_result()
    gateway = item.funcargs.get("gateway") if hasattr(item, "funcargs") else None
    if report.failed and isinstance(gateway, Gateway):
        report.sections.append(("console of the machine, last lines", gateway.machine.tail()))


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Show a failure at once: the next test may take minutes, and a machine that hangs ends the run."""
    if report.failed:
        print(f"\n{report.longreprtext[-3000:]}", flush=True)


@pytest.fixture(scope="session")
def facts(request):
    """What is found out about this kernel, for the report."""
    found = {}
    yield found
    Path(json.loads(Path(request.config.getoption("--machine")).read_text())["report"], FACTS).write_text(
        json.dumps(found)
    )


@pytest.fixture(scope="session")
def gateway(request, facts):
    with described(Path(request.config.getoption("--machine"))) as booted:
        facts["kernel"] = booted.kernel
        yield booted
        if request.config.getoption("--keep"):
            with uncaptured(request.config.pluginmanager.getplugin("capturemanager")):
                attach(booted.machine)


@pytest.fixture(scope="session")
def kernel_has_vlans(gateway):
    """Kernels of users may lack VLAN devices; those of distributions have them."""
    try:
        gateway.guest.shell("ip link show in1.100")
    except GuestError:
        pytest.skip("this kernel has no VLAN devices (8021q)")
