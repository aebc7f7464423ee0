"""The configurations and command lines of docs/*.md, taken out of the pages so that tests run what readers copy."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
_FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, heading: str) -> list[str]:
    """The fenced blocks of a section of docs/`page`, up to the next heading of any level."""
    sections = re.split(r"^#+ (.+)\n", _outside_fences_only((_DOCS / page).read_text()), flags=re.MULTILINE)
    (section,) = [body for title, body in zip(sections[1::2], sections[2::2], strict=True) if title == heading]
    return [block.replace(_HIDDEN, "#") for block in _FENCED.findall(section)]


_HIDDEN = "\x00"


def _outside_fences_only(text: str) -> str:
    """`text` with the # of fenced lines hidden, since a comment in a configuration is no heading."""
    return _FENCED.sub(lambda fenced: fenced[0].replace("#", _HIDDEN), text)


def options(block: str) -> list[list[str]]:
    """The options of each `rtpproxy` command line in a block; a line may go on after a backslash."""
    lines = (shlex.split(line) for line in block.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words[:1] == ["rtpproxy"]]


def placed(text: str, places: Mapping[str, str]) -> str:
    """`text` with the addresses and paths of the page replaced by those of the test.

    AssertionError when one of them does not occur, because then the page says something else than the test expects.
    """
    missing = [place for place in places if place not in text]
    assert not missing, f"{missing} not in: {text}"
    return re.sub("|".join(re.escape(place) for place in places), lambda found: places[found[0]], text)
