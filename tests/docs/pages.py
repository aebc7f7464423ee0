"""The pages of the documentation as text: their headings, anchors, links and code."""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[^\n]*\n(.*?)^[ \t]*\2[ \t]*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$", re.MULTILINE)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_SOURCE = re.compile(r"""\b(?:src|srcset|href)="([^"\s]+)""")


@functools.cache
def text(page: Path) -> str:
    return page.read_text()


def without_code(page: Path) -> str:
    """A page without its code blocks and code spans."""
    return _SPAN.sub("", _FENCE.sub("", text(page)))


def code_blocks(page: Path) -> list[str]:
    return [match[3] for match in _FENCE.finditer(text(page))]


def section_blocks(page: Path, heading: str) -> list[str]:
    """Code blocks under a heading, up to the next heading of any level."""
    blocks = [match[3] for match in _FENCE.finditer(text(page))]
    parts = _HEADING.split(_FENCE.sub("\0", text(page)))
    (number,) = [number for number, part in enumerate(parts) if part == heading]
    before = sum(part.count("\0") for part in parts[:number])
    return blocks[before : before + parts[number + 1].count("\0")]


def code_spans(page: Path) -> list[str]:
    return [match[2] for match in _SPAN.finditer(_FENCE.sub("", text(page)))]


def headings(page: Path) -> list[str]:
    return [match[2] for match in _HEADING.finditer(_FENCE.sub("", text(page)))]


def anchors(page: Path) -> set[str]:
    """What links may name behind `#`, by GitHub's rule."""
    found: set[str] = set()
    for heading in headings(page):
        shown = _LINK.sub(r"\1", heading)
        anchor = base = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{base}-{number}"
        found.add(anchor)
    return found


def links(page: Path) -> list[str]:
    """Targets of links and pictures that lead to files of the repository, and not to the web."""
    # Code spans may be part of a link's text, so they are emptied, not removed with their backticks.
    prose = _SPAN.sub("``", _FENCE.sub("", text(page)))
    targets = [match[2] for match in _LINK.finditer(prose)] + _SOURCE.findall(prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
