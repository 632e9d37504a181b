"""The published checkpoints as rows, and the names under which models are known; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mvkit.models.architectures import ARCHITECTURES, BASELINES, STREAMS
from mvkit.models.blueprints import Architecture, StreamNet
from mvkit.models.preprocessing import GREY_64, IMAGENET_64, Preprocessing
from mvkit.models.short_names import SHORT_NAMES
from mvkit.naming import unknown_name

#: Where the paper's authors publish checkpoints.
PUBLISHED_AT = "https://mouse-vision-ckpts.s3.amazonaws.com"

PAPER = (
    "Nayebi*, Kong*, Zhuang, Gardner, Norcia & Yamins (2023): Mouse visual cortex as a limited resource "
    "system that self-learns an ecologically-general representation. PLOS Comput. Biol. 19(10): e1011506."
)
SHI_PAPER = (
    "Shi, Tripp, Shea-Brown, Mihalas & Buice (2022): MouseNet: A biologically constrained convolutional "
    "neural network model for the mouse visual cortex. PLOS Comput. Biol. 18(9): e1010427."
)


@dataclass(frozen=True)
class Released:
    """A published checkpoint.

    Attributes
    ----------
    name
        Released name; the file is ``NAME.pt``.
    architecture
        Row of ``ARCHITECTURES``; also the model's long name in the reference.
    objective
        What it was trained for.
    citation
        Papers to cite.
    preprocess
        Preprocessing of its input.
    """

    name: str
    architecture: str
    objective: str
    citation: tuple[str, ...]
    preprocess: Preprocessing = field(default=IMAGENET_64)

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return f"{self.name}.pt"

    @property
    def url(self) -> str:
        """Address of the published file."""
        return f"{PUBLISHED_AT}/{self.file_name}"

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers scored by default."""
        return ARCHITECTURES[self.architecture].layers


#: Published checkpoints by name.
RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        row.name: row
        for row in (
            Released(
                name="alexnet_bn_ir",
                architecture="alexnet_bn_ir_64x64_input_pool_6",
                objective="instance recognition",
                citation=(PAPER,),
            ),
            Released(
                name="dual_stream_ir",
                architecture="simplified_mousenet_dual_stream_visp_3x3_ir",
                objective="instance recognition",
                citation=(PAPER,),
            ),
            Released(
                name="six_stream_simclr",
                architecture="simplified_mousenet_six_stream_visp_3x3_simclr",
                objective="SimCLR",
                citation=(PAPER,),
            ),
            Released(
                name="shi_mousenet_ir",
                architecture="shi_mousenet_ir",
                objective="instance recognition",
                citation=(PAPER, SHI_PAPER),
            ),
            Released(
                name="shi_mousenet_vispor5_ir",
                architecture="shi_mousenet_vispor5_ir",
                objective="instance recognition",
                citation=(PAPER, SHI_PAPER),
            ),
        )
    }
)


@dataclass(frozen=True)
class Table2Row:
    """A row of the paper's Table 2: median noise-corrected predictivity over the units of all six areas.

    Attributes
    ----------
    name
        What was scored.
    percent
        Dataset -> the value as printed, in per cent; without an entry where no value is known here.
    is_untrained
        Whether the weights were random.
    """

    name: str
    percent: Mapping[str, float]
    is_untrained: bool = False

    def value(self, dataset: str) -> float:
        """Return the value for a dataset that the row has as a fraction."""
        return round(self.percent[dataset] / 100, 4)


#: Rows of the paper's Table 2, for its units, by its protocol, each area with its best layer. No model is
#: compared with the last row: of its VGG16, trained on ImageNet at 224 px with labels, neither the layers nor
#: the preprocessing of the scenes are known here, so torchvision's vgg16 may be scored in another way.
TABLE2: Mapping[str, Table2Row] = MappingProxyType(
    {
        row.name: row
        for row in (
            Table2Row("alexnet_bn_ir", {"neuropixels": 41.33, "calcium": 31.60}),
            Table2Row("dual_stream_ir", {"neuropixels": 40.07, "calcium": 30.64}),
            Table2Row("six_stream_simclr", {"neuropixels": 38.92, "calcium": 29.19}),
            Table2Row("shi_mousenet_ir", {"neuropixels": 35.96, "calcium": 30.06}),
            Table2Row("shi_mousenet_vispor5_ir", {"neuropixels": 36.89, "calcium": 28.80}),
            Table2Row("untrained single stream", {"neuropixels": 32.76}, is_untrained=True),
            Table2Row("untrained dual stream", {"neuropixels": 33.58}, is_untrained=True),
            Table2Row("untrained six stream", {"neuropixels": 33.74}, is_untrained=True),
            Table2Row("VGG16 at 224 px", {"neuropixels": 26.03, "calcium": 20.40}),
        )
    }
)


@dataclass(frozen=True)
class ModelRow:
    """What a model's name stands for.

    Attributes
    ----------
    name
        The name asked for.
    architecture
        How it is built and which layers are scored by default.
    released
        The checkpoint that fits it, or None.
    preprocess
        How images become its input.
    """

    name: str
    architecture: Architecture
    released: Released | None
    preprocess: Preprocessing


def table2_row(row: ModelRow, weights: str) -> Table2Row | None:
    """Return the row of the paper's Table 2 that a model is to be compared with, or None where it has none.

    Parameters
    ----------
    row
        The model.
    weights
        "released", "random" or a file. With random weights the stream networks with batch norm and 3x3 edges
        from VISp are the untrained ones of the table.
    """
    net = row.architecture.blueprint
    if weights == "random" and isinstance(net, StreamNet) and net.norm and net.skip == "3x3":
        for kind, streams in STREAMS.items():
            if net.streams == streams:
                return TABLE2[f"untrained {kind} stream"]
    return TABLE2[row.released.name] if row.released is not None else None


def list_models() -> list[str]:
    """Return every model name: published checkpoints, architectures, baselines.

    The short names of :mod:`mvkit.models.short_names` are not repeated here; they stand for architectures.
    """
    return [*RELEASED, *(name for name in ARCHITECTURES if name not in RELEASED), *BASELINES]


def is_model(name: str) -> bool:
    """Tell whether :func:`find_model` knows a name."""
    return name in BASELINES or name in RELEASED or name in ARCHITECTURES or name in SHORT_NAMES


def find_model(name: str) -> ModelRow:
    """Look up a model by its released name, its architecture's long or short name, or as a baseline.

    Raises
    ------
    UsageError
        If there is no such model; the message suggests the closest name.
    """
    if name in BASELINES:
        return ModelRow(name, BASELINES[name], None, GREY_64)
    if name in RELEASED:
        released = RELEASED[name]
        return ModelRow(name, ARCHITECTURES[released.architecture], released, released.preprocess)
    architecture = SHORT_NAMES.get(name, name)
    if architecture in ARCHITECTURES:
        matching = (row for row in RELEASED.values() if row.architecture == architecture)
        return ModelRow(name, ARCHITECTURES[architecture], next(matching, None), IMAGENET_64)
    raise unknown_name("model", name, [*list_models(), *SHORT_NAMES])
