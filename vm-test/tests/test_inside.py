"""The tests of the project that depend on the kernel, run in this one."""

from xml.etree import ElementTree

from lab.gateway import SOURCE
from lab.progress import say
from lab.report import INSIDE

from rtpproxy.config import CACHE_DIRECTORY
from tests.workers import CACHE_VARIABLE

DEADLINE_S = 150.0
DIRECTORY = "/tmp/inside"
"""For what the parts find out, and for compiled programs."""
PARTS = {
    "programs": "tests/bpf tests/offload",
    "calls": "tests/netns_call",
}
"""Where those marked vm are. They run side by side, for about the same time. Only the first compiles programs, which
takes 40 s under emulation: those of the calls were compiled for calls from outside."""
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
        report.extend(ElementTree.fromstring(gateway.guest.read(f"{DIRECTORY}/{part}.xml")).iter("testsuite"))
    ElementTree.ElementTree(report).write(gateway.report / INSIDE, encoding="utf-8", xml_declaration=True)
    assert outcome.status == 0, outcome.output[-4000:]
    for suite in report:
        assert int(suite.get("tests")) > int(suite.get("skipped")), suite.attrib
    modules = [name for name in MODULES if gateway.guest.run("modprobe", "-n", name, check=False).status == 0]
    reasons = {skipped.get("message") for skipped in report.iter("skipped")}
    assert {reason for reason in reasons if is_fault(reason, modules)} == set()


def script(slowness):
    """Run both parts, each in the files that have such tests; the status is not 0 if that of one is not."""
    first, second = (
        f".venv/bin/python -m pytest $(grep -rl 'mark\\.vm' --include='test_*.py' {places}) -m vm -q "
        f"--junitxml={DIRECTORY}/{part}.xml"
        for part, places in PARTS.items()
    )
    return (
        f"cd {SOURCE} && mkdir -p {CACHE_DIRECTORY} {DIRECTORY}/cache && "
        f"mount --bind {CACHE_DIRECTORY} {DIRECTORY}/cache; "  # the tests' /var/cache is their own
        f"export SLOWNESS={slowness} {CACHE_VARIABLE}={DIRECTORY}/cache; "
        f"{first} > {DIRECTORY}/first 2>&1 & {second}; status=$?; wait $! || status=$?; "
        f"cat {DIRECTORY}/first; exit $status"
    )


def is_fault(reason, modules):
    """Whether a test ought to have run for all that its reason says."""
    return reason.startswith(NEVER_SKIPPED) or any(f"({name})" in reason for name in modules)
