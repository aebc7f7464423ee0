"""Options, make targets, files and functions that the pages name are there."""

import re

import pytest

from rtpproxy.cli.options import GROUPS
from tests.docs.pages import DOCS, NAMES, PAGES, ROOT, code_blocks, code_spans, text

OPTIONS = {flag for group in GROUPS for option in group.options for flag in option.flags}
FOREIGN = {
    "--rx-capture": "xdpdump's",
    "--rtp_proxy_clients": "Sippy B2BUA's",
}
"""Options of other programs that stand alone in a code span."""
OF_OTHERS = {"CHANGELOG.md", "docs/protocol.md", "docs/migrate.md"}
"""Pages that also name options of the C RTPproxy and of rtpengine."""
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z_-]+|-[A-Za-z26](?![\w-]))")
_COMMAND = re.compile(r"(?:^|/)rtpproxy (-.*)")
_ARGS = re.compile(r'ARGS="([^"]*)"')
_FILE = re.compile(r"(?:[\w-]+/)+(?:[\w-]+\.(?:py|h|c|md|svg|jsonl|cfg))?")
PLACES = (ROOT, ROOT / "rtpproxy", DOCS)
"""Where a path in a page may start: a page may leave out the name of the package."""


_LOG_LINE = re.compile(r"^\s*(?:DBUG|INFO|WARN|ERR|CRIT):GLOBAL:(\w+):\d+: ")


def functions() -> set[str]:
    sources = "".join(path.read_text() for path in (ROOT / "rtpproxy").rglob("*.py"))
    return set(re.findall(r"\bdef (\w+)\(", sources))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", text(ROOT / "Makefile"), re.MULTILINE))


def pieces(page):
    """Code of a page: its spans, and the lines of its blocks."""
    return code_spans(page) + [line for block in code_blocks(page) for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_make_target_exists(page):
    named = {target for piece in pieces(page) for target in re.findall(r"^\s*make ([a-z-]+)", piece)}
    assert not named - targets()


@pytest.mark.parametrize("page", [page for page in PAGES if str(page.relative_to(ROOT)) not in OF_OTHERS], ids=str)
def test_every_option_exists(page):
    named = set()
    for piece in pieces(page):
        command = _COMMAND.search(piece)
        if command:
            named |= set(_OPTION.findall(command[1]))
        elif piece.startswith("-"):
            named |= set(_OPTION.findall(piece)[:1])
        for arguments in _ARGS.findall(piece):
            named |= set(_OPTION.findall(arguments))
    assert not named - OPTIONS - set(FOREIGN)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_exists(page):
    named = {span for span in code_spans(page) if _FILE.fullmatch(span)}
    assert [path for path in named if not any((place / path).exists() for place in PLACES)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_log_line_names_a_function_that_exists(page):
    named = {name for piece in pieces(page) for name in _LOG_LINE.findall(piece)}
    assert not named - functions()
