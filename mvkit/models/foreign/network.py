"""A network from elsewhere in the form that mvkit's own models have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mvkit.models.base import FINAL, VisionModel
from mvkit.models.foreign.preparing import UserPreprocessing
from mvkit.models.foreign.user_code import UserCode
from mvkit.models.preprocessing import Preprocessing
from mvkit.models.state import state_digest

_INNER = "network"


class ForeignModel(VisionModel):
    """A network from elsewhere; layers have the paths of its own modules.

    Parameters
    ----------
    network
        The network, without wrappers.
    name
        Name that results carry.
    layers
        Layers that it declares to be scored, or none.
    preprocess
        How images become its input.

    Attributes
    ----------
    network
        The network itself.
    """

    # Its modules may run any number of times in one pass.
    layers_run_once: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        name: str,
        layers: tuple[str, ...],
        preprocess: Preprocessing | UserPreprocessing,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.layers = layers
        if isinstance(network, VisionModel):
            self.published_layers = network.published_layers
        self.preprocess = cast(Preprocessing, preprocess)
        self.weights_id = state_digest(network)

    def forward(self, images: Tensor) -> Any:
        """Run the network; what it raises becomes an error that names file and line."""
        shape = " x ".join(map(str, images.shape))
        with UserCode(
            f"{self.name}: the forward pass of an input {shape} failed",
            "if it takes images of another size, say --input-size PX (in Python input_size=)",
        ):
            return self.network(images)

    def tap_points(self) -> dict[str, str]:
        """Return layer name -> module path; names are paths inside the network."""
        prefix = f"{_INNER}."
        if isinstance(self.network, VisionModel):
            return {name: f"{prefix}{path}".rstrip(".") for name, path in self.network.tap_points().items()}
        own = {path.removeprefix(prefix): path for path in self.module_paths() if path.startswith(prefix)}
        # Transforms of pictures are no part of the forward pass, even where they are modules.
        inner = {name: path for name, path in own.items() if not _is_preprocess(name)}
        return inner if FINAL in inner else {**inner, FINAL: ""}


def _is_preprocess(name: str) -> bool:
    return name.partition(".")[0] == "preprocess"


def seeded(make: Callable[[], nn.Module], seed: int | None) -> nn.Module:
    """Make a network with random weights drawn from a seed (None: 0); torch's generator stays as it was."""
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        return make()
