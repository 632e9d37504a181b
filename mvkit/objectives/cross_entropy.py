"""Supervised classification."""

from __future__ import annotations

from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives.base import (
    BuildContext,
    CrossEntropy,
    Loss,
    Objective,
    accuracies,
    features,
    labels_of,
    mean_cross_entropy,
)


class CrossEntropyObjective(Objective):
    """Cross entropy of the encoder's own logits; no head."""

    def __init__(self, settings: CrossEntropy, around: BuildContext) -> None:
        del settings
        super().__init__(seed=around.seed)
        if around.width != around.known_classes:
            raise UsageError(
                f"cross_entropy: the network has {around.width} outputs,"
                f" the images have {around.known_classes} classes\n"
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
