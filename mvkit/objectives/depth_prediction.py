"""Depth prediction: the distance of every pixel, from an hour-glass network."""

from __future__ import annotations

from torch import Tensor, nn

from mvkit.errors import DataError
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, decode
from mvkit.objectives.registry import DepthPrediction

_COLOURS = 3


class DepthPredictionObjective(Objective):
    """Half the mean squared error of a 3x3 convolution of the decoded image (Nayebi, Kong et al. 2023)."""

    def __init__(self, settings: DepthPrediction, context: BuildContext) -> None:
        del settings
        super().__init__(seed=context.seed)
        self.head = nn.Conv2d(_COLOURS, 1, kernel_size=3, padding=1, bias=False)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return the predicted depth (n_images, 1, side, side)."""
        (images,) = self.inputs(batch)
        return (self.head(decode(encoder, images)["output"]),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Compare with the measured depth."""
        (predicted,) = embedded
        if batch.target is None:
            raise DataError(
                "depth_prediction needs images with depth\nprepare paired images, e.g. mvkit prep pbrnet"
            )
        if batch.target.shape != predicted.shape:
            raise DataError(
                f"depth_prediction: depth has shape {tuple(batch.target.shape)},"
                f" predictions {tuple(predicted.shape)}"
            )
        return Loss(0.5 * batch_mean((predicted - batch.target.to(predicted.dtype)).square()))
