"""What every model has besides its modules: name, layers to tap, preprocessing, origin of its weights."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mvkit.models.origin import WeightsOrigin
from mvkit.models.preprocessing import IMAGENET_64, Preprocessing

#: Name under which a model's output can be tapped.
FINAL = "final"

#: Identity of a model without weights.
NO_WEIGHTS = "none"


class VisionModel(nn.Module):
    """Base of all models; input float32 (n_images, 3, 64, 64) as made by ``preprocess``.

    Attributes
    ----------
    name
        The name it was loaded under.
    layers
        Layers scored by default, from input to output.
    published_layers
        Layers that the reference scored, where they are not the default ones; else empty.
    preprocess
        Turns uint8 images into the model's input.
    weights_id
        sha256 of the checkpoint file, "random:seed=N", or "none".
    origin
        What else is known of the weights.
    layers_run_once
        Whether each of ``layers`` is known to run once in a forward pass.
    """

    layers_run_once: ClassVar[bool] = True

    name: str
    layers: tuple[str, ...]
    published_layers: tuple[str, ...]
    preprocess: Preprocessing
    weights_id: str
    origin: WeightsOrigin

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.layers = ()
        self.published_layers = ()
        self.preprocess = IMAGENET_64
        self.weights_id = NO_WEIGHTS
        self.origin = WeightsOrigin()

    def tap_points(self) -> dict[str, str]:
        """Return the layers that can be tapped: layer name -> path of the module whose output it is.

        A path is what ``get_submodule`` takes; the empty path is the model
        itself, whose output has the layer name "final".
        """
        return {**self.module_paths(), FINAL: ""}

    def module_paths(self) -> dict[str, str]:
        """Return the modules with an output of their own, by path (containers without one left out)."""
        containers = (nn.ModuleDict, nn.ModuleList)
        return {
            path: path for path, module in self.named_modules() if path and not isinstance(module, containers)
        }
