"""Inputs that once led to something else than a value or an MvkitError, each with the outcome in its name."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from mvkit.errors import MvkitError

HERE = Path(__file__).parent
INPUTS = sorted((HERE / "corpus").glob("*/*"))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs_once_found_have_their_outcome(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    from targets import TARGETS

    folder = tmp_path / "work"
    folder.mkdir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[path.parent.name].read(path.read_bytes(), folder)
        outcome = "value"
    except MvkitError as error:
        outcome = type(error).__name__
    assert outcome == path.name.partition("-")[0]


def test_pickles_change_as_instructions_and_run_no_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import random

    import pickles
    from targets import LEGACY, TARGETS

    seed = (LEGACY / "resaved" / "mini_old_stack.pkl").read_bytes()
    assert b"".join(pickles.split(seed)) == seed
    draw, outcomes = random.Random(0), set()
    for _ in range(200):
        try:
            TARGETS["pickle"].read(pickles.mutate(seed, seed, draw), tmp_path)
            outcomes.add("value")
        except MvkitError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"value", "DataError"}
    assert "os" in sys.modules
