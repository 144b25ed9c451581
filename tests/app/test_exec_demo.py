"""The demo of the tutorial: it records a real suite in four shards, and fails when a count is not pytest's own."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "tutorial" / "demo.py"


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo_when_it_records_a_part_of_networkx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes record real tests; the read model is rebuilt and verified; every shard's counts are equal."""
    done = subprocess.run(
        [sys.executable, DEMO, "algorithms.centrality"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert 5 == done.stdout.count("  equal\n")

    monkeypatch.chdir(tmp_path)
    output = tmp_path / ".demo" / "output.txt"
    output.write_text(output.read_text().replace(" passed", "1 passed", 1))  # one shard says ten times as many
    assert not load_demo().compare()
