"""Features of a layer while a network is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.naming import unknown_name
from mvkit.training.evaluation.modes import undisturbed

#: What a network with several outputs offers as its features.
_ENCODER_OUTPUT = "encoder_output"


def check_layer(encoder: nn.Module, layer: str | None) -> None:
    """Refuse a layer that the network does not have.

    Raises
    ------
    UsageError
        With a suggestion and all names.
    """
    if layer is not None and layer not in _paths(encoder):
        raise unknown_name("layer", layer, _paths(encoder))


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
        If the layer gives no tensor.
    """
    caught: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        del module, arguments
        if not caught and isinstance(output, Tensor):
            # A copy: an in-place ReLU behind the layer would change the value.
            caught.append(output.clone())

    path = _paths(encoder)[layer] if layer is not None else ""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        if path == "":
            output = encoder(images)
            caught = [output[_ENCODER_OUTPUT] if isinstance(output, Mapping) else output]
        else:
            handle = encoder.get_submodule(path).register_forward_hook(keep)
            try:
                encoder(images)
            finally:
                handle.remove()
    if not caught:
        raise UsageError(f"layer '{layer}' gives no tensor, so it cannot be evaluated; choose another one")
    return caught[0].flatten(1).to(torch.float32)


def feature_width(encoder: nn.Module, layer: str | None, *, input_px: int) -> int:
    """Return the number of features of a layer for inputs of this side."""
    device = next(encoder.parameters()).device
    with undisturbed(encoder):
        return layer_features(encoder, torch.zeros(2, 3, input_px, input_px, device=device), layer).shape[1]


def _paths(encoder: nn.Module) -> dict[str, str]:
    own = getattr(encoder, "tap_points", None)
    return dict(own()) if callable(own) else {path: path for path, _ in encoder.named_modules() if path}
