"""The tables that map the source systems' operations name tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/reference").glob("operations-*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_tests_when_they_are_looked_for(page: Path) -> None:
    """Every test that a page names is a function of the file that it names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())

    assert named
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{name}"
