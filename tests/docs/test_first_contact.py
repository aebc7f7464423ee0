"""The pages that newcomers see first are short, and their picture is the same in light and dark."""

import re

from tests.docs.pages import DOCS, ROOT, text

README_LINES, CONTRIBUTING_LINES = 150, 45
COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def test_the_readme_is_short():
    assert len(text(ROOT / "README.md").splitlines()) <= README_LINES


def test_contributing_is_short():
    assert len(text(ROOT / "CONTRIBUTING.md").splitlines()) <= CONTRIBUTING_LINES


def test_the_pictures_for_light_and_dark_differ_in_colours_only():
    light, dark = ((DOCS / "images" / f"relay-{mode}.svg").read_text() for mode in ("light", "dark"))
    assert light != dark
    assert COLOUR.sub("#", light) == COLOUR.sub("#", dark)
