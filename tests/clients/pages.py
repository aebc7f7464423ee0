"""Command lines and addresses of docs/*.md, made fit for a test, so that tests run what readers copy."""

import re
import shlex
from collections.abc import Mapping

from tests.docs.pages import DOCS, section_blocks

QUICK = ("--ports", "bound", "--offload", "off")
"""Options that start a relay sooner, for tests that are not about the kernel."""
_USER = re.compile("^rtpproxy(?=:|$)")


def blocks(page: str, heading: str) -> list[str]:
    """The code blocks of a section of docs/`page`."""
    return section_blocks(DOCS / page, heading)


def options(block: str) -> list[list[str]]:
    """The options of each `rtpproxy` command line in a block; a line may go on after a backslash.

    The user `rtpproxy`, whom readers are told to add, is not on every host; `nobody` stands for that one.
    """
    lines = (shlex.split(line) for line in block.replace("\\\n", " ").splitlines())
    return [[_USER.sub("nobody", word) for word in words[1:]] for words in lines if words[:1] == ["rtpproxy"]]


def placed(text: str, places: Mapping[str, str]) -> str:
    """`text` with the addresses and paths of the page replaced by those of the test.

    AssertionError when one of them does not occur, because then the page says something else than the test expects.
    """
    missing = [place for place in places if place not in text]
    assert not missing, f"{missing} not in: {text}"
    return re.sub("|".join(re.escape(place) for place in places), lambda found: places[found[0]], text)
