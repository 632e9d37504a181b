"""One process against two at the same global batch: losses, weights, banks and queues of every objective.

That the comparison can fail is shown by doing without each thing that
processes must tell each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvkit.objectives.registry import OBJECTIVES

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "steps_of_every_objective.py"
Results = dict[str, dict[str, Any]]
#: Relative to the largest number of a tensor; sums over processes are in another order.
TOLERANCE = {"whole": 1e-10, "uneven": 1e-10, "accumulated": 1e-6, "float32": 1e-4}


@pytest.fixture(scope="module")
def alone(run_group: Callable[..., list[Results]]) -> Results:
    return run_group(SCRIPT, 1)[0]


@pytest.fixture(scope="module")
def pair(run_group: Callable[..., list[Results]]) -> list[Results]:
    return run_group(SCRIPT, 2)


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Largest difference of losses and of every tensor of the state, relative to its largest number."""
    assert one["state"].keys() == other["state"].keys()
    both = {"losses": (one["losses"], other["losses"])}
    both |= {key: (one["state"][key], other["state"][key]) for key in one["state"]}
    return {key: difference(left, right) for key, (left, right) in both.items()}


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    assert left.isfinite().all() and right.isfinite().all()
    scale = max(float(left.abs().max()), 1e-3)
    return float((left.double() - right.double()).abs().max()) / scale


@pytest.mark.parametrize("variant", TOLERANCE)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_compute_what_one_does(
    alone: Results, pair: list[Results], name: str, variant: str
) -> None:
    key = f"{name}/{variant}"
    for process in pair:
        found = differences(alone[key], process[key])
        assert max(found.values()) < TOLERANCE[variant], max(found.items(), key=lambda item: item[1])
        # What is logged is float32.
        torch.testing.assert_close(alone[key]["parts"], process[key]["parts"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_processes_hold_the_same_bits(pair: list[Results], name: str) -> None:
    first, second = (process[f"{name}/whole"] for process in pair)
    assert torch.equal(first["parts"], second["parts"])
    for key, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][key]), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_moved_the_weights(alone: Results, name: str) -> None:
    losses = alone[f"{name}/whole"]["losses"]
    assert len(set(losses.tolist())) == len(losses)


def notices(alone: Results, pair: list[Results], name: str, sabotage: str) -> bool:
    """Whether the comparison above would fail, with the loosest of its tolerances."""
    loosest = max(TOLERANCE.values())
    reference = alone[f"{name}/whole"]
    return any(
        max(differences(reference, process[f"{name}/{sabotage}"]).values()) > loosest for process in pair
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_that_are_not_averaged_are_noticed(alone: Results, pair: list[Results], name: str) -> None:
    assert notices(alone, pair, name, "gradients_not_averaged")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_negatives_that_are_not_gathered_are_noticed(alone: Results, pair: list[Results], name: str) -> None:
    # An objective of independent images does not depend on other processes' rows: nothing to notice.
    couples = alone[f"{name}/whole"]["couples"]
    assert notices(alone, pair, name, "negatives_not_gathered") == couples


@pytest.mark.parametrize("name", OBJECTIVES)
def test_banks_and_queues_that_are_not_synchronised_are_noticed(
    alone: Results, pair: list[Results], name: str
) -> None:
    remembers = alone[f"{name}/whole"]["remembers"]
    assert notices(alone, pair, name, "memories_not_synchronised") == remembers


@pytest.mark.parametrize("name", OBJECTIVES)
def test_norms_of_own_rows_are_noticed(alone: Results, pair: list[Results], name: str) -> None:
    norms = alone[f"{name}/whole"]["norms"]
    assert notices(alone, pair, name, "norms_of_own_rows") == norms


def test_the_table_has_something_to_notice(alone: Results) -> None:
    for trait in ("couples", "remembers", "norms"):
        assert any(alone[f"{name}/whole"][trait] for name in OBJECTIVES), trait
