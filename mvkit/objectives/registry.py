"""All objectives: a row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol
from zlib import crc32

import torch
from torch import nn

from mvkit.objectives import base as said
from mvkit.objectives.autoencoder import AutoEncoderObjective
from mvkit.objectives.barlow_twins import BarlowTwinsObjective
from mvkit.objectives.base import (
    BuildContext,
    LinearReadout,
    Objective,
    ObjectiveSettings,
    decoded,
    layer_output,
    module_path,
)
from mvkit.objectives.cross_entropy import CrossEntropyObjective
from mvkit.objectives.depth_prediction import DepthPredictionObjective
from mvkit.objectives.instance_recognition import InstanceRecognitionObjective
from mvkit.objectives.linear_readout import LinearReadoutObjective
from mvkit.objectives.mocov2 import MoCoV2Objective
from mvkit.objectives.relative_location import RelativeLocationObjective
from mvkit.objectives.rotnet import RotNetObjective
from mvkit.objectives.simclr import SimClrObjective
from mvkit.objectives.simsiam import SimSiamObjective
from mvkit.objectives.vicreg import VicRegObjective
from mvkit.recipes import Settings
from mvkit.rng import hashed


class ObjectiveClass(Protocol):
    """A class of objectives; constructors differ in the class of their settings, which the row pairs."""

    n_inputs: int
    scores_new_images: bool
    trains_encoder: bool

    def __call__(self, settings: Any, context: BuildContext, /) -> Objective:
        """Build the objective."""


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective.

    Attributes
    ----------
    settings
        What a recipe says of it.
    build
        Its class: called with settings and context.
    reference
        Where it was published.
    reads
        What of the encoder: its "features", its "decoded" image, or a "layer".
    n_views
        Views of an image that are drawn, before ``expansion``.
    expansion
        The setting by which a view becomes several; None: it stays one.
    needs
        What a batch must hold besides views.
    accuracies
        Those of "top1" and "top5" (with more than five classes) that come with its loss.
    """

    settings: type[Settings]
    build: ObjectiveClass
    reference: str
    reads: Literal["features", "decoded", "layer"] = "features"
    n_views: int = 1
    expansion: Literal["rotations", "patches"] | None = None
    needs: Literal["label", "depth"] | None = None
    accuracies: tuple[str, ...] = ()


OBJECTIVES: Mapping[str, ObjectiveRow] = MappingProxyType(
    {
        "instance_recognition": ObjectiveRow(
            said.InstanceRecognition, InstanceRecognitionObjective, "Wu et al. 2018, arXiv:1805.01978"
        ),
        "simclr": ObjectiveRow(said.SimClr, SimClrObjective, "Chen et al. 2020, arXiv:2002.05709", n_views=2),
        "simsiam": ObjectiveRow(
            said.SimSiam, SimSiamObjective, "Chen & He 2021, arXiv:2011.10566", n_views=2
        ),
        "mocov2": ObjectiveRow(said.MoCoV2, MoCoV2Objective, "Chen et al. 2020, arXiv:2003.04297", n_views=2),
        "barlow_twins": ObjectiveRow(
            said.BarlowTwins, BarlowTwinsObjective, "Zbontar et al. 2021, arXiv:2103.03230", n_views=2
        ),
        "vicreg": ObjectiveRow(
            said.VicReg, VicRegObjective, "Bardes et al. 2022, arXiv:2105.04906", n_views=2
        ),
        "rotnet": ObjectiveRow(
            said.RotNet,
            RotNetObjective,
            "Gidaris et al. 2018, arXiv:1803.07728",
            expansion="rotations",
            accuracies=("top1",),
        ),
        "relative_location": ObjectiveRow(
            said.RelativeLocation,
            RelativeLocationObjective,
            "Doersch et al. 2015, arXiv:1505.05192",
            expansion="patches",
            accuracies=("top1", "top5"),
        ),
        "autoencoder": ObjectiveRow(
            said.AutoEncoder, AutoEncoderObjective, "Nayebi, Kong et al. 2023, Methods", reads="decoded"
        ),
        "depth_prediction": ObjectiveRow(
            said.DepthPrediction,
            DepthPredictionObjective,
            "Nayebi, Kong et al. 2023, Methods",
            reads="decoded",
            needs="depth",
        ),
        "cross_entropy": ObjectiveRow(
            said.CrossEntropy,
            CrossEntropyObjective,
            "Nayebi, Kong et al. 2023, Methods",
            needs="label",
            accuracies=("top1", "top5"),
        ),
        "linear_readout": ObjectiveRow(
            said.LinearReadout,
            LinearReadoutObjective,
            "Nayebi, Kong et al. 2023, Methods",
            reads="layer",
            needs="label",
            accuracies=("top1", "top5"),
        ),
    }
)


def row_of(settings: said.ObjectiveSettings) -> ObjectiveRow:
    """Return the row of an objective's settings."""
    return OBJECTIVES[settings.name]


_HEADS = crc32(b"heads")
_COLOURS = 3


def build_objective(
    settings: ObjectiveSettings,
    *,
    encoder: nn.Module,
    input_px: int,
    n_images: int,
    n_classes: int | None,
    seed: int,
) -> Objective:
    """Build an objective with fresh heads, banks and queues, on the CPU.

    Parameters
    ----------
    settings
        What the recipe says of it.
    encoder
        The network, with the weights that training starts from (MoCo v2
        copies them). A network that is only read is frozen here: its
        parameters no longer require gradients.
    input_px
        Side of the network's input; one blank pass finds the width of its output.
    n_images
        Size of the training set (of the memory bank).
    n_classes
        None without labels.
    seed
        Of heads, banks, queues and of all draws during training. torch's
        global generator is left as it was.

    Returns
    -------
    Objective
        In train mode.

    Raises
    ------
    UsageError
        If network and objective do not fit, there is no such layer, or labels are missing.
    """
    row = row_of(settings)
    path = module_path(encoder, settings.layer) if isinstance(settings, LinearReadout) else ""
    context = BuildContext(
        encoder=encoder,
        shape=_shape(encoder, path, input_px, decodes=row.reads == "decoded"),
        path=path,
        n_images=n_images,
        n_classes=n_classes,
        seed=seed,
    )
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(hashed(seed, _HEADS)))
        objective = row.build(settings, context)
    if not objective.trains_encoder:
        encoder.requires_grad_(requires_grad=False)
    return objective.train()


@torch.no_grad()
def _shape(encoder: nn.Module, path: str, input_px: int, *, decodes: bool) -> torch.Size | None:
    """Return the shape of what is read for one image, in eval mode so that no statistics move."""
    like = next(encoder.parameters(), torch.zeros(()))
    blank = like.new_zeros((1, _COLOURS, input_px, input_px))
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        if decodes:
            decoded(encoder, blank)
            return None
        return layer_output(encoder, path, blank).shape[1:]
    finally:
        for module, training in modes.items():
            module.training = training
