"""What came out of a kernel's tests: counted, shown, published."""

import datetime
import json
from xml.etree import ElementTree

import pytest
from lab import report

SUITE = '<s><testsuite name="pytest" tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}"/></s>'
DAY = datetime.date(2026, 11, 29)


def write(directory, *, outside=(5, 0, 1), inside=(90, 0, 2)):
    directory.mkdir(exist_ok=True)
    for name, counts in ((report.OUTSIDE, outside), (report.INSIDE, inside)):
        if counts:
            text = SUITE.format(tests=counts[0], failures=counts[1], skipped=counts[2])
            (directory / name).write_text(text)
    facts = {"kernel": "6.1.0-1-amd64", "tiers": {"virtio-net": "native XDP", "e1000": "TC"}}
    (directory / report.FACTS).write_text(json.dumps(facts))


def result_of(directory, status=0, error=""):
    return report.read("debian12", "bookworm, linux-image-amd64", directory, status, error, 90.0)


def test_good_result(tmp_path):
    write(tmp_path)
    result = result_of(tmp_path)
    assert result.is_good
    assert (result.outside, result.inside) == (report.Counts(4, 0, 1), report.Counts(88, 0, 2))
    row = report.table([result]).splitlines()[-1].split("  ")
    assert [cell.strip() for cell in row if cell] == [
        *("debian12", "6.1.0-1-amd64", "native XDP", "TC"),
        *("4 passed, 0 failed, 1 skipped", "88 passed, 0 failed, 2 skipped", "1.5 min", "ok"),
    ]


@pytest.mark.parametrize(
    ("given", "status", "error"),
    [
        ({"outside": (5, 1, 0)}, 1, ""),
        ({"inside": (5, 1, 0)}, 0, ""),
        ({"outside": None}, 4, "the tests ended with status 4"),  # the machine never started
        ({"outside": (2, 0, 2)}, 0, ""),  # nothing but skipped
        ({}, 1, "the tests ended with status 1"),
    ],
)
def test_bad_results(tmp_path, given, status, error):
    write(tmp_path, **given)
    result = result_of(tmp_path, status)
    assert not result.is_good
    assert result.error == error
    with pytest.raises(ValueError, match="not published: debian12 failed"):
        report.publish(tmp_path / "page.md", [result], DAY)


def test_one_junit_file_for_all(tmp_path):
    write(tmp_path / "a")
    results = [result_of(tmp_path / "a"), report.Result("b", "sid, linux", error="mmdebstrap failed")]
    root = ElementTree.parse(report.write_junit(tmp_path, results)).getroot()
    assert [suite.get("name") for suite in root] == ["debian12 outside", "debian12 inside", "b"]
    assert root[2][0][0].get("message") == "mmdebstrap failed"
    assert root[2].get("errors") == "1"


def test_table_of_the_page(tmp_path):
    page = tmp_path / "install.md"
    page.write_text("before\n<!-- vm-test: begin -->\nold\n<!-- vm-test: end -->\nafter\n")
    write(tmp_path / "a")
    report.publish(page, [result_of(tmp_path / "a")], DAY)
    lines = page.read_text().splitlines()
    assert lines[0], lines[-1] == ("before", "after")
    assert "old" not in lines
    assert lines[4] == (
        "| 6.1.0-1-amd64 | bookworm, linux-image-amd64 | native XDP | TC | 4 passed, 1 skipped | 88 passed, 2 skipped |"
    )
    assert "2026-11-29, `make vm-test ARGS=--publish`." in lines
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no place for the table"):
        report.publish(page, [result_of(tmp_path / "a")], DAY)
