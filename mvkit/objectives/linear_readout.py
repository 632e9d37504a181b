"""Linear readout: classify images by a linear map of one layer of a frozen network."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives.base import (
    BuildContext,
    Loss,
    Objective,
    accuracies,
    labels_of,
    layer_output,
    mean_cross_entropy,
)
from mvkit.objectives.registry import LinearReadout


class LinearReadoutObjective(Objective):
    """Cross entropy of a linear map; the encoder stays in eval mode and gets no gradients.

    With ``pool_px`` the layer's map is max-pooled to that side and passes a
    batch norm without scale and shift first (the readout of RotNet, Gidaris
    et al. 2018, as published with the trained networks).
    """

    trains_encoder: ClassVar[bool] = False

    def __init__(self, settings: LinearReadout, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.path = context.path
        self.readout = readout(context.read_shape, context.known_classes, pool_px=settings.pool_px)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits (n_images, n_classes)."""
        (images,) = self.inputs(batch)
        # A loop may have put everything into train mode.
        encoder.eval()
        with torch.no_grad():
            values = layer_output(encoder, self.path, images)
        return (self.readout(values),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the mean cross entropy with the labels."""
        (logits,) = embedded
        classes = labels_of(batch)
        return Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))


def readout(shape: torch.Size, n_classes: int, *, pool_px: int | None) -> nn.Sequential:
    """Return the trained part, for values of shape (n_images, *shape).

    Raises
    ------
    UsageError
        If values that are no maps are to be pooled.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_values = shape.numel()
    if pool_px is not None:
        if len(shape) != 3:
            raise UsageError(
                f"linear_readout.pool_px needs a layer of maps, this one has shape {tuple(shape)}"
            )
        layers["pool"] = nn.AdaptiveMaxPool2d(pool_px)
        layers["norm"] = nn.BatchNorm2d(shape[0], affine=False)
        n_values = shape[0] * pool_px**2
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(n_values, n_classes)
    return nn.Sequential(layers)
