"""The manual page: it renders without complaint, and says what `--help` says."""

import re
import shutil
import subprocess
import sys

import pytest

from rtpproxy.cli.manual import page
from rtpproxy.cli.options import GROUPS

OPTIONS = [option for group in GROUPS for option in group.options]


@pytest.fixture(scope="module")
def rendered():
    """The page as groff shows it, as one line of text without emphasis."""
    if shutil.which("groff") is None:
        pytest.skip("needs software: groff")
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"]
    done = subprocess.run(command, input=page(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return " ".join(done.stdout.replace("\N{MINUS SIGN}", "-").split())


def test_it_says_everything_that_help_says(rendered):
    for group in GROUPS:
        assert group.title in rendered
        for option in group.options:
            assert f"{option.synopsis} {option.text} {option.more}".rstrip() in rendered


@pytest.mark.parametrize("title", ["NAME", "SYNOPSIS", "DESCRIPTION", "SIGNALS", "FILES", "EXIT STATUS", "EXAMPLES"])
def test_it_has_the_usual_sections(rendered, title):
    assert f" {title} " in rendered


def test_its_name_can_be_found_by_apropos():
    assert re.search(r"^\.SH NAME\nrtpproxy \\- \S", page(), re.MULTILINE)


def test_no_line_is_taken_for_a_request_by_accident():
    known = {"TH", "SH", "SS", "TP", "PP", "B", "RI", "RS", "RE", "nf", "fi", "nh", "ad"}
    assert {line[1:].split()[0] for line in page().splitlines() if line.startswith(".")} <= known
    assert not re.search("^'", page(), re.MULTILINE)


def test_program_that_writes_it():
    done = subprocess.run([sys.executable, "-m", "rtpproxy.cli.manual"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (page(), "")
