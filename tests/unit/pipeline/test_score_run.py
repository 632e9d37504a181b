"""What a scoring run says while it prepares."""

from __future__ import annotations

import time

import pytest

from mvkit import score_run


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 1), (0.0, 0)])
def test_only_a_slow_compilation_is_announced(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "_SLOW_S", 0.2)
    monkeypatch.setattr("mvkit.scoring.pls.prepare_kernel", lambda: time.sleep(seconds))
    said: list[str] = []
    score_run._prepare_kernel(said.append)
    time.sleep(0.3)
    assert len(said) == expected
