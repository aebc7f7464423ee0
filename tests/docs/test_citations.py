"""Every section of docs/protocol.md that code, tests and pages cite is there."""

import functools
import re

import pytest

from tests.docs.pages import DOCS, ROOT, headings, text

PROTOCOL = DOCS / "protocol.md"
SOURCES = sorted(
    path
    for folder in ("rtpproxy", "bpf", "tests")
    for suffix in ("py", "h", "c", "cfg", "xml")
    for path in (ROOT / folder).rglob(f"*.{suffix}")
    if path.parent != ROOT / "tests" / "docs"
)
_NUMBER = r"\d+(?:\.\d+)?"
_CITATION = re.compile(rf"protocol\.md((?:,? (?:(?:and|to|sections?|items?) ?)*{_NUMBER})+)")
_WORD = re.compile(rf"{_NUMBER}|items?|to|sections?")


@functools.cache
def sections() -> frozenset[str]:
    numbers = (re.match(rf"({_NUMBER})\.? ", heading) for heading in headings(PROTOCOL))
    return frozenset(number[1] for number in numbers if number)


@functools.cache
def items(section: str) -> frozenset[str]:
    """Numbers of the list in a section without sub-sections."""
    body = re.search(rf"^#+ {re.escape(section)}\.? .*?$(.*?)(?=^#|\Z)", text(PROTOCOL), re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r"^(\d+)\. ", body[1], re.MULTILINE)) if body else frozenset()


def cited(source: str) -> list[tuple[str, str]]:
    """Sections that a text cites, each with an item or with nothing."""
    # A citation may go on in the next line of a comment.
    prose = re.sub(r"\s*\n\s*(?:\*(?!/)|#|//)?\s*", " ", source)
    found = []
    for citation in _CITATION.finditer(prose):
        found += _read(citation[1])
    return found


def _read(numbers: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    is_item = is_range = False
    for word in _WORD.findall(numbers):
        if word == "to":
            is_range = True
        elif not word[0].isdigit():
            is_item = word.startswith("item")
        elif is_item and "." not in word:
            found.append((found[-1][0], word))
        elif is_range:
            major, first = found[-1][0].split(".")
            found += [(f"{major}.{minor}", "") for minor in range(int(first) + 1, int(word.split(".")[1]) + 1)]
            is_range = False
        else:
            is_item = False
            found.append((word, ""))
    return found


def missing(source: str) -> list[str]:
    return [
        f"{section} {item}".strip()
        for section, item in cited(source)
        if section not in sections() or (item and item not in items(section))
    ]


@pytest.mark.parametrize("path", [path for path in SOURCES if "protocol.md" in text(path)], ids=lambda path: path.name)
def test_every_cited_section_exists(path):
    assert not missing(text(path))


def test_citations_are_found():
    assert sum(len(cited(text(path))) for path in SOURCES) > 100


def test_the_protocol_cites_its_own_sections_rightly():
    own = re.findall(rf"§§?({_NUMBER})", text(PROTOCOL))
    assert len(own) > 20
    assert set(own) <= sections()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("see protocol.md 4.4, please", [("4.4", "")]),
        ("protocol.md sections 2, 3 and 11. Identifiers", [("2", ""), ("3", ""), ("11", "")]),
        ("protocol.md 7.1, and 16 item 5: pairs", [("7.1", ""), ("16", ""), ("16", "5")]),
        ("(protocol.md 16, items 6 and 7)", [("16", ""), ("16", "6"), ("16", "7")]),
        ("protocol.md 4.2 to 4.4.", [("4.2", ""), ("4.3", ""), ("4.4", "")]),
        ("protocol.md 2.3, 7.3,\n * 7.4).", [("2.3", ""), ("7.3", ""), ("7.4", "")]),
        ("# protocol.md\n# 5 and 6.2. Then", [("5", ""), ("6.2", "")]),
        ("protocol.md: 0 faces the callee", []),
    ],
)
def test_citations_are_read_as_they_are_written(source, expected):
    assert cited(source) == expected


def test_a_section_that_is_not_there_is_found():
    assert missing("protocol.md 99.1 and 16, item 77") == ["99.1", "16 77"]
