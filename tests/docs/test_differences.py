"""docs/differences.md says what the relay does: the answers to `VF`, and the options that are refused."""

import re
import subprocess
import sys

import pytest

from rtpproxy.control.messages import SUPPORTED_EXTENSIONS
from tests.docs.pages import DOCS, ROOT, text

PAGE = text(DOCS / "differences.md")
EXPLAINED = ("20050322", "20081102", "20081224")
"""The dates whose answer is more than one digit; 20081224 is 1 only with `-n`."""


def test_answers_to_probes() -> None:
    answers = re.findall(r"^\| (20\d{6}) \|.*\| ([01])", PAGE, re.MULTILINE)
    assert len(answers) == 25
    assert [date.encode() for date, answer in answers if answer == "1"] == list(SUPPORTED_EXTENSIONS)
    for date in EXPLAINED:
        assert re.search(rf"^\| {date} \|.*\| [01],? .*\w", PAGE, re.MULTILINE)


@pytest.mark.parametrize("arguments", ["-r /tmp", "-S /tmp", "-a", "--config file", "--dso file"])
def test_refused_options(arguments: str) -> None:
    (row,) = re.findall(r"^\| (`-r`.*) are refused \|", PAGE, re.MULTILINE)
    assert f"`{arguments.split()[0]}`" in row
    command = [sys.executable, "-m", "rtpproxy", *arguments.split()]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    shown = re.search(r"^rtpproxy: -r .*: (recording .*)$", PAGE, re.MULTILINE)
    assert shown is not None
    end = shown[1] if arguments[:2] in ("-r", "-S", "-a") else shown[1].replace("recording is", "modules are")
    assert refused.stderr == f"rtpproxy: {arguments}: {end}\n"
