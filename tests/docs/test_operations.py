"""The tables that map the source systems' operations name tests that are there."""

import re
from pathlib import Path
from typing import Any

import pytest

from projections.systems.sentri import SentriRuns

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/reference").glob("operations-*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_tests_when_they_are_looked_for(page: Path) -> None:
    """Every test that a page names is a function of the file that it names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())

    assert named
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{name}"


def test_sentri_page_when_a_method_is_added() -> None:
    """Every method of Sentri's runs is on its page, and every method that the page names is there."""
    page = (ROOT / "docs/reference/operations-sentri.md").read_text()

    assert {name for name in vars(SentriRuns) if not name.startswith("_")} == set(
        re.findall(r"SentriRuns\.(\w+)", page)
    )


def test_sentri_page_when_a_test_is_added() -> None:
    """Every defect of the list has a test that shows it on the source's way, and one that does not find it here."""
    page = (ROOT / "docs/reference/operations-sentri.md").read_text()
    rows = [line.split("|")[1:4] for line in page.partition("## Known defects")[2].splitlines() if line[2:3].isdigit()]

    assert [str(number) for number in range(1, 12)] == [title.split()[0] for title, _, _ in rows]
    assert all("_in_the_source`" in model and "_in_the_source`" not in ours for _, model, ours in rows)


def test_sentri_page_when_its_example_is_run(tmp_path: Path) -> None:
    """The example of the page runs as it stands."""
    page = (ROOT / "docs/how-to/coming-from-sentri.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    example = example.replace("postgresql://app@db/runs", f"sqlite:///{tmp_path / 'runs.db'}")

    given: dict[str, Any] = {}
    exec(example, given)

    assert (1, 1) == (given["advanced"], given["new_value"])
