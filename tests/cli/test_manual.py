"""The manual page renders without complaint; it and docs/options.md say what `--help` says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.cli.manual import markdown, page
from rtpproxy.cli.options import GROUPS

OPTIONS = [option for group in GROUPS for option in group.options]


@pytest.fixture(scope="module")
def rendered():
    """Renders the page by groff, as one line of text without emphasis."""
    if shutil.which("groff") is None:
        pytest.skip("needs software: groff")
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"]
    done = subprocess.run(command, input=page(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return " ".join(done.stdout.replace("\N{MINUS SIGN}", "-").split())


def test_it_says_everything_that_help_says(rendered):
    for group in GROUPS:
        assert group.title in rendered
        assert group.note in rendered
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


@pytest.mark.parametrize(("arguments", "expected"), [([], page), (["--markdown"], markdown)])
def test_program_that_writes_it(arguments, expected):
    command = [sys.executable, "-m", "rtpproxy.cli.manual", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (expected(), "")


# docs/options.md

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_page_in_the_repository_is_what_is_generated():
    assert PAGE.read_text() == markdown(), "run `make docs` and commit docs/options.md"


def test_markdown_says_everything_that_help_says():
    text = " ".join(markdown().replace("`", "").split())
    for group in GROUPS:
        assert f"\n## {group.title}\n" in markdown()
        assert group.note in text
        for option in group.options:
            assert f"\n### `{option.synopsis}`\n" in markdown()
            assert option.help in text
            assert option.more in text
            assert option.default == "" or f"Default: {option.default}" in text


def test_what_is_typed_is_marked_as_code():
    alone = "`--ports bound`", "`stdioc:`", "`unix:PATH`", "`*`"
    for code in ("`-l A -6 /B`", "`-u rtpproxy:kamailio -w 0770`", *alone):
        assert code in " ".join(markdown().split())
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", markdown().split("## Signals")[0], flags=re.DOTALL)
    assert re.findall(r"(?<!\w)-[a-zA-Z]\b|(?<!\w)--\w+", outside.split("# Options")[1]) == []
