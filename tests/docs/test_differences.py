"""docs/differences.md says what the relay does: the answers to `VF`, and the options that are refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.cli.options import GROUPS
from rtpproxy.control.messages import SUPPORTED_EXTENSIONS
from tests.docs.pages import DOCS, ROOT, section_blocks, text

PAGE = text(DOCS / "differences.md")
EXPLAINED = ("20081224",)
"""The date whose answer is more than one digit: it is 1 only with `-n`."""


def test_answers_to_probes() -> None:
    answers = re.findall(r"^\| (20\d{6}) \|.*\| ([01])", PAGE, re.MULTILINE)
    assert len(answers) == 25
    assert [date.encode() for date, answer in answers if answer == "1"] == list(SUPPORTED_EXTENSIONS)
    for date in EXPLAINED:
        assert re.search(rf"^\| {date} \|.*\| [01],? .*\w", PAGE, re.MULTILINE)


def test_added_options() -> None:
    """Named are all options but those of the C RTPproxy, which protocol.md 12.1 lists."""
    (sentence,) = re.findall(r"^All options of the C RTPproxy .* Added: (.*?)\.\n", PAGE, re.MULTILINE | re.DOTALL)
    (theirs,) = re.findall(r"^### 12\.1 .*?^### ", text(DOCS / "protocol.md"), re.MULTILINE | re.DOTALL)
    first_cells = "".join(re.findall(r"^\|(.*?) \|", theirs, re.MULTILINE))
    known = set(re.findall(r"`(--?\w+)", first_cells))
    ours = {flag for group in GROUPS for option in group.options for flag in option.flags}
    assert known <= ours
    assert sorted(re.findall(r"`(-[^`]+)`", sentence)) == sorted(ours - known)


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtpproxy", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["dtls_gw", "ice_lite"])
def test_refused_modules(module: str, tmp_path: Path) -> None:
    (row,) = re.findall(r"^\| (`dtls_gw`.*) prevent the start \|", PAGE, re.MULTILINE)
    assert f"`{module}`" in row
    file = tmp_path / "modules.conf"
    file.write_text(f"modules {{\n{module} {{}}\n}}\n")
    for arguments, where in ((f"--dso rtpp_{module}.so", ""), (f"--config {file}", "line 2: ")):
        refused = run(arguments.split())
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"rtpproxy: {arguments}: {where}module {module} is not supported")


def test_shown_mistakes() -> None:
    """Each command line of the page is answered as shown."""
    (shown,) = section_blocks(DOCS / "differences.md", "Command line")
    lines = shown.splitlines()
    for command, answer in zip(lines[::2], lines[1::2], strict=True):
        refused = run(command.removeprefix("$ rtpproxy ").split())
        said = re.sub(r"(addresses are 127\.0\.0\.1).*(; give)", r"\1\2", refused.stderr)  # a host may have more on lo
        assert (refused.returncode, said) == (2, f"{answer}\n")
