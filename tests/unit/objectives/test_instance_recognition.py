"""Instance recognition: formula, noise, bank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mvkit.images.settings import Batch
from mvkit.objectives import registry

Make = Callable[..., Any]


def test_loss_is_the_papers_formula(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    """Wu et al. 2018, equations 4 to 8, written out in NumPy."""
    chosen = small["instance_recognition"]
    encoder = tiny(chosen)
    objective = build(chosen, encoder)
    batch = batch_for(objective)
    (embedded,) = objective.embed(encoder, batch)
    loss = objective.criterion((embedded,), batch)
    z, bank = embedded.detach().double().numpy(), objective.bank.entries.double().numpy()
    index, noise = batch.index.numpy(), objective.draw_noise(batch.index).numpy()
    n, m = len(bank), chosen.noise_samples
    constant = 2876934.2 / 1281167 * n

    def h(rows: Any) -> Any:
        p = np.exp((z[:, None] * bank[rows]).sum(-1) / chosen.temperature) / constant
        return p / (p + m / n)

    data = -np.log(h(index[:, None])).mean()
    against = -np.log(1 - h(noise)).sum(1).mean()
    # The published code adds 1e-7 to m/n in the denominators, which the paper does not.
    np.testing.assert_allclose(loss.parts["data"], data, rtol=2e-5)
    np.testing.assert_allclose(loss.parts["noise"], against, rtol=2e-5)


def test_noise_is_uniform_and_belongs_to_image_and_step(small: Any, tiny: Make, build: Make) -> None:
    chosen = small["instance_recognition"].model_copy(update={"noise_samples": 500})
    objective = build(chosen, tiny(chosen), n_images=40)
    index = torch.arange(40)
    drawn = objective.draw_noise(index)
    assert drawn.shape == (40, 500)
    counts = torch.bincount(drawn.flatten(), minlength=40)
    assert len(counts) == 40
    # 20,000 draws over 40 entries: a standard deviation of 22 about 500.
    assert (counts - 500).abs().max() < 5 * math.sqrt(500)
    assert torch.equal(objective.draw_noise(torch.tensor([7, 3])), drawn[[7, 3]])
    objective.before_step(tiny(chosen), step=1)
    assert (objective.draw_noise(index) == drawn).float().mean() < 0.1
    other = build(chosen, tiny(chosen), n_images=40, seed=2)
    assert (other.draw_noise(index) == drawn).float().mean() < 0.1


def test_noise_reaches_the_end_of_imagenet(small: Any, tiny: Make, build: Make) -> None:
    chosen = registry.InstanceRecognition(width=1, noise_samples=4096)
    objective = build(chosen, tiny(chosen), n_images=1_281_167)
    drawn = objective.draw_noise(torch.arange(256))
    assert drawn.min() >= 0
    assert drawn.max() < 1_281_167
    # Mean and spread of a uniform distribution, to 5 standard errors of a million draws.
    centre, n_drawn = 1_281_167 / 2, drawn.numel()
    assert abs(drawn.double().mean() - centre) < 5 * 1_281_167 / math.sqrt(12 * n_drawn)
    assert len(drawn.unique()) > 700_000


def test_images_find_themselves_in_the_bank(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    chosen = small["instance_recognition"]
    encoder = tiny(chosen)
    objective = build(chosen, encoder)
    batch = batch_for(objective)

    def found() -> float:
        nearest = objective.bank.nearest(objective.embed(encoder, batch)[0])[1][:, 0]
        return (nearest == batch.index).float().mean().item()

    assert found() < 0.5
    optimiser = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=0.003)
    for step in range(60):
        optimiser.zero_grad()
        objective.before_step(encoder, step=step)
        embedded = objective.embed(encoder, batch)
        objective.criterion(embedded, batch).total.backward()
        optimiser.step()
        objective.after_step((embedded[0].detach(),), batch)
    assert found() > 0.9


def test_the_bank_changes_after_the_step_only_and_where_the_batch_is(
    small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    chosen = small["instance_recognition"]
    encoder = tiny(chosen)
    objective = build(chosen, encoder)
    batch = batch_for(objective)
    before = objective.bank.entries.clone()
    embedded = objective.embed(encoder, batch)
    objective.criterion(embedded, batch).total.backward()
    assert torch.equal(objective.bank.entries, before)
    objective.after_step((embedded[0].detach(),), batch)
    changed = (objective.bank.entries != before).any(1)
    assert changed.nonzero().flatten().tolist() == batch.index.tolist()
    assert not objective.bank.entries.requires_grad


def test_micro_batches_add_up_to_the_whole(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    chosen = small["instance_recognition"]
    encoder = tiny(chosen).eval()
    objective = build(chosen, encoder)
    batch: Batch = batch_for(objective, 12)
    parts = [objective.loss(encoder, batch.rows(at, at + 4)).total for at in (0, 4, 8)]
    torch.testing.assert_close(sum(parts) / 3, objective.loss(encoder, batch).total)
