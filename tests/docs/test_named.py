"""Options, make targets, files and functions that the pages name are there."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from rtpproxy.cli.options import GROUPS
from rtpproxy.makeann.command import makeann
from tests.bench.bench import main as bench
from tests.docs.pages import DOCS, NAMES, PAGES, ROOT, code_blocks, code_spans, text
from tests.vm_test.options import OF_COMMANDS, TRAFFIC_OPTIONS

OF_MAKEANN = {flag for parameter in makeann.params for flag in parameter.opts}
OF_PAGES = OF_COMMANDS | {
    "benchmarks": {flag for parameter in bench.params for flag in parameter.opts},
    "operations": OF_MAKEANN,
    "differences": OF_MAKEANN,
}
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


_LOG_LINE = re.compile(r"^\s*(?:DBUG|INFO|WARN|ERR|CRIT):GLOBAL:(\w+):\d+: (.*)")
_PUT_IN = re.compile(r"%[+.\w]*[a-z]")


@functools.cache
def logged() -> dict[str, list[re.Pattern[str]]]:
    """By function: the lines that it logs, as patterns."""
    found: dict[str, list[re.Pattern[str]]] = {}
    for path in (ROOT / "rtpproxy").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(function.name, []).extend(map(pattern, texts(function)))
    return found


def texts(function: ast.AST) -> Iterator[str]:
    """What a function hands to the log, with a `%` where something is put in."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
            for argument in node.args[:2]:  # the first of `log.log` is the level
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, _PUT_IN.split(line))))


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
    assert not named - OPTIONS - set(FOREIGN) - OF_PAGES.get(page.stem, set())


def test_the_page_of_the_traffic_generator_has_its_options():
    """All of them, and no others."""
    named = {option for piece in pieces(DOCS / "traffic.md") for option in _OPTION.findall(piece)}
    assert named - OPTIONS <= TRAFFIC_OPTIONS
    assert not TRAFFIC_OPTIONS - named


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_exists(page):
    named = {span for span in code_spans(page) if _FILE.fullmatch(span)}
    assert [path for path in named if not any((place / path).exists() for place in PLACES)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_log_line_is_one_of_the_function_that_it_names(page):
    shown = [found.groups() for piece in pieces(page) if (found := _LOG_LINE.match(piece))]
    assert [
        (name, line) for name, line in shown if not any(one.fullmatch(line) for one in logged().get(name, ()))
    ] == []


def test_every_map_is_in_the_table_of_maps():
    """And nothing else is there."""
    header = text(ROOT / "bpf" / "maps.h")
    maps = set(re.findall(r"^BPF_(?:F_)?TABLE\(\"\w+\", [\w ]+, [\w ]+, (\w+), ", header, re.MULTILINE))
    maps |= set(re.findall(r"^BPF_ARRAY_OF_MAPS\((\w+), ", header, re.MULTILINE))
    assert len(maps) > 10
    rows = re.findall(
        r"^\| (`[^|]+`) \| [^|]+ \| (?:controller|programs)[^|]*\|$", text(DOCS / "architecture.md"), re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == maps
