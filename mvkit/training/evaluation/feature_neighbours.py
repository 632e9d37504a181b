"""Classification of validation images by their nearest training images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mvkit.distributed import all_gather
from mvkit.errors import DataError
from mvkit.training.evaluation.accuracy import AccuracyCount
from mvkit.training.evaluation.base import EvaluationContext, Evaluator
from mvkit.training.evaluation.layers import layer_features
from mvkit.training.evaluation.subset import fixed_subset
from mvkit.training.recipe import FeatureNeighbours


class FeatureNeighboursEvaluator(Evaluator):
    """k nearest neighbours by cosine similarity, each with the weight exp(similarity / temperature).

    Neighbours are training images, questions are validation images, both in
    validation views and at most ``max_images`` of each (a fixed random part).
    A process keeps the features of its validation images, so memory is
    max_images / processes x features x 4 bytes.

    References
    ----------
    Wu, Xiong, Yu & Lin (2018), Unsupervised feature learning via non-parametric instance
    discrimination, CVPR, section 3.4.
    """

    headline = "top1"

    def __init__(self, settings: FeatureNeighbours, *, name: str) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._settings = settings

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1`` (and ``top5``): fractions of validation images whose class wins the vote."""
        images, limit = context.images, self._settings.max_images
        n_classes = images.n_classes
        if n_classes is None:
            raise DataError(f"{self.name}: the images have no labels to compare with")
        questions, answers = self._questions(context)
        table = NeighbourTable(questions, k=min(self._settings.k, images.n_images("train"), limit))
        chosen = fixed_subset(images.n_images("train"), limit, context.seed)
        with images.batches("train", chosen) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the training images have no labels")
                rows = functional.normalize(self._features(context, batch.views[0]), dim=1)
                table.offer(all_gather(rows), all_gather(batch.label))
        count = AccuracyCount(n_classes, context.device)
        count.add(table.votes(n_classes, temperature=self._settings.temperature), answers)
        return count.fractions()

    def _questions(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        """Return normalised features and labels of this process's validation images."""
        rows, labels = [], []
        chosen = fixed_subset(context.images.n_images("val"), self._settings.max_images, context.seed)
        with context.images.batches("val", chosen) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels")
                rows.append(functional.normalize(self._features(context, batch.views[0]), dim=1))
                labels.append(batch.label)
        return torch.cat(rows), torch.cat(labels)

    def _features(self, context: EvaluationContext, views: Tensor) -> Tensor:
        return layer_features(context.encoder, views, self._settings.layer)


class NeighbourTable:
    """The k best matches of every question so far, while candidates come in parts.

    Parameters
    ----------
    questions
        float32 (n_questions, n_features), rows of length 1.
    k
        Matches kept of every question.
    """

    def __init__(self, questions: Tensor, *, k: int) -> None:
        self._questions = questions
        self._k = k
        self._similarities = questions.new_empty(len(questions), 0)
        self._labels = torch.empty(len(questions), 0, dtype=torch.int64, device=questions.device)

    def offer(self, candidates: Tensor, labels: Tensor) -> None:
        """Compare all questions with these candidates (rows of length 1)."""
        similarities = torch.cat([self._similarities, self._questions @ candidates.T], dim=1)
        known = torch.cat([self._labels, labels.expand(len(self._questions), -1)], dim=1)
        best = similarities.topk(min(self._k, similarities.shape[1]), dim=1)
        self._similarities = best.values
        self._labels = known.gather(1, best.indices)

    def votes(self, n_classes: int, *, temperature: float) -> Tensor:
        """Return the sum of weights for every class, (n_questions, n_classes), up to a factor per row."""
        # The best match's weight is taken out as a factor: exp(1 / temperature) may overflow.
        weights = ((self._similarities - self._similarities[:, :1]) / temperature).exp()
        return weights.new_zeros(len(weights), n_classes).scatter_add_(1, self._labels, weights)
