"""What every model has besides its modules: name, layers to tap, preprocessing, origin of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from mvkit.errors import UsageError
from mvkit.models.preprocessing import IMAGENET_64, Preprocessing

#: Name under which a model's output can be tapped.
FINAL = "final"

#: Identity of a model without weights.
NO_WEIGHTS = "none"


@dataclass(frozen=True)
class WeightsOrigin:
    """Where weights come from; what is not known is empty.

    Attributes
    ----------
    architecture
        The architecture's long name.
    source
        Address of the published file, the training run with its recipe's digest, the seed they were drawn
        with, or the name of the file they were read from.
    citation
        Papers to cite.
    licence
        Terms under which the weights may be passed on, where they are not the user's own.
    training_run
        What a checkpoint of ``mvkit train`` says of its network; empty for other weights.
    checkpoint
        Which checkpoint of a training run they are, in words: file, epoch, and by what it is the best.
    """

    architecture: str = ""
    source: str = ""
    citation: tuple[str, ...] = ()
    licence: str = ""
    training_run: Mapping[str, object] = field(default_factory=dict)
    checkpoint: str = ""


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
    input_was_px
        Side of the input before it was changed on request (``input_size``); None: it was not.
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
    input_was_px: int | None

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.layers = ()
        self.published_layers = ()
        self.preprocess = IMAGENET_64
        self.weights_id = NO_WEIGHTS
        self.origin = WeightsOrigin()
        self.input_was_px = None

    @torch.no_grad()
    def check_input_side(self, side_px: int) -> None:
        """Show a blank image of this side, in eval mode.

        Raises
        ------
        UsageError
            If it is too small (or large) for the network.
        """
        modes = {module: module.training for module in self.modules()}
        try:
            self.eval()(torch.zeros(1, 3, side_px, side_px))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{self.name} cannot see images of {side_px} px: {reason[:120]}\nchoose another size"
            ) from None
        finally:
            for module, training in modes.items():
                module.training = training

    def describe(self) -> str:
        """Say in a line which checkpoint of a training run it is, if of one, and how large its input is."""
        known = (getattr(self.preprocess, name, None) for name in ("input_px", "crop_px", "resize_px"))
        side = next((side for side in known if side is not None), None)
        size = f"images at {side} px" if side is not None else ""
        if size and self.input_was_px is not None:
            size += f" on request; its own size is {self.input_was_px} px"
        return "; ".join(filter(None, (self.origin.checkpoint, size)))

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
