"""What there is to choose from: models, a model's layers, recipes, datasets.

Only :func:`list_layers` needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar

from mvkit.errors import UsageError, suggest, unknown_name
from mvkit.fetch.catalogue import RECORDINGS, SIMULATED, SIMULATED_BYTES
from mvkit.models.registry import (
    ARCHITECTURES,
    BASELINES,
    RELEASED,
    SHORT_NAMES,
    Architecture,
    Baseline,
    ConnectomeNet,
    Conv,
    Hidden,
    MirrorNet,
    ModelRow,
    PlainNet,
    ResidualNet,
    StreamNet,
    find_model,
    has_readout,
    is_model,
)
from mvkit.paths import checkpoint_path, default_dataset, expand, locate_dataset, neural_path

if TYPE_CHECKING:
    from mvkit.features import LayerInfo

ModelGroup = Literal["released", "architecture", "long name", "baseline"]
WeightsState = Literal["here", "to fetch", "none published", "none needed"]

#: How networks that are not mvkit's are named, and what each name stands for.
EXTERNAL_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "torchvision:NAME": "a network of torchvision",
        "timm:NAME": "a network of timm",
        "FILE.py:FUNCTION": "a function of your own that returns a torch.nn.Module",
        "PACKAGE.MODULE:FUNCTION": "the same, of an installed module",
        "RUN": "the folder of a training run, or one of its checkpoints",
    }
)

#: Parameters of every architecture (trained or not, without buffers).
PARAMETERS: Mapping[str, int] = MappingProxyType(
    {
        "alexnet_bn_ir_64x64_input_pool_6": 57_022_528,
        "alexnet_bn": 61_119_528,
        "alexnet_ir_64x64_input_pool_6": 57_003_840,
        "alexnet_64x64_input_pool_6": 61_100_840,
        "alexnet_two_64x64": 7_243_688,
        "alexnet_three_64x64": 14_819_624,
        "alexnet_four_64x64": 11_096_616,
        "alexnet_five_64x64": 11_686_696,
        "alexnet_six_64x64": 44_319_528,
        "vgg16_64x64_input": 138_357_544,
        "vgg16_ir_64x64": 134_268_992,
        "convolutional_core": 26_496,
        "resnet18_64x64_input": 11_689_512,
        "resnet18_ir_64x64": 11_176_512,
        "resnet34_64x64_input": 21_797_672,
        "resnet34_ir_64x64": 21_284_672,
        "resnet50_64x64_input": 25_557_032,
        "resnet50_ir_64x64": 23_508_032,
        "resnet101_64x64_input": 44_549_160,
        "resnet101_ir_64x64": 42_500_160,
        "resnet152_64x64_input": 60_192_808,
        "resnet152_ir_64x64": 58_143_808,
        "simplified_mousenet_single_stream_ir": 2_029_632,
        "simplified_mousenet_dual_stream_visp_3x3_ir": 5_806_848,
        "simplified_mousenet_six_stream_visp_3x3_simclr": 16_780_800,
        "simplified_mousenet_single_stream": 11_246_632,
        "simplified_mousenet_dual_stream": 23_972_200,
        "simplified_mousenet_six_stream": 34_937_448,
        "simplified_mousenet_dual_stream_visp_3x3": 24_234_344,
        "simplified_mousenet_six_stream_visp_3x3": 35_199_592,
        "simplified_mousenet_dual_stream_visp_3x3_bn": 24_239_848,
        "simplified_mousenet_six_stream_visp_3x3_bn": 35_213_800,
        "simplified_mousenet_dual_stream_vispor_only": 14_756_200,
        "simplified_mousenet_six_stream_vispor_only": 25_721_448,
        "simplified_mousenet_dual_stream_vispor_only_visp_3x3": 15_018_344,
        "simplified_mousenet_six_stream_vispor_only_visp_3x3": 25_983_592,
        "simplified_mousenet_ae_single_stream": 6_427_459,
        "simplified_mousenet_ae_dual_stream": 16_350_275,
        "simplified_mousenet_ae_six_stream": 38_297_923,
        "simplified_mousenet_depth_hour_glass_single_stream": 4_058_819,
        "simplified_mousenet_depth_hour_glass_dual_stream": 11_613_123,
        "simplified_mousenet_depth_hour_glass_six_stream": 33_560_771,
        "shi_mousenet": 8_839_858,
        "shi_mousenet_ir": 5_974_858,
        "shi_mousenet_vispor5": 34_647_858,
        "shi_mousenet_vispor5_ir": 5_974_858,
        "shi_mousenet_vispor5_pool_4": 6_423_858,
        "shi_mousenet_lgnv_bn": 8_839_858,
        "pixels": 0,
        "gabor": 0,
    }
)


@dataclass(frozen=True)
class ListedModel:
    """A model that ``score`` and ``extract`` know by name.

    Attributes
    ----------
    name
        As it is typed.
    group
        "released": published with weights; "architecture": a network by mvkit's name; "long name": by the
        name of the paper's code; "baseline": a fixed transformation of images.
    description
        The network in a few words.
    objective
        What the published weights were trained for; "" where the name stands for none.
    architecture
        The network's name in the paper's code.
    input_px
        Side of the input; None: that of the image.
    n_layers, n_parameters
        Layers taken by default; parameters of the network.
    weights
        Whether its published weights are on this machine.
    checkpoint
        Name by which ``mvkit fetch checkpoints`` fetches them; "" if none are published.
    """

    name: str
    group: ModelGroup
    description: str
    objective: str
    architecture: str
    input_px: int | None
    n_layers: int
    n_parameters: int
    weights: WeightsState
    checkpoint: str


def list_models(pattern: str | None = None, *, home: Path | None = None) -> tuple[ListedModel, ...]:
    """List the models that have a name: released ones, architectures, baselines.

    Parameters
    ----------
    pattern
        Only names that match: a glob (``alexnet*``), or a part of a name.
    home
        mvkit's home directory, where fetched weights lie.

    Raises
    ------
    UsageError
        If no name matches.
    """
    named_shortly = set(SHORT_NAMES.values())
    groups: dict[ModelGroup, list[str]] = {
        "released": list(RELEASED),
        "architecture": list(SHORT_NAMES),
        # Those that only a long name has come first.
        "long name": sorted(
            (name for name in ARCHITECTURES if name not in RELEASED), key=named_shortly.__contains__
        ),
        "baseline": list(BASELINES),
    }
    rows = [_listed_model(group, find_model(name), home) for group, names in groups.items() for name in names]
    return _matching("model", rows, pattern, "mvkit list models")


def _listed_model(group: ModelGroup, row: ModelRow, home: Path | None) -> ListedModel:
    released, preprocess = row.released, row.preprocess
    is_here = released is not None and checkpoint_path(released.name, home).is_file()
    weights: WeightsState = "here" if is_here else "to fetch"
    if released is None:
        weights = "none needed" if group == "baseline" else "none published"
    return ListedModel(
        name=row.name,
        group=group,
        description=describe_architecture(row.architecture),
        objective=released.objective if released is not None and group == "released" else "",
        architecture=row.architecture.name,
        input_px=preprocess.input_px or preprocess.crop_px,
        n_layers=len(row.architecture.layers),
        n_parameters=PARAMETERS[row.architecture.name],
        weights=weights,
        checkpoint=released.name if released is not None else "",
    )


def describe_architecture(architecture: Architecture) -> str:
    """Return a network in a few words: ``two streams, BN, 1,000 classes`` (BN: batch norm)."""
    net = architecture.blueprint
    parts = list(_describe_network(architecture))
    if isinstance(net, PlainNet | StreamNet) and (
        net.norm_features if isinstance(net, PlainNet) else net.norm
    ):
        parts.append("BN")
    if isinstance(net, StreamNet) and net.skip == "1x1":
        parts.append("1x1 edges")
    if has_readout(net):
        parts.append("1,000 classes")
    return ", ".join(parts)


def _describe_network(architecture: Architecture) -> Iterator[str]:
    net, family = architecture.blueprint, architecture.name.partition("_")[0]
    match net:
        case PlainNet():
            n_convolutions = sum(isinstance(layer, Conv) for layer in net.features)
            n_hidden = sum(isinstance(layer, Hidden) for layer in net.classifier)
            if not net.classifier:
                yield f"{n_convolutions} convolutions"
                return
            name = {"alexnet": "AlexNet", "vgg16": "VGG16"}[family]
            yield name if n_hidden == 2 else f"first {n_convolutions + n_hidden} layers of {name}"
        case ResidualNet():
            yield family.replace("resnet", "ResNet-")
        case StreamNet():
            yield _describe_streams(net)
            if net.read_from != net.outputs:
                yield f"{' and '.join(net.read_from)} only"
        case MirrorNet():
            yield _describe_streams(net.encoder)
            yield "autoencoder" if net.hidden is not None else "depth hourglass"
        case ConnectomeNet():
            yield "MouseNet"
            if len(net.read_from) == 1:
                yield f"{net.read_from[0]} only" + (" at 4 x 4" if net.pooled_px is not None else "")
            if net.norm_relay:
                yield "LGNv with BN and ReLU"
        case Baseline():
            yield "grey values" if net.kind == "pixels" else "Gabor energies"


def _describe_streams(net: StreamNet) -> str:
    return {1: "one stream", 2: "two streams", 6: "six streams"}[len(net.streams)]


@dataclass(frozen=True)
class LayerListing:
    """The layers of a model.

    Attributes
    ----------
    model
        As it was asked for.
    description
        Which checkpoint of a training run it is, and how large its input is; "" where unknown.
    layers
        Layers that can be tapped, in the model's order.
    left_out
        Modules that cannot be tapped -> why.
    joined
        Joined layer that the model declares -> its parts.
    """

    model: str
    description: str
    layers: tuple[LayerInfo, ...]
    left_out: Mapping[str, str]
    joined: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, object]:
        """Return the listing as plain values."""
        return {
            "model": self.model,
            "description": self.description,
            "layers": [layer.to_json() for layer in self.layers],
            "left_out": dict(self.left_out),
            "joined": {name: list(parts) for name, parts in self.joined.items()},
        }


def list_layers(
    model: str,
    patterns: Sequence[str] | None = None,
    *,
    weights: str | None = None,
    input_size: int | None = None,
    home: Path | None = None,
) -> LayerListing:
    """List the layers of a named model with their shapes, by showing it a black image.

    Parameters
    ----------
    model
        As for :func:`mvkit.load_model`.
    patterns
        Only these layers; None for all.
    weights
        As for :func:`mvkit.load_model`. None: random ones, so that no checkpoint is needed, and of a training
        run its own.
    input_size
        Side of the input in pixels; None: the model's own.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If the model, its weights or a layer is unknown.
    MvkitError
        If a checkpoint cannot be read, or a user's code fails.
    """
    from mvkit.features.layers import declared_joined_layers, survey_layers
    from mvkit.models import load_model

    if weights is None:
        is_run = not is_model(model) and expand(model).exists()
        weights = "released" if is_run else "random"
    network = load_model(model, weights=weights, home=home, input_size=input_size)
    survey = survey_layers(network, layers=patterns)
    joined = {one.name: one.parts for one in declared_joined_layers(network) if one.parts != (one.name,)}
    return LayerListing(model, network.describe(), survey.layers, survey.left_out, joined)


@dataclass(frozen=True)
class ListedRecipe:
    """A recipe that comes with mvkit.

    Attributes
    ----------
    name
        As it is typed after the command or option.
    command
        "mvkit train", "mvkit score --recipe" or "mvkit prep".
    description
        The first line of the recipe's comment.
    in_table2
        Whether it trains a row of the paper's Table 2.
    path
        The file.
    """

    name: str
    command: str
    description: str
    in_table2: bool
    path: str


_TRAIN = "mvkit train"
_TABLE2 = ": a row of Table 2"
_RECIPE_COMMANDS = {"score": "mvkit score --recipe", "prep": "mvkit prep"}


def list_recipes(pattern: str | None = None) -> tuple[ListedRecipe, ...]:
    """List the recipes that come with mvkit: of training, scoring, preparing images.

    Parameters
    ----------
    pattern
        Only names that match: a glob (``dual_stream*``), or a part of a name.

    Raises
    ------
    UsageError
        If no name matches.
    """
    from mvkit.recipes import packaged_recipes

    rows = [_listed_recipe(name, path) for name, path in packaged_recipes().items()]
    order = (_TRAIN, *_RECIPE_COMMANDS.values())
    rows.sort(key=lambda row: (order.index(row.command), not row.in_table2))
    return _matching("recipe", rows, pattern, "mvkit list recipes")


def _listed_recipe(full_name: str, path: Path) -> ListedRecipe:
    folder, _, name = full_name.rpartition("/")
    # "# Dual stream, SimCLR: a row of Table 2.   mvkit train dual_stream_simclr"
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    description = first_line.removeprefix("#").partition("   ")[0].strip().removesuffix(".")
    return ListedRecipe(
        name=name,
        command=_RECIPE_COMMANDS.get(folder, _TRAIN),
        description=description.removesuffix(_TABLE2),
        in_table2=description.endswith(_TABLE2),
        path=str(path),
    )


@dataclass(frozen=True)
class ListedDataset:
    """Recordings that ``--dataset`` knows by name.

    Attributes
    ----------
    name
        As it is typed.
    description
        What was recorded.
    areas
        Visual areas; empty where unknown.
    n_units, n_animals
        Before any selection; None where unknown: the file is not here.
    n_bytes
        Size of the neural file; if it is not here, of the download.
    path
        Where the neural file lies or would lie.
    is_here
        Whether it is on this machine.
    command
        What fetches it.
    """

    name: str
    description: str
    areas: tuple[str, ...]
    n_units: int | None
    n_animals: int | None
    n_bytes: int
    path: str
    is_here: bool
    command: str


#: Areas, number of units, number of animals.
UnitCounts = tuple[tuple[str, ...], int | None, int | None]

_RECORDED = {
    "neuropixels": "spikes in 10-ms bins, Neuropixels probes, 118 natural scenes, 50 trials",
    "calcium": "mean dF/F of calcium imaging, 118 natural scenes, 50 trials",
    SIMULATED: "spike rates that are linear in Gabor energies, 118 scenes, 50 trials; needs no file",
}
_SIMULATED_COUNTS: UnitCounts = (("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam"), 692, 4)
_NOT_COUNTED: UnitCounts = ((), None, None)


def list_datasets(pattern: str | None = None, *, home: Path | None = None) -> tuple[ListedDataset, ...]:
    """List the recordings that have a name; units and animals are counted in files that are here.

    Parameters
    ----------
    pattern
        Only names that match: a glob, or a part of a name.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If no name matches.
    DataError
        If a file that is here is damaged.
    """
    rows = [_listed_dataset(name, neural_path(name, home)) for name in _RECORDED]
    return _matching("dataset", rows, pattern, "mvkit list datasets")


def _listed_dataset(name: str, path: Path) -> ListedDataset:
    is_here = path.is_file()
    if is_here:
        counts, n_bytes = _count_units(path), path.stat().st_size
    elif name == SIMULATED:
        counts, n_bytes = _SIMULATED_COUNTS, SIMULATED_BYTES
    else:
        counts, n_bytes = _NOT_COUNTED, RECORDINGS[name].approximate_size
    areas, n_units, n_animals = counts
    return ListedDataset(
        name=name,
        description=_RECORDED[name],
        areas=areas,
        n_units=n_units,
        n_animals=n_animals,
        n_bytes=n_bytes,
        path=str(path),
        is_here=is_here,
        command=f"mvkit fetch neural --dataset {name}",
    )


def _count_units(path: Path) -> UnitCounts:
    """Return the areas of a neural file, its units and its animals."""
    from mvkit.neural.dataset import area_sort_key
    from mvkit.neural.neural_file import read_unit_columns

    columns = read_unit_columns(path)
    n_units = len(next(iter(columns.values()), ()))
    areas = set(columns["visual_area"].tolist()) - {""} if "visual_area" in columns else set()
    ordered = sorted(areas, key=area_sort_key)
    animals = len(set(columns["specimen_id"].tolist())) if "specimen_id" in columns else None
    return tuple(ordered), n_units, animals


def check_areas(dataset: str | None, areas: Sequence[str] | None, *, home: Path | None = None) -> None:
    """Check the name or path of a dataset (None: the default one) and its areas, but no responses or images.

    Raises
    ------
    UsageError
        If there is no such dataset, or it has no such area.
    DataError
        If the file is not there, or is no neural file.
    """
    path = locate_dataset(dataset or default_dataset(home), home)
    names = _SIMULATED_COUNTS[0] if path is None else _count_units(path)[0]
    for area in areas or ():
        if names and area not in names:
            raise unknown_name("area", area, names)


Row = TypeVar("Row", ListedModel, ListedRecipe, ListedDataset)


def _matching(kind: str, rows: Sequence[Row], pattern: str | None, command: str) -> tuple[Row, ...]:
    """Return the rows whose names match a glob or hold a part; all for None."""
    if pattern is None:
        return tuple(rows)
    wanted = pattern.lower()
    glob = wanted if any(character in wanted for character in "*?[") else f"*{wanted}*"
    matching = tuple(row for row in rows if fnmatchcase(row.name.lower(), glob))
    if not matching:
        names = [row.name for row in rows]
        raise UsageError(f"no {kind} matches '{pattern}'{suggest(pattern, names)}\nall: {command}")
    return matching
