"""The loss on images that were not trained on."""

from __future__ import annotations

import pytest
import torch

from mvkit.objectives.base import build_objective
from mvkit.objectives.registry import CrossEntropy, MoCoV2
from mvkit.training.evaluation import EvaluatorSet, ValidationLossEvaluator
from mvkit.training.recipe import ValidationLoss


def measure(here, views="validation"):
    evaluator = ValidationLossEvaluator(ValidationLoss(), name="val", views=views)
    return EvaluatorSet([evaluator]).evaluate(here)


def test_batches_of_unequal_size_count_by_their_images(context, images, encoder):
    images.views["val"], images.label["val"] = images.views["val"][:21], images.label["val"][:21]
    images.batch_size = 8  # 21 images: 7, 7, 7; with 16 they are 11 and 10
    measured = [measure(context())]
    images.batch_size = 16
    measured.append(measure(context()))
    encoder.eval()
    with torch.no_grad():
        output = encoder(images.views["val"])
    for found in measured:
        assert found["val.loss"] == pytest.approx(output.mean().item(), rel=1e-5)
        assert found["val.square"] == pytest.approx(output.pow(2).mean().item(), rel=1e-5)


def test_it_is_the_mean_cross_entropy(context, images, encoder):
    objective = build_objective(CrossEntropy(), encoder=encoder, input_px=2, n_images=60, n_classes=5, seed=0)
    measured = measure(context(objective))
    encoder.eval()
    with torch.no_grad():
        logits = encoder(images.views["val"]).double()
    chosen = logits[torch.arange(24), images.label["val"]]
    assert measured["val.loss"] == pytest.approx((logits.logsumexp(1) - chosen).mean().item(), rel=1e-5)
    assert measured["val.top1"] == (logits.argmax(1) == images.label["val"]).double().mean()


def test_queue_and_momentum_copy_stay(context, images, encoder):
    objective = build_objective(
        MoCoV2(hidden=8, width=4, queue=32), encoder=encoder, input_px=2, n_images=60, n_classes=3, seed=0
    )
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    first = measure(context(objective), views="training")
    assert first["val.loss"] > 0
    assert first == measure(context(objective), views="training")
    for key, value in objective.state_dict().items():
        assert torch.equal(value, before[key]), key
