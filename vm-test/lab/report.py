"""What came out: a table on the terminal, one JUnit file for all kernels, and the table of docs/install.md."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

FACTS = "facts.json"
"""What tests found out about a kernel: `kernel`, its version, and `tiers`, who forwards by NIC model."""
OUTSIDE, INSIDE = "outside.xml", "inside.xml"
_BEGIN, _END = "<!-- vm-test: begin -->", "<!-- vm-test: end -->"


@dataclass(frozen=True)
class Counts:
    """Numbers of tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Result:
    """The run of one kernel."""

    name: str
    origin: str
    kernel: str = ""
    tiers: dict[str, str] = field(default_factory=dict)
    outside: Counts = Counts()
    inside: Counts = Counts()
    seconds: float = 0.0
    status: int = 1
    error: str = ""
    suites: tuple[ElementTree.Element, ...] = ()

    @property
    def is_good(self) -> bool:
        """Tests ran, and all went well: a machine that never started is a failure."""
        failed = self.outside.failed + self.inside.failed
        return self.status == 0 and not self.error and not failed and self.outside.passed > 0


def read(name: str, origin: str, directory: Path, status: int, error: str, seconds: float) -> Result:
    """The result of one kernel, from what its tests wrote to `directory`."""
    facts = json.loads(_text(directory / FACTS) or "{}")
    suites = []
    counts = {}
    for where in (OUTSIDE, INSIDE):
        found = _suites(directory / where)
        for suite in found:
            suite.set("name", f"{name} {Path(where).stem}")
        counts[where] = _count(found)
        suites += found
    if status and not error and not counts[OUTSIDE].failed:
        error = f"the tests ended with status {status}"
    return Result(
        name,
        origin,
        facts.get("kernel", ""),
        facts.get("tiers", {}),
        counts[OUTSIDE],
        counts[INSIDE],
        seconds,
        status,
        error,
        tuple(suites),
    )


def write_junit(directory: Path, results: Sequence[Result]) -> Path:
    """Write all test suites to `report.xml`. A kernel that never ran is an error of its own in it."""
    root = ElementTree.Element("testsuites")
    for result in results:
        root.extend(result.suites)
        if result.error:
            suite = ElementTree.SubElement(root, "testsuite", name=result.name, tests="1", errors="1", failures="0")
            case = ElementTree.SubElement(suite, "testcase", classname=result.name, name="run")
            ElementTree.SubElement(case, "error", message=result.error)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "report.xml"
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def table(results: Sequence[Result]) -> str:
    """A line for each kernel, for the terminal."""
    rows = [("kernel", "version", "virtio-net", "e1000", "from outside", "inside", "time", "")]
    rows += [
        (
            result.name,
            result.kernel or "-",
            result.tiers.get("virtio-net", "-"),
            result.tiers.get("e1000", "-"),
            str(result.outside),
            str(result.inside),
            f"{result.seconds / 60:.1f} min",
            result.error or ("ok" if result.is_good else "FAILED"),
        )
        for result in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", *lines])


def publish(page: Path, results: Sequence[Result], day: datetime.date) -> None:
    """Write the table of kernels between its marks in a page. ValueError if a kernel failed or a mark is missing."""
    bad = [result.name for result in results if not result.is_good]
    if bad:
        raise ValueError(f"not published: {', '.join(bad)} failed")
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {_BEGIN} and {_END}")
    lines = [
        "| kernel | from | virtio-net | e1000 | tests from outside | tests inside |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        tiers = [result.tiers.get(model, "-") for model in ("virtio-net", "e1000")]
        tests = [f"{counts.passed} passed{_left_out(counts)}" for counts in (result.outside, result.inside)]
        lines.append(f"| {' | '.join([result.kernel, result.origin, *tiers, *tests])} |")
    lines.append(f"\n{day.isoformat()}, `make vm-test ARGS=--publish`.")
    page.write_text(f"{before}{begin}\n{chr(10).join(lines)}\n{end}{after}")


def _left_out(counts: Counts) -> str:
    return f", {counts.skipped} skipped" if counts.skipped else ""


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _suites(path: Path) -> list[ElementTree.Element]:
    if not path.exists():
        return []
    return list(ElementTree.parse(path).getroot().iter("testsuite"))


def _count(suites: Sequence[ElementTree.Element]) -> Counts:
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return Counts(total - failed - skipped, failed, skipped)
