"""Every row of the table: completeness, learning, precision, state, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn

from mvkit.errors import DataError
from mvkit.images.settings import Batch
from mvkit.objectives.base import Loss
from mvkit.objectives.registry import OBJECTIVES, ObjectiveSettings, row_of

Make = Callable[..., Any]
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def _step(objective: Any, encoder: nn.Module, batch: Batch, step: int) -> Loss:
    objective.before_step(encoder, step=step)
    embedded = objective.embed(encoder, batch)
    loss: Loss = objective.criterion(embedded, batch)
    loss.total.backward()
    objective.after_step(tuple(rows.detach() for rows in embedded), batch)
    return loss


def _trained(objective: Any, encoder: nn.Module) -> list[nn.Parameter]:
    modules = (encoder, objective) if objective.trains_encoder else (objective,)
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def test_the_table_has_all_settings_and_the_tests_too(small: Any) -> None:
    union = get_args(get_args(ObjectiveSettings)[0])
    assert [row.settings for row in OBJECTIVES.values()] == list(union)
    assert list(OBJECTIVES) == [settings.model_fields["name"].default for settings in union]
    assert set(small) == set(OBJECTIVES)


@every_objective
def test_learns_a_small_set_by_heart(name: str, small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small[name])
    objective = build(small[name], encoder)
    encoder.train()
    batch = batch_for(objective)
    optimiser = torch.optim.Adam(_trained(objective, encoder), lr=0.003)
    totals = []
    for step in range(60):
        optimiser.zero_grad()
        totals.append(_step(objective, encoder, batch, step).total.item())
        optimiser.step()
    # Noise is easily told from an image: with a bank or a queue the loss rises until they hold embeddings.
    start, end = max(totals[:10]), sum(totals[-5:]) / 5
    # SimSiam's loss lies between -1 and 1 and starts near 0; the others' are positive.
    assert end < (start - 0.5 if name == "simsiam" else 0.75 * start), totals


@every_objective
def test_a_rerun_is_equal_bit_for_bit(
    name: str, small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    def run() -> tuple[float, dict[str, torch.Tensor]]:
        encoder = tiny(small[name])
        objective = build(small[name], encoder)
        batch = batch_for(objective)
        totals = [_step(objective, encoder, batch, step).total.item() for step in range(2)]
        return totals[-1], objective.state_dict()

    torch.manual_seed(11)
    total, state = run()
    torch.manual_seed(12)
    again, state_again = run()
    assert again == total
    assert state.keys() == state_again.keys()
    for key, value in state.items():
        assert torch.equal(value, state_again[key]), key


@every_objective
def test_embedding_twice_gives_the_same_values(
    name: str, small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    encoder = tiny(small[name])
    objective = build(small[name], encoder)
    batch = batch_for(objective)
    objective.before_step(encoder, step=4)
    for once, again in zip(objective.embed(encoder, batch), objective.embed(encoder, batch), strict=True):
        assert torch.equal(once, again)
        assert len(once) == len(batch.index)


@every_objective
def test_half_precision_is_compared_in_float32(
    name: str, small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    encoder = tiny(small[name])
    objective = build(small[name], encoder)
    batch = batch_for(objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = objective.embed(encoder, batch)
        loss = objective.criterion(embedded, batch)
    assert any(rows.dtype == torch.bfloat16 for rows in embedded)
    in_full = objective.criterion(tuple(rows.float() for rows in embedded), batch)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, in_full.total)
    objective.after_step(tuple(rows.detach() for rows in embedded), batch)
    assert all(value.dtype in (torch.float32, torch.int64) for value in objective.state_dict().values())


@every_objective
def test_parts_are_detached_and_terms_add_up(
    name: str, small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    encoder = tiny(small[name])
    objective = build(small[name], encoder)
    loss = objective.loss(encoder, batch_for(objective))
    assert loss.total.requires_grad
    assert not any(part.requires_grad for part in loss.parts.values())
    terms = [part for key, part in loss.parts.items() if not key.startswith("top")]
    if terms:
        torch.testing.assert_close(sum(terms), loss.total.detach())


@every_objective
def test_needed_views_labels_and_depths_are_asked_for(
    name: str, small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    encoder = tiny(small[name])
    objective = build(small[name], encoder)
    batch = batch_for(objective)
    with pytest.raises(DataError, match=f"needs {objective.n_inputs} views"):
        objective.embed(encoder, Batch((*batch.views, batch.views[0]), batch.index))
    bare = Batch(batch.views, batch.index)
    if row_of(small[name]).needs:
        with pytest.raises(DataError, match="needs"):
            objective.loss(encoder, bare)
    else:
        assert objective.loss(encoder, bare).total.isfinite()
