"""What a scoring run says while it prepares."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mvkit import score_run
from mvkit.scoring.mappings import MAPPINGS


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 1), (0.0, 0)])
def test_only_a_slow_compilation_is_announced(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "_SLOW_S", 0.2)
    slow = replace(MAPPINGS["pls"], warm_up=lambda: time.sleep(seconds))
    monkeypatch.setitem(MAPPINGS, "pls", slow)
    said: list[str] = []
    score_run._warm_up("pls", said.append)
    time.sleep(0.3)
    assert len(said) == expected
