"""The tests of the project that depend on the kernel, run in this one."""

from xml.etree import ElementTree

from lab.gateway import SOURCE
from lab.progress import say
from lab.report import INSIDE

DEADLINE_S = 90.0
PARTS = {"programs": "tests/bpf tests/offload", "calls": "tests/netns_call"}
"""Run side by side. Each part needs the programs with other options, whose compilation takes long under emulation."""
NEVER_SKIPPED = ("needs privilege:", "needs software:")
"""How reasons begin that only a fault of the machine explains; see tests/conftest.py."""
MODULES = ("8021q", "bonding")
"""What the kernel of a developer may lack, and no test may be skipped for where there is the module."""


def test_inside(gateway):
    """Its own results are in the report, test by test; what was skipped says why."""
    slowness = max(1, round(gateway.slowness) * 2)
    say("running the tests marked vm in the guest")
    outcome = gateway.guest.run("/bin/sh", "-c", script(slowness), deadline_s=DEADLINE_S, check=False)
    assert outcome.status in (0, 1), outcome.output[-4000:]  # with others pytest has written no results
    report = ElementTree.Element("testsuites")
    for part in PARTS:
        report.extend(ElementTree.fromstring(gateway.guest.read(f"/tmp/{part}.xml")).iter("testsuite"))
    ElementTree.ElementTree(report).write(gateway.report / INSIDE, encoding="utf-8", xml_declaration=True)
    assert outcome.status == 0, outcome.output[-4000:]
    for suite in report:
        assert int(suite.get("tests")) > int(suite.get("skipped")), suite.attrib
    modules = [name for name in MODULES if gateway.guest.run("modprobe", "-n", name, check=False).status == 0]
    reasons = {skipped.get("message") for skipped in report.iter("skipped")}
    assert {reason for reason in reasons if is_fault(reason, modules)} == set()


def script(slowness):
    """Runs both parts, each in the files that have such tests; its status is not 0 if that of one is not."""
    run = ".venv/bin/python -m pytest $(grep -rl 'mark\\.vm' --include='test_*.py' {}) -m vm -q --junitxml=/tmp/{}.xml"
    first, second = (run.format(paths, part) for part, paths in PARTS.items())
    return (
        f"cd {SOURCE}; export SLOWNESS={slowness}; {first} > /tmp/first 2>&1 & {second}; status=$?; "
        "wait $! || status=$?; cat /tmp/first; exit $status"
    )


def is_fault(reason, modules):
    """Whether a test ought to have run for all that its reason says."""
    return reason.startswith(NEVER_SKIPPED) or any(f"({name})" in reason for name in modules)
