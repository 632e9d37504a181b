"""LARS and the warm-up cosine against the reference's numbers (goldens README, section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvkit.training.optim import Lars, build_optimiser, learning_rate
from mvkit.training.recipe import CosineSchedule
from mvkit.training.recipe import Lars as LarsSettings


@pytest.fixture
def golden(goldens: Path) -> dict[str, np.ndarray]:
    """Arrays of the golden file."""
    with np.load(goldens / "losses" / "lars_and_schedule.npz") as file:
        return dict(file)


def n_steps(golden: dict[str, np.ndarray]) -> int:
    return sum(1 for key in golden if key.startswith("step") and key.endswith(":grad0"))


def test_steps(golden: dict[str, np.ndarray]) -> None:
    parameters = [nn.Parameter(torch.from_numpy(golden[name].copy())) for name in ("p0", "p1")]
    optimiser = Lars(
        [
            {"params": parameters[:1], "weight_decay": float(golden["weight_decay"])},
            {"params": parameters[1:], "weight_decay": 0.0, "adapt": False},
        ],
        float(golden["lr"]),
        momentum=float(golden["momentum"]),
        trust_coefficient=float(golden["eta"]),
    )
    compare(golden, optimiser, parameters)


def test_steps_by_a_recipe(golden: dict[str, np.ndarray]) -> None:
    """A weight is adapted and a bias is not, by what they are."""
    layer = nn.Linear(golden["p0"].shape[1], golden["p0"].shape[0], bias=False, dtype=torch.float64)
    norm = nn.BatchNorm1d(golden["p1"].shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(golden["p0"]))
        norm.weight.copy_(torch.from_numpy(golden["p1"]))
    settings = LarsSettings(
        learning_rate=float(golden["lr"]),
        momentum=float(golden["momentum"]),
        weight_decay=float(golden["weight_decay"]),
        trust_coefficient=float(golden["eta"]),
    )
    optimiser = build_optimiser(settings, [layer, norm])
    compare(golden, optimiser, [layer.weight, norm.weight])


def compare(
    golden: dict[str, np.ndarray], optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> None:
    assert n_steps(golden) >= 1
    for step in range(1, n_steps(golden) + 1):
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(golden[f"step{step}:grad{number}"].copy())
        optimiser.step()
        for number, parameter in enumerate(parameters):
            expected = golden[f"out:step{step}:p{number}"]
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_schedule(golden: dict[str, np.ndarray], steps_per_epoch: int) -> None:
    schedule = CosineSchedule(
        warmup_epochs=float(golden["warmup_epochs"]), warmup_ratio=float(golden["warmup_ratio"])
    )
    epochs = int(golden["num_epochs"])
    rates = [
        learning_rate(
            schedule,
            float(golden["initial_lr"]),
            step=step,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
        )
        for step in range(epochs * steps_per_epoch)
    ]
    expected = np.repeat(golden["out:lr_per_epoch"], steps_per_epoch)
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-15)
