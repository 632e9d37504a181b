"""From a row of the table to modules."""

from __future__ import annotations

from mvkit.models.base import VisionModel
from mvkit.models.baselines import build_baseline
from mvkit.models.blueprints import (
    Blueprint,
    ConnectomeNet,
    MirrorNet,
    PlainNet,
    ResidualNet,
    StreamNet,
)
from mvkit.models.masked import ConnectomeModel
from mvkit.models.mirror import MirrorModel
from mvkit.models.plain import PlainModel
from mvkit.models.residual import ResidualModel
from mvkit.models.streams import StreamModel


def build(blueprint: Blueprint) -> VisionModel:
    """Build a network; its weights are drawn from torch's global generator.

    Initial weights follow the reference: PyTorch's defaults, except that
    residual networks and VGG16 use He initialisation with fan-out (as in
    torchvision), and MouseNet's masks are drawn from their Gaussian
    connection probabilities.
    """
    match blueprint:
        case PlainNet():
            return PlainModel(blueprint)
        case ResidualNet():
            return ResidualModel(blueprint)
        case StreamNet():
            return StreamModel(blueprint)
        case MirrorNet():
            return MirrorModel(blueprint)
        case ConnectomeNet():
            return ConnectomeModel(blueprint)
        case _:
            return build_baseline(blueprint)
