"""`mvkit cache` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvkit.cache import Store
from mvkit.cli.main import run
from mvkit.paths import cache_dir, ceilings_dir


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two scores, a ceiling, and nothing else."""
    store = Store(cache_dir(tmp_path))
    for key in ("a" * 64, "b" * 64):
        store.write("scores", key, {"values": np.zeros(10)}, {})
    ceiling = ceilings_dir(tmp_path) / "abc"
    ceiling.mkdir(parents=True)
    (ceiling / "scores.parquet").write_bytes(bytes(50))
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(words) == 0
    return capsys.readouterr().out


def test_info_and_prune(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--home", str(home)]
    info = json.loads(said(["cache", "info", "--json", *place], capsys))
    assert {name: kind["n_entries"] for name, kind in info["kinds"].items()} == {"ceilings": 1, "scores": 2}
    assert info["folder"] == str(cache_dir(home))
    table = said(["cache", "info", *place], capsys)
    assert "scores" in table and "ceilings" in table and "last used" in table

    assert "removed 0 results" in said(["cache", "prune", "30d", *place], capsys)
    report = json.loads(said(["cache", "prune", "all", "--json", *place], capsys))
    assert (report["n_removed"], report["removed_bytes"]) == (3, info["n_bytes"])
    assert report["left"]["kinds"] == {}
    assert list(ceilings_dir(home).iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache", "prune"], "mvkit cache prune needs RULE"),
        (["cache", "prune", "much"], "'much' does not say what to prune"),
        (["cache", "prun"], "did you mean 'mvkit cache prune'"),
    ],
)
def test_refusals(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
