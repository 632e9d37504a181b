"""Supervised classification."""

from __future__ import annotations

from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives.base import (
    BuildContext,
    Loss,
    Objective,
    accuracies,
    features,
    labels_of,
    mean_cross_entropy,
)
from mvkit.objectives.registry import CrossEntropy


class CrossEntropyObjective(Objective):
    """Cross entropy of the encoder's own logits; no head."""

    def __init__(self, settings: CrossEntropy, context: BuildContext) -> None:
        del settings
        super().__init__(seed=context.seed)
        if context.width != context.known_classes:
            raise UsageError(
                f"cross_entropy: the network has {context.width} outputs,"
                f" the images have {context.known_classes} classes\n"
                "use an architecture with a classifier, built for that number of classes"
            )

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits (n_images, n_classes)."""
        (images,) = self.inputs(batch)
        return (features(encoder, images),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the mean cross entropy with the labels."""
        (logits,) = embedded
        classes = labels_of(batch)
        return Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))
