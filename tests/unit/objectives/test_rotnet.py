"""RotNet: four classes in the order of the views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Make = Callable[..., Any]


def test_classes_are_the_places_of_the_views(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    chosen = small["rotnet"]
    encoder = tiny(chosen).eval()
    objective = build(chosen, encoder)
    batch = batch_for(objective)
    (logits,) = objective.embed(encoder, batch)
    losses = []
    for place, view in enumerate(batch.views):
        shown = objective.fc(encoder(view))
        torch.testing.assert_close(logits[:, place], shown)
        losses.append(-shown.log_softmax(1)[:, place].mean())
    torch.testing.assert_close(objective.criterion((logits,), batch).total, sum(losses) / 4)


def test_all_rotations_pass_the_norms_together(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["rotnet"])
    objective = build(small["rotnet"], encoder)
    objective.embed(encoder, batch_for(objective))
    assert encoder.norm.num_batches_tracked == 1
