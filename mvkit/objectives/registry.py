"""All objectives: their settings, and a row each. Read without torch; a loss is imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from mvkit.recipes import Count, NotNegative, Positive, Settings

if TYPE_CHECKING:
    from mvkit.objectives.base import BuildContext, Objective

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


class NeuralReadout(Settings):
    """Responses of units, through a spatial mask and feature weights of each (Klindt et al. 2017).

    ``layer``: the maps that are read; ``mask_l1``, ``weights_l1``: L1 penalties of masks and feature weights.
    """

    name: Literal["neural_readout"] = "neural_readout"
    layer: str = "features"
    mask_l1: NotNegative = 0.02
    weights_l1: NotNegative = 0.02


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
    | LinearReadout
    | NeuralReadout,
    Field(discriminator="name"),
]


class ObjectiveClass(Protocol):
    """Class of a loss: built from settings of the row's class, and the network."""

    trains_encoder: bool

    def __call__(self, settings: Any, context: BuildContext, /) -> Objective:
        """Build the objective."""


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective.

    Attributes
    ----------
    settings
        Its section of a recipe.
    loss
        Its class, "module:class" in this package; built from settings and context.
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
    scores_new_images
        Whether the loss means something for images outside the training set;
        False: it looks images up by their index in it.
    predicts_units
        Whether the images must come with responses of units (``data.neural``).
    """

    settings: type[Settings]
    loss: str
    reference: str
    reads: Literal["features", "decoded", "layer"] = "features"
    n_views: int = 1
    expansion: Literal["rotations", "patches"] | None = None
    needs: Literal["label", "depth"] | None = None
    accuracies: tuple[str, ...] = ()
    scores_new_images: bool = True
    predicts_units: bool = False

    @property
    def build(self) -> ObjectiveClass:
        """Class of the loss, which is imported now."""
        module, _, name = self.loss.partition(":")
        loss: ObjectiveClass = getattr(import_module(f"mvkit.objectives.{module}"), name)
        return loss


OBJECTIVES: Mapping[str, ObjectiveRow] = MappingProxyType(
    {
        "instance_recognition": ObjectiveRow(
            InstanceRecognition,
            "instance_recognition:InstanceRecognitionObjective",
            "Wu et al. 2018, arXiv:1805.01978",
            scores_new_images=False,
        ),
        "simclr": ObjectiveRow(
            SimClr,
            "simclr:SimClrObjective",
            "Chen et al. 2020, arXiv:2002.05709",
            n_views=2,
        ),
        "simsiam": ObjectiveRow(
            SimSiam,
            "simsiam:SimSiamObjective",
            "Chen & He 2021, arXiv:2011.10566",
            n_views=2,
        ),
        "mocov2": ObjectiveRow(
            MoCoV2,
            "mocov2:MoCoV2Objective",
            "Chen et al. 2020, arXiv:2003.04297",
            n_views=2,
        ),
        "barlow_twins": ObjectiveRow(
            BarlowTwins,
            "barlow_twins:BarlowTwinsObjective",
            "Zbontar et al. 2021, arXiv:2103.03230",
            n_views=2,
        ),
        "vicreg": ObjectiveRow(
            VicReg,
            "vicreg:VicRegObjective",
            "Bardes et al. 2022, arXiv:2105.04906",
            n_views=2,
        ),
        "rotnet": ObjectiveRow(
            RotNet,
            "rotnet:RotNetObjective",
            "Gidaris et al. 2018, arXiv:1803.07728",
            expansion="rotations",
            accuracies=("top1",),
        ),
        "relative_location": ObjectiveRow(
            RelativeLocation,
            "relative_location:RelativeLocationObjective",
            "Doersch et al. 2015, arXiv:1505.05192",
            expansion="patches",
            accuracies=("top1", "top5"),
        ),
        "autoencoder": ObjectiveRow(
            AutoEncoder,
            "autoencoder:AutoEncoderObjective",
            "Nayebi, Kong et al. 2023, Methods",
            reads="decoded",
        ),
        "depth_prediction": ObjectiveRow(
            DepthPrediction,
            "depth_prediction:DepthPredictionObjective",
            "Nayebi, Kong et al. 2023, Methods",
            reads="decoded",
            needs="depth",
        ),
        "cross_entropy": ObjectiveRow(
            CrossEntropy,
            "cross_entropy:CrossEntropyObjective",
            "Nayebi, Kong et al. 2023, Methods",
            needs="label",
            accuracies=("top1", "top5"),
        ),
        "linear_readout": ObjectiveRow(
            LinearReadout,
            "linear_readout:LinearReadoutObjective",
            "Nayebi, Kong et al. 2023, Methods",
            reads="layer",
            needs="label",
            accuracies=("top1", "top5"),
        ),
        "neural_readout": ObjectiveRow(
            NeuralReadout,
            "neural_readout:NeuralReadoutObjective",
            "Klindt et al. 2017, NeurIPS 30",
            reads="layer",
            scores_new_images=False,
            predicts_units=True,
        ),
    }
)


def row_of(settings: ObjectiveSettings) -> ObjectiveRow:
    """Return the row of an objective's settings."""
    return OBJECTIVES[settings.name]
