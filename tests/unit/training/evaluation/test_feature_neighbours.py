"""Weighted nearest neighbours against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mvkit.training.evaluation import (
    EvaluatorSet,
    FeatureNeighboursEvaluator,
    NeighbourTable,
    fixed_subset,
    layer_features,
)
from mvkit.training.recipe import FeatureNeighbours


def reference(train, train_label, val, *, k, temperature):
    """Predictions of scikit-learn with the weights exp(cosine similarity / temperature)."""

    def weights(distance):
        # Its metric is the cosine distance, 1 - similarity.
        return np.exp((1 - distance) / temperature)

    classifier = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    return classifier.fit(train.numpy(), train_label.numpy()).predict(val.numpy())


@pytest.mark.parametrize("layer", [None, "relu"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (200, 1.0)])
def test_accuracy_equals_scikit_learns(context, images, layer, k, temperature):
    here = context()
    settings = FeatureNeighbours(layer=layer, k=k, temperature=temperature)
    measured = EvaluatorSet([FeatureNeighboursEvaluator(settings, name="knn")]).evaluate(here)
    here.encoder.eval()
    train, val = (layer_features(here.encoder, images.views[split], layer) for split in ("train", "val"))
    expected = reference(train, images.label["train"], val, k=min(k, 60), temperature=temperature)
    right = (expected == images.label["val"].numpy()).mean()
    assert measured == {"knn.top1": pytest.approx(right, abs=1e-12)}
    assert 0.4 < right < 1, "a test of which all or no answers are right would say little"


def test_predictions_equal_scikit_learns_one_by_one():
    generator = torch.Generator().manual_seed(2)
    train, val = torch.randn(300, 6, generator=generator), torch.randn(80, 6, generator=generator)
    label = torch.randint(0, 4, (300,), generator=generator)
    table = NeighbourTable(torch.nn.functional.normalize(val, dim=1), k=15)
    for rows in torch.arange(300).split(37):
        table.offer(torch.nn.functional.normalize(train[rows], dim=1), label[rows])
    votes = table.votes(4, temperature=0.1)
    np.testing.assert_array_equal(votes.argmax(1), reference(train, label, val, k=15, temperature=0.1))


def test_weights_do_not_overflow():
    table = NeighbourTable(torch.tensor([[1.0, 0.0]]), k=2)
    table.offer(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1]))
    votes = table.votes(2, temperature=1e-3)
    assert votes.tolist() == [[1.0, 0.0]]


def test_a_subset_is_fixed_and_covers_the_classes():
    chosen = fixed_subset(10_000, 500, seed=4)
    assert len(np.unique(chosen)) == 500
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, fixed_subset(10_000, 500, seed=4))
    assert len(np.intersect1d(chosen, fixed_subset(10_000, 500, seed=5))) < 60
    # Ten classes in order, as an image folder has them: 50 of each within 5 standard deviations.
    counts = np.bincount(chosen // 1000, minlength=10)
    assert (np.abs(counts - 50) < 5 * np.sqrt(500 * 0.1 * 0.9)).all()
    np.testing.assert_array_equal(fixed_subset(30, 30, seed=0), np.arange(30))


def test_at_most_so_many_images_are_looked_at(context, images):
    asked = []
    original = images.batches

    def watched(split, indices, **options):
        asked.append((split, len(indices)))
        return original(split, indices, **options)

    images.batches = watched
    settings = FeatureNeighbours(k=3, max_images=20)
    EvaluatorSet([FeatureNeighboursEvaluator(settings, name="knn")]).evaluate(context())
    assert asked == [("val", 20), ("train", 20)]
