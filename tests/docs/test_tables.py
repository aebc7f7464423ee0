"""Tables of the pages show as tables: every row has as many cells as the first."""

import re

import pytest

from tests.docs.pages import NAMES, PAGES, text

_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row.strip())) - 1


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_row_has_as_many_cells_as_the_first(page):
    wrong = []
    for table in _TABLE.findall(text(page) + "\n"):
        rows = table.splitlines()
        wrong += [row for row in rows if cells(row) != cells(rows[0])]
    assert not wrong
