"""A probe that learns, and a network that does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from mvkit.images.settings import Batch
from mvkit.training.evaluation import EvaluatorSet, LinearProbeEvaluator, ProbeInputs, feature_width
from mvkit.training.recipe import LinearProbe


def probe(layer: str | None = None, width: int = 5, learning_rate: float = 0.1) -> LinearProbeEvaluator:
    settings = LinearProbe(layer=layer, learning_rate=learning_rate)
    return LinearProbeEvaluator(settings, name="probe", width=width, n_classes=3, device=torch.device("cpu"))


def evaluated(evaluator, context) -> dict[str, float]:
    measured = EvaluatorSet([evaluator]).evaluate(context())
    return {key.removeprefix("probe."): value for key, value in measured.items()}


def train_batch(images, rows) -> Batch:
    return Batch((images.views["train"][rows],) * 2, index=rows, label=images.label["train"][rows])


def test_it_learns_what_logistic_regression_learns(context, images, encoder):
    evaluator = probe("flat", width=12)
    for step in range(300):
        evaluator.observe(encoder, train_batch(images, torch.arange(60)), step=step)
    measured = evaluated(evaluator, context)
    flat = {split: images.views[split].flatten(1).numpy() for split in ("train", "val")}
    regression = LogisticRegression(C=1e3, max_iter=2000).fit(flat["train"], images.label["train"])
    right = regression.score(flat["val"], images.label["val"])
    assert right > 0.85
    assert measured["top1"] == pytest.approx(right, abs=1.5 / 24)


def test_the_first_step_is_that_of_the_formula(images, encoder):
    """From zero weights: -lr / n times inputs' (softmax - one-hot), softmax = 1/3."""
    evaluator = probe("flat", width=12, learning_rate=0.05)
    evaluator.observe(encoder, train_batch(images, torch.arange(60)), step=0)
    values = images.views["train"].flatten(1).numpy().astype(np.float64)
    inputs = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) * 4 / np.sqrt(12)
    assert np.linalg.norm(inputs, axis=1).mean() == pytest.approx(4, rel=0.1)
    one_hot = np.eye(3)[images.label["train"].numpy()]
    expected = -0.05 / 60 * (1 / 3 - one_hot).T @ inputs
    np.testing.assert_allclose(evaluator.classifier.weight.detach(), expected, atol=1e-6)


def test_the_network_does_not_notice(images, encoder):
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    nn.functional.mse_loss(encoder(images.views["train"]), torch.zeros(60, 5)).backward()
    gradients = {key: value.grad.clone() for key, value in encoder.named_parameters()}
    encoder.load_state_dict(before)
    generator = torch.get_rng_state()
    probe(None).observe(encoder, train_batch(images, torch.arange(60)), step=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in encoder.modules())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    for key, value in encoder.named_parameters():
        assert torch.equal(value.grad, gradients[key]), key


def test_it_goes_on_from_a_checkpoint_bit_by_bit(context, images, encoder):
    batches = [train_batch(images, rows) for rows in torch.arange(60).split(15)]
    unbroken, first, second = probe(), probe(), probe()
    for step, batch in enumerate(batches):
        unbroken.observe(encoder, batch, step=step)
    for step, batch in enumerate(batches[:2]):
        first.observe(encoder, batch, step=step)
    second.load_state_dict(first.state_dict())
    for step, batch in enumerate(batches[2:], start=2):
        second.observe(encoder, batch, step=step)
    assert torch.equal(unbroken.classifier.weight, second.classifier.weight)
    assert evaluated(unbroken, context) == evaluated(second, context)


def test_answers_before_learning_are_counted_until_the_next_evaluation(context, images, encoder):
    evaluator = probe()
    assert np.isnan(evaluated(evaluator, context)["train_top1"])
    evaluator.observe(encoder, train_batch(images, torch.arange(60)), step=0)
    # Zero weights answer class 0, which a third of the images have.
    assert evaluated(evaluator, context)["train_top1"] == pytest.approx(1 / 3)
    for step in range(20):
        evaluator.observe(encoder, train_batch(images, torch.arange(60)), step=step)
    assert evaluated(evaluator, context)["train_top1"] > 0.5


def test_running_statistics_are_a_tenth_new():
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randn(50, 4, generator=generator) * 3 + 1 for _ in range(2))
    inputs = ProbeInputs(4)
    inputs.learn(one)
    np.testing.assert_allclose(inputs(one).mean(0), np.zeros(4), atol=1e-5)
    inputs.learn(two)
    np.testing.assert_allclose(inputs.mean, 0.9 * one.mean(0) + 0.1 * two.mean(0), atol=1e-5)
    expected = 0.9 * one.var(0, unbiased=False) + 0.1 * two.var(0, unbiased=False)
    np.testing.assert_allclose(inputs.variance, expected, rtol=1e-5)


def test_widths_are_those_of_the_layers(encoder):
    assert feature_width(encoder, None, input_px=2) == 5
    assert feature_width(encoder, "norm", input_px=2) == 12
    assert encoder.training
