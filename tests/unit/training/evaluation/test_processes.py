"""One process and two measure the same; without exchange they would not."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "evaluated_together.py"


def differences(found: dict[str, float], expected: dict[str, float]) -> list[str]:
    """Names of the metrics that differ by more than rounding."""
    assert list(found) == list(expected)
    return [
        key for key, value in found.items() if value != pytest.approx(expected[key], rel=1e-5, nan_ok=True)
    ]


def test_two_processes_measure_what_one_does(run_group) -> None:
    spec = importlib.util.spec_from_file_location("evaluated_together", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    expected = script.evaluate()
    assert math.isnan(expected["metrics"]["neural.VISl"])
    wanted = expected["state"]
    for saved in run_group(SCRIPT, 2):
        assert differences(saved["together"]["metrics"], expected["metrics"]) == []
        state = saved["together"]["state"]
        assert torch.equal(state["bank"]["labels"], wanted["bank"]["labels"])
        assert torch.equal(state["probe"]["met"], wanted["probe"]["met"])
        for key, value in wanted["probe"]["classifier"].items():
            torch.testing.assert_close(state["probe"]["classifier"][key], value)
        # The test can fail: each evaluator notices when nothing is exchanged.
        changed = differences(saved["apart"]["metrics"], expected["metrics"])
        assert {"bank", "knn", "loss"} <= {key.split(".")[0] for key in changed}
        weight = saved["apart"]["state"]["probe"]["classifier"]["weight"]
        assert not torch.allclose(weight, wanted["probe"]["classifier"]["weight"], rtol=1e-2)
