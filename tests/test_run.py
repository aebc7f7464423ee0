"""What `make test` counts of the virtual machine's tests."""

from collections import Counter

import pytest

from tests import run

REPORT = """<testsuites><testsuite name="a"><testcase name="1"/><testcase name="2"><skipped message="why"/></testcase>
</testsuite><testsuite name="b"><testcase name="3"><failure/></testcase><testcase name="4"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts a program in place of vm-test/run that writes a report, or none, and ends."""

    def machine(report: str, status: int) -> None:
        program = tmp_path / "program"
        program.write_text(
            "import pathlib, sys\n"
            "path = pathlib.Path(sys.argv[sys.argv.index('--report') + 1], 'report.xml')\n"
            f"path.write_text({report!r}) if {report!r} else None\n"
            f"sys.exit({status})\n"
        )
        monkeypatch.setattr(run, "VIRTUAL_MACHINE", (str(program),))

    return machine


def test_all_its_tests_are_counted(machine):
    machine(REPORT, 1)
    counts = Counter(passed=5)
    assert run.run_virtual_machine(counts) == 1
    assert counts == {"passed": 6, "skipped": 1, "failed": 1, "error": 1}


def test_missing_software_is_said(machine, capsys):
    machine("", run.NOT_RUN)
    counts = Counter()
    assert run.run_virtual_machine(counts) == pytest.ExitCode.NO_TESTS_COLLECTED
    assert counts == {"skipped": 1}
    assert "needs software" in capsys.readouterr().out


def test_a_runner_that_dies_has_failed(machine):
    machine("", 137)
    assert run.run_virtual_machine(Counter()) == 137
