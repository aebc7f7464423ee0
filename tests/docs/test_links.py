"""Every link between pages leads somewhere, and every page that should be there is."""

import pytest

from tests.docs.pages import DOCS, NAMES, PAGES, ROOT, anchors, links

EXPECTED = {
    *("install", "kamailio", "opensips", "sippy", "migrate", "options", "operations", "troubleshooting", "protocol"),
    *("differences", "security", "architecture", "benchmarks", "limits"),
}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_resolves(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_inside = target.is_relative_to(ROOT)
        if not is_inside or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_there():
    assert {page.stem for page in DOCS.glob("*.md")} >= EXPECTED


def test_every_page_is_reached_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [str(page.relative_to(ROOT)) for page in DOCS.glob("*.md") if page not in linked] == []


def test_the_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# 1.2 `unix:` — one *command* per connection (verified)\n## Same\n```\n# no heading\n```\n## Same\n"
        "### See [the `It` command](other.md), please\n"
    )
    assert anchors(page) == {
        "12-unix--one-command-per-connection-verified",
        "same",
        "same-1",
        "see-the-it-command-please",
    }
