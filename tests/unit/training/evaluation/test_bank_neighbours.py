"""The nearest entry's label, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvkit.errors import DataError
from mvkit.images.settings import Batch
from mvkit.objectives.base import build_objective
from mvkit.objectives.registry import InstanceRecognition
from mvkit.training.evaluation import BankNeighboursEvaluator, EvaluatorSet
from mvkit.training.recipe import BankNeighbours


@pytest.fixture
def objective(encoder):
    """Instance recognition over the 60 training images, its bank as drawn."""
    return build_objective(
        InstanceRecognition(width=4, noise_samples=8),
        encoder=encoder,
        input_px=2,
        n_images=60,
        n_classes=3,
        seed=0,
    )


def observed(images, encoder, rows):
    """An evaluator that has met these training images."""
    evaluator = BankNeighboursEvaluator(BankNeighbours(), name="bank", n_train=60)
    batch = Batch((images.views["train"][rows],), index=rows, label=images.label["train"][rows])
    evaluator.observe(encoder, batch, step=0)
    return evaluator


def fill(objective, encoder, images):
    """Put the embeddings of the training images into the bank."""
    # Without dropout: what is in the bank must not depend on the tests run before.
    encoder.eval()
    with torch.no_grad():
        embedded = objective.embed(encoder, Batch((images.views["train"],), index=torch.arange(60)))[0]
    encoder.train()
    objective.bank.update(torch.arange(60), embedded, momentum=0.1)


def expected_neighbours(encoder, objective, images):
    """Index of the largest inner product of un-normalised embeddings with the bank."""
    encoder.eval()
    with torch.no_grad():
        embedded = objective.fc(encoder(images.views["val"])).numpy().astype(np.float64)
    encoder.train()
    return (embedded @ objective.bank.entries.numpy().T).argmax(axis=1)


def test_accuracy_is_that_of_the_nearest_entries_labels(context, images, encoder, objective):
    fill(objective, encoder, images)
    here = context(objective)
    evaluator = observed(images, encoder, torch.randperm(60, generator=torch.Generator().manual_seed(0)))
    measured = EvaluatorSet([evaluator]).evaluate(here)
    nearest = expected_neighbours(encoder, objective, images)
    right = (images.label["train"].numpy()[nearest] == images.label["val"].numpy()).mean()
    assert measured == {"bank.top1": right}
    assert 0 < right < 1


def test_neighbours_that_training_has_not_met_count_as_wrong(context, images, encoder, objective):
    nearest = expected_neighbours(encoder, objective, images)
    met = torch.arange(0, 60, 2)
    measured = EvaluatorSet([observed(images, encoder, met)]).evaluate(context(objective))
    labels = np.where(np.isin(nearest, met.numpy()), images.label["train"].numpy()[nearest], -1)
    assert measured["bank.top1"] == (labels == images.label["val"].numpy()).mean()
    nothing = BankNeighboursEvaluator(BankNeighbours(), name="bank", n_train=60)
    assert EvaluatorSet([nothing]).evaluate(context(objective)) == {"bank.top1": 0}


def test_the_bank_stays_as_it_is(context, images, encoder, objective):
    before = objective.bank.entries.clone()
    EvaluatorSet([observed(images, encoder, torch.arange(60))]).evaluate(context(objective))
    assert torch.equal(objective.bank.entries, before)


def test_labels_survive_a_checkpoint(context, images, encoder, objective):
    fill(objective, encoder, images)
    first = observed(images, encoder, torch.arange(30))
    second = BankNeighboursEvaluator(BankNeighbours(), name="bank", n_train=60)
    second.load_state_dict(first.state_dict())
    measured = [EvaluatorSet([evaluator]).evaluate(context(objective)) for evaluator in (first, second)]
    assert measured[0] == measured[1]
    assert measured[0]["bank.top1"] > 0


def test_other_objectives_have_no_bank(context):
    evaluator = BankNeighboursEvaluator(BankNeighbours(), name="bank", n_train=60)
    with pytest.raises(DataError, match="Nothing has no memory bank"):
        evaluator.evaluate(context())
