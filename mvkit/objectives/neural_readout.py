"""Neural readout: responses of units, each by a spatial mask and weights of the network's feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, layer_output
from mvkit.objectives.registry import NeuralReadout

#: Standard deviation of the initial masks and feature weights, in units of 1 / sqrt(their number).
_INITIAL = 0.1


class FactorisedReadout(nn.Module):
    """Predictions of units from feature maps: ``sum_p mask[u, p] sum_c weights[u, c] maps[c, p] + bias[u]``.

    Source: Klindt, Ecker, Euler & Bethge (2017), NeurIPS 30, "Neural system identification for large
    populations separating 'what' and 'where'": a location mask and feature weights for each unit.

    Parameters
    ----------
    shape
        Of the maps of one image: (n_channels, height, width).
    n_units
        Units to predict.

    Raises
    ------
    UsageError
        If the layer has no maps.
    """

    def __init__(self, shape: torch.Size, n_units: int) -> None:
        super().__init__()
        if len(shape) != 3:
            raise UsageError(
                f"neural_readout needs a layer of maps, this one has shape {tuple(shape)}\n"
                "name another one: objective.layer"
            )
        n_channels, n_positions = shape[0], shape[1] * shape[2]
        self.masks = nn.Parameter(torch.randn(n_units, n_positions) * (_INITIAL / n_positions**0.5))
        self.weights = nn.Parameter(torch.randn(n_units, n_channels) * (_INITIAL / n_channels**0.5))
        self.bias = nn.Parameter(torch.zeros(n_units))

    def forward(self, maps: Tensor) -> Tensor:
        """Return predictions (n_images, n_units) from maps (n_images, n_channels, height, width)."""
        by_channel = maps.flatten(2) @ self.masks.T
        # Under autocast in its half precision, as matrix products are.
        weights, bias = self.weights.T.to(by_channel.dtype), self.bias.to(by_channel.dtype)
        return (by_channel * weights).sum(1) + bias


class NeuralReadoutObjective(Objective):
    """Squared error of standardised mean responses, plus L1 penalties of masks and feature weights.

    The loss is the mean over images and units of (prediction - response)^2, plus ``mask_l1`` and
    ``weights_l1`` times the mean over units of the sum of absolute values (the sparse masks and weights of
    Klindt et al. 2017). Responses of each unit have mean 0 and standard deviation 1 over the training images;
    where one is missing, its error counts as zero. Responses are looked up by the index of the image.
    """

    responses: Tensor
    present: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: NeuralReadout, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.settings = settings
        self.path = context.path
        responses = context.known_responses.double()
        present = ~responses.isnan()
        count = present.sum(0)
        mean = responses.nansum(0) / count
        centred = (responses - mean).nan_to_num()
        deviation = (centred.square().sum(0) / count).sqrt()
        deviation[deviation == 0] = 1.0
        self.readout = FactorisedReadout(context.read_shape, responses.shape[1])
        # Of the data, not of the run: no checkpoint holds recordings.
        self.register_buffer("responses", (centred / deviation).float(), persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("mean", mean.float())
        self.register_buffer("deviation", deviation.float())

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return predictions of standardised responses (n_images, n_units)."""
        (images,) = self.inputs(batch)
        return (self.readout(layer_output(encoder, self.path, images)),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Compare with the responses to these images."""
        (predictions,) = embedded
        difference = predictions - self.responses[batch.index].to(predictions.dtype)
        error = batch_mean(difference.square() * self.present[batch.index])
        masks = self.settings.mask_l1 * self.readout.masks.abs().sum(1).mean()
        weights = self.settings.weights_l1 * self.readout.weights.abs().sum(1).mean()
        parts = {"error": error.detach(), "masks": masks.detach(), "weights": weights.detach()}
        return Loss(error + masks + weights, parts)

    def predict(self, encoder: nn.Module, batch: Batch) -> Tensor:
        """Return predicted responses (n_images, n_units), in the units of measure of the recordings."""
        (standardised,) = self.embed(encoder, batch)
        return standardised * self.deviation + self.mean
