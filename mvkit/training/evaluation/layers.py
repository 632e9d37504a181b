"""Features of a layer while a network is being trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mvkit.objectives.layer_output import layer_output, module_path
from mvkit.training.evaluation.modes import undisturbed

#: What a network with several outputs offers as its features.
_ENCODER_OUTPUT = "encoder_output"


def layer_features(encoder: nn.Module, images: Tensor, layer: str | None) -> Tensor:
    """Run the network in full precision and return what a layer gives.

    Parameters
    ----------
    encoder
        Its mode is left as it is; gradients are not kept.
    images
        float32 (n_images, 3, side, side).
    layer
        Name of a layer; None: the output (of auto-encoders: that of the encoder).

    Returns
    -------
    Tensor
        float32 (n_images, n_features).

    Raises
    ------
    UsageError
        If there is no such layer, or it gives no tensor.
    """
    path = module_path(encoder, layer)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        output = layer_output(encoder, path, images) if path else encoder(images)
    values: Tensor = output[_ENCODER_OUTPUT] if isinstance(output, Mapping) else output
    return values.flatten(1).to(torch.float32)


def feature_width(encoder: nn.Module, layer: str | None, *, input_px: int) -> int:
    """Return the number of features of a layer for inputs of this side; refuses what is no layer."""
    device = next(encoder.parameters()).device
    with undisturbed(encoder):
        return layer_features(encoder, torch.zeros(2, 3, input_px, input_px, device=device), layer).shape[1]
