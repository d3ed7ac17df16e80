"""Every link between the pages leads to a file, and to a heading of it if it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Return what can stand after ``#`` in a link to a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for file, anchor in LINK.findall(prose):
        target = (page.parent / file).resolve() if file else page
        if not target.is_relative_to(ROOT / "docs") and not (ROOT / "gecaso").exists():
            continue  # away from the checkout there is no more than tests, docs and examples
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = {file for file, _ in LINK.findall((ROOT / "docs" / "index.md").read_text())}
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"} <= listed
