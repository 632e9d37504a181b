"""Objectives as data: what a recipe says of a loss.

Defaults are those of Nayebi, Kong et al. 2023, as given to us: not checked against the paper's text.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mvkit.recipes import Count, NotNegative, Positive, Settings

Fraction = Annotated[float, Field(ge=0, le=1)]


class InstanceRecognition(Settings):
    """Instance recognition with a memory bank (Wu et al. 2018)."""

    name: Literal["instance_recognition"] = "instance_recognition"
    width: Count = 128
    noise_samples: Count = 4096
    temperature: Positive = 0.07
    bank_momentum: Fraction = 0.5


class SimClr(Settings):
    """SimCLR (Chen et al. 2020a)."""

    name: Literal["simclr"] = "simclr"
    hidden: Count = 2048
    width: Count = 128
    temperature: Positive = 0.1


class SimSiam(Settings):
    """SimSiam (Chen & He 2021)."""

    name: Literal["simsiam"] = "simsiam"
    hidden: Count = 2048
    width: Count = 2048
    prediction_hidden: Count = 512


class MoCoV2(Settings):
    """MoCo v2 (Chen et al. 2020b)."""

    name: Literal["mocov2"] = "mocov2"
    hidden: Count = 2048
    width: Count = 128
    queue: Count = 65536
    temperature: Positive = 0.2
    momentum: Fraction = 0.999


class BarlowTwins(Settings):
    """Barlow Twins (Zbontar et al. 2021).

    ``divide_by`` replaces the number of images of the global batch in the
    correlation; only to reproduce the predecessor, which used a configured number.
    """

    name: Literal["barlow_twins"] = "barlow_twins"
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (8192, 8192, 8192)
    off_diagonal_weight: NotNegative = 0.0051
    divide_by: Count | None = None


class VicReg(Settings):
    """VICReg (Bardes et al. 2022); ``divide_by`` as for Barlow Twins (one is subtracted)."""

    name: Literal["vicreg"] = "vicreg"
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (8192, 8192, 8192)
    invariance_weight: NotNegative = 25.0
    variance_weight: NotNegative = 25.0
    covariance_weight: NotNegative = 1.0
    divide_by: Annotated[int, Field(ge=2)] | None = None


class RotNet(Settings):
    """Which of four rotations (Gidaris et al. 2018)."""

    name: Literal["rotnet"] = "rotnet"


class RelativeLocation(Settings):
    """Which of eight neighbours a patch is (Doersch et al. 2015)."""

    name: Literal["relative_location"] = "relative_location"
    hidden: Count = 4096
    dropout: Fraction = 0.5
    norm_momentum: Fraction = 0.003


class AutoEncoder(Settings):
    """Reconstruction with a sparse code."""

    name: Literal["autoencoder"] = "autoencoder"
    l1_weight: NotNegative = 5e-4


class DepthPrediction(Settings):
    """Depth of every pixel, from an hour-glass network."""

    name: Literal["depth_prediction"] = "depth_prediction"


class CrossEntropy(Settings):
    """Supervised classification."""

    name: Literal["cross_entropy"] = "cross_entropy"


class LinearReadout(Settings):
    """Classification by a linear map of one layer of a frozen network (``layer`` None: its output)."""

    name: Literal["linear_readout"] = "linear_readout"
    layer: str | None = None
    pool_px: Count | None = None


ObjectiveSettings = Annotated[
    InstanceRecognition
    | SimClr
    | SimSiam
    | MoCoV2
    | BarlowTwins
    | VicReg
    | RotNet
    | RelativeLocation
    | AutoEncoder
    | DepthPrediction
    | CrossEntropy
    | LinearReadout,
    Field(discriminator="name"),
]
