"""Relative location: dropout belongs to images, patches pass separately from their centre."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Make = Callable[..., Any]


@pytest.fixture
def objective(small: Any, tiny: Make, build: Make) -> Any:
    chosen = small["relative_location"]
    return build(chosen, tiny(chosen))


def test_dropout_is_drawn_per_image_step_and_patch(objective: Any, small: Any, tiny: Make) -> None:
    index = torch.arange(50)
    kept = objective.draw_dropout(index)
    assert kept.shape == (50, 8, 32)
    assert torch.equal(objective.draw_dropout(torch.tensor([9, 2])), kept[[9, 2]])
    # 12,800 fair coins: a standard deviation of 0.0044 about one half.
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.022)
    objective.dropout = 0.2
    assert objective.draw_dropout(index).float().mean().item() == pytest.approx(0.8, abs=0.022)
    objective.dropout = 0.5
    assert (kept[:, 0] == kept[:, 1]).float().mean() < 0.6
    objective.before_step(tiny(small["relative_location"]), step=1)
    assert (objective.draw_dropout(index) == kept).float().mean() < 0.6


def test_dropout_keeps_the_mean(objective: Any) -> None:
    seen, around = torch.randn(6, 12), torch.randn(6, 12)
    objective.eval()
    whole = objective.logits(seen, around, keep=None) - objective.fc1.bias
    everything = torch.ones(6, 32, dtype=torch.bool)
    kept = objective.logits(seen, around, keep=everything) - objective.fc1.bias
    torch.testing.assert_close(kept, 2 * whole)
    objective.dropout = 1.0
    dropped = objective.logits(seen, around, keep=~everything)
    torch.testing.assert_close(dropped, objective.fc1.bias.expand(6, -1))


def test_eval_mode_drops_nothing(objective: Any, small: Any, tiny: Make, batch_for: Make) -> None:
    encoder = tiny(small["relative_location"]).eval()
    objective.eval()
    batch = batch_for(objective)
    (logits,) = objective.embed(encoder, batch)
    centre, *neighbours = (encoder(view) for view in batch.views)
    for place, neighbour in enumerate(neighbours):
        torch.testing.assert_close(logits[:, place], objective.logits(neighbour, centre, keep=None))


def test_neighbours_and_centres_pass_the_norms_apart(
    objective: Any, small: Any, tiny: Make, batch_for: Make
) -> None:
    encoder = tiny(small["relative_location"])
    batch = batch_for(objective)
    objective.embed(encoder, batch)
    around = encoder.conv(torch.cat(batch.views[1:])).mean((0, 2, 3))
    centre = encoder.conv(batch.views[0]).mean((0, 2, 3))
    torch.testing.assert_close(encoder.norm.running_mean, 0.9 * 0.1 * around + 0.1 * centre)


def test_head_starts_as_published(objective: Any) -> None:
    assert (objective.fc0.bias == 0.1).all()
    assert (objective.fc1.bias == 0).all()
    assert objective.bn0.momentum == 0.003
    for linear in (objective.fc0, objective.fc1):
        assert linear.weight.detach().std().item() == pytest.approx(0.005, rel=0.15)
