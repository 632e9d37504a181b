"""What the benchmarks report, and how it gets into docs/benchmarks.md."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A record with times in three turns, a rate that is behind, made again, and a peer that is missing."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    record = importlib.import_module("record").Record(str(tmp_path / "record.jsonl"))
    record.add("Scores", "PLS", peer="numpy", mvkit=[2.0, 1.0, 4.0], other=[4.0, 4.0, 12.0], unit="s CPU")
    for rate in (30.0, 45.0):
        record.add("Loading", "files", peer="a loop", mvkit=rate, other=50, unit="images/s", better="higher")
    assert not record.has_peer("no_such_module", "Scores", "RSA", peer="no-such-package")
    page = importlib.import_module("benchmarks_page")
    read: list[dict[str, Any]] = page.read_record(tmp_path / "record.jsonl")
    return read


def test_ratios_are_of_turns_and_above_one_where_mvkit_is_ahead(entries: list[dict[str, Any]]) -> None:
    import numpy as np

    pls = next(entry for entry in entries if entry.get("job") == "PLS")
    # Of the pairs: 2, 4, 3; of the medians it would be 2.
    assert (pls["mvkit"], pls["other"], pls["ratio"], pls["ratio_range"]) == (2.0, 4.0, 3.0, [2.0, 4.0])
    assert (pls["pairs"], pls["version"]) == (3, np.__version__)
    assert [entry["ratio"] for entry in entries if entry.get("job") == "files"] == [0.9]


def test_page_says_what_was_measured_lost_and_left_out(entries: list[dict[str, Any]]) -> None:
    import numpy as np

    blocks = importlib.import_module("benchmarks_page").blocks(entries)
    scores = f"| PLS | numpy {np.__version__} | 2.00 s CPU | 4.00 | 3.00x (2.00-4.00) | 3 | - |"
    assert scores in blocks["results"].splitlines()
    assert "| files | a loop | 45.0 images/s | 50.0 | **0.900x** | 1 | - |" in blocks["results"].splitlines()
    assert blocks["behind"] == "- files: **0.900x** beside a loop."
    assert blocks["not run"] == "- RSA: no-such-package (not installed: pip install no-such-package)."
    assert f"numpy {np.__version__}" in blocks["machine"]


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    record = importlib.import_module("record").Record(None)
    record.add("Scores", "PLS", peer="numpy", mvkit=1.0, other=2.0, unit="s")
    assert list(tmp_path.iterdir()) == []


def test_page_has_the_markers(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    text = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    page = importlib.import_module("benchmarks_page")
    page.replace_blocks(copy, page.blocks(entries), script="benchmarks/benchmarks_page.py")
    assert "no-such-package" in copy.read_text(encoding="utf-8")
