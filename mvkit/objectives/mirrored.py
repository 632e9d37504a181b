"""Outputs of networks that decode an image again (``mvkit.models.mirror``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mvkit.errors import UsageError


def decoded(encoder: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    """Return the network's outputs by name; "output" is the image that it decodes.

    Raises
    ------
    UsageError
        If the network does not decode.
    """
    outputs = encoder(images)
    if not isinstance(outputs, Mapping) or "output" not in outputs:
        raise UsageError(
            "this objective needs a network that decodes an image, and this one does not\n"
            "use an architecture with a decoder (autoencoder or hour-glass)"
        )
    return outputs
