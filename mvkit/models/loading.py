"""From a name, a checkpoint or a run's folder to a network with weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mvkit.errors import CheckpointError, UsageError, wording
from mvkit.models.base import VisionModel, WeightsProvenance
from mvkit.models.checkpoints import fill_weights, read_checkpoint
from mvkit.models.external import build_with_seed, load_external
from mvkit.models.mousenet import ConnectomeModel
from mvkit.models.names import (
    BEST,
    LAST,
    check_inputs,
    find_checkpoint,
    is_checkpoint_path,
    parse_external,
    split_key,
    split_random,
    weights_path,
)
from mvkit.models.plain import PlainModel, ResidualModel, build_baseline
from mvkit.models.preprocessing import InputOptions, Preprocessing
from mvkit.models.registry import (
    PAPER,
    RELEASED,
    SHORT_NAMES,
    Architecture,
    Baseline,
    Blueprint,
    ConnectomeNet,
    MirrorNet,
    ModelRow,
    PlainNet,
    ResidualNet,
    StreamNet,
    find_model,
    is_model,
    with_classes,
)
from mvkit.models.streams import MirrorModel, StreamModel
from mvkit.models.viewing import ViewingConditions
from mvkit.paths import expand

#: Value of a checkpoint's key "format", and the newest version of the format that is read here.
FORMAT = "mvkit-checkpoint"
VERSION = 1

#: What to do about a damaged checkpoint of a training run.
ANOTHER = "take another checkpoint of the run (best.pt, epoch_*.pt), or train it again"

#: Of published weights; neither their files nor the paper state one.
UNSTATED_LICENCE = "not stated with the published files: ask their authors before passing them on"


def load_model(  # noqa: PLR0913
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "released",
    seed: int | None = None,
    *,
    home: Path | None = None,
    input_size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    grey: bool | None = None,
    viewing: ViewingConditions | None = None,
) -> VisionModel:
    """Build a model and give it weights.

    Parameters
    ----------
    name
        A released model, an architecture (the reference's long name), or a
        baseline; see :func:`mvkit.list_models`. Or a checkpoint that ``mvkit
        train`` wrote, by its path or that of the run folder (the checkpoint that its recipe
        names: ``checkpoint.score``). Or an external
        model: ``torchvision:NAME``, ``timm:NAME``, a function of the user's own that
        makes an ``nn.Module`` (``package.module:function``, ``path/to/file.py:function``; its
        code is run). Any of these with ``@random`` behind it has random weights.
    weights
        "released": the published checkpoint, from where ``mvkit fetch
        checkpoints`` put it (of a trained checkpoint: its own weights); "random": as drawn
        for a new network; otherwise the path of a checkpoint (``FILE:key`` for the weights under a
        key of it, such as ``"dino.pth:teacher"``). Baselines have none; for them both words mean the
        same. torchvision and timm: "random", "DEFAULT" (what the library downloads), an entry of
        torchvision's weights, or a file, also ``.safetensors`` (``ENTRY=FILE`` where it is not plain
        which entry's preprocessing belongs to it); a user's function: a file, or else as the
        function makes it. Of a file without the weights of the head, layers before it can be recorded.
    seed
        Of random weights; None: 0, or of a trained checkpoint the seed its run started from.
        Neither the seed nor the drawing touches torch's global generator.
    home
        Directory of mvkit's files; by default MVKIT_HOME or the platform's.
    input_size
        Side of the input in pixels, instead of what the network was trained with or its library
        declares; the part of the image that is seen stays the same.
    mean, std, grey
        Preprocessing of an external model, instead of what its library declares: one number or
        three for values scaled to [0, 1], and whether colour becomes grey first.
    viewing
        Visual acuity, field of view and contrast with which images are seen, for instance
        ``mvkit.ViewingConditions(acuity_cpd=0.5)``; None: as they are.

    Returns
    -------
    VisionModel
        In eval mode, on the CPU, float32. ``name``, ``layers``, ``preprocess``
        and ``weights_id`` describe it; ``tap_points()`` lists its layers.

    Raises
    ------
    UsageError
        If the name is unknown, the path does not exist, or ``weights`` is neither a choice nor a file.
    CheckpointError
        If there is no such checkpoint, or it cannot be read or does not fit.
    UserCodeError
        If the user's own code fails.
    """
    options = InputOptions(input_size, mean, std, grey, viewing)
    if str(name).endswith("@random"):
        name, weights = split_random(name, weights)
    external = parse_external(name)
    if external is not None:
        return _set_viewing(load_external(external, weights, seed, options), viewing)
    check_inputs(name, options)
    if is_checkpoint_path(name):
        model = _load_checkpoint(name, weights, seed)
    else:
        model = _load_by_name(find_model(str(name)), weights, seed, home)
    if input_size is not None:
        model.own_input_px = model.preprocess.input_px
        model.preprocess = options.apply(model.preprocess)
        model.check_input_side(input_size)
    return _set_viewing(model.eval(), viewing)


def _set_viewing(model: VisionModel, viewing: ViewingConditions | None) -> VisionModel:
    if viewing is not None:
        model.viewing = viewing
    return model


def build_for_training(
    architecture: str,
    *,
    n_classes: int | None,
    seed: int,
    weights: str | os.PathLike[str] = "random",
    home: Path | None = None,
    encoder: str | None = None,
) -> VisionModel:
    """Build a network as training starts from it.

    Parameters
    ----------
    architecture
        A name that :func:`mvkit.load_model` knows: short (``dual_stream_encoder``),
        released, or the reference's long one.
    n_classes
        Width of the read-out, where the network has one; None: as published (1000).
        Headless networks ignore it.
    seed
        Of random weights (and of MouseNet's masks). Torch's global generators are left as they were.
    weights
        "random", "released", or the path of a checkpoint or of a training run's folder.
    home
        Directory of mvkit's files, for "released".
    encoder
        Of an autoencoder or a depth network: the network, named like ``architecture``, that ``weights`` are
        of. Its areas start from them, a read-out of it is left out, and the decoder's weights are random.

    Returns
    -------
    VisionModel
        In training mode, on the CPU, float32; ``name``, ``layers``, ``preprocess`` (as the weights were
        trained) and ``weights_id`` are set as by ``load_model``.

    Raises
    ------
    UsageError
        If the name is unknown, or stands for a fixed transformation without
        weights; if trained weights are asked for with another number of classes than they have; or if
        ``encoder`` is not the encoder of this network.
    CheckpointError
        If there is no such checkpoint, or it cannot be read or does not fit.
    """
    row = find_model(architecture)
    if isinstance(row.architecture.blueprint, Baseline):
        raise UsageError(f"'{architecture}' has no weights to train; name a network, see mvkit.list_models()")
    if encoder is not None:
        _check_encoder(row, find_model(encoder))
        model = _build_random(row, seed)
        start = build_for_training(encoder, n_classes=n_classes, seed=seed, weights=weights, home=home)
        # Without the decoder's, and with those of a read-out that is not there.
        model.load_state_dict(start.state_dict(), strict=False)
        model.preprocess = start.preprocess
        return model.train()
    if weights == "released":
        if with_classes(row.architecture, n_classes) != row.architecture:
            raise UsageError(f"'{architecture}' was released with its own read-out, not {n_classes} classes")
        return _load_by_name(row, weights, None, home).train()
    row = replace(row, architecture=with_classes(row.architecture, n_classes))
    if weights == "random":
        return _build_random(row, seed).train()
    path = expand(weights)
    if split_key(path)[1] is None:
        path = checkpoint_file(weights)
    model, trained = _build_from_file(row, path, whole=True)
    if trained is not None:
        model.preprocess = trained.preprocess
    return model.train()


def _check_encoder(row: ModelRow, encoder: ModelRow) -> None:
    """Check that a network of streams, with or without a read-out, is the encoder of a mirror network."""
    mirror = row.architecture.blueprint
    if not isinstance(mirror, MirrorNet):
        raise UsageError(f"model.encoder: '{row.name}' is no autoencoder or depth network; leave the key out")
    if not _is_encoder(encoder, mirror):
        fitting = [name for name in (*RELEASED, *SHORT_NAMES) if _is_encoder(find_model(name), mirror)]
        raise UsageError(
            f"model.encoder: '{encoder.name}' is not the encoder of '{row.name}'; these are: "
            + ", ".join(fitting)
        )


def _is_encoder(row: ModelRow, mirror: MirrorNet) -> bool:
    net = row.architecture.blueprint
    return isinstance(net, StreamNet) and replace(net, classes=None) == mirror.encoder


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


def _load_by_name(
    row: ModelRow, weights: str | os.PathLike[str], seed: int | None, home: Path | None
) -> VisionModel:
    path = weights_path(row, weights, home)
    if isinstance(row.architecture.blueprint, Baseline):
        model = _configure(build(row.architecture.blueprint), row)
        model.provenance = WeightsProvenance(row.architecture.name)
        return model
    if path is None:
        return _build_random(row, seed or 0)
    model, trained = _build_from_file(row, path)
    if trained is not None:
        model.provenance = trained.provenance()
    elif weights == "released" and row.released is not None:
        model.provenance = WeightsProvenance(
            row.architecture.name,
            source=row.released.url,
            citation=row.released.citation,
            licence=UNSTATED_LICENCE,
        )
    else:
        model.provenance = WeightsProvenance(
            row.architecture.name, source=f"file {path.name}", citation=(PAPER,)
        )
    return model


def _load_checkpoint(
    name: str | os.PathLike[str], weights: str | os.PathLike[str], seed: int | None
) -> VisionModel:
    path = checkpoint_file(name, weights)
    trained = read_trained_network(read_checkpoint(path, remedy=ANOTHER), path)
    if weights == "random":
        return _build_random(trained.row("start"), trained.seed if seed is None else seed)
    model = _build_empty(trained.row(f"step{trained.step}"))
    model.weights_id = fill_weights(model, trained.contents, path)
    model.provenance = trained.provenance()
    return model


def _build_random(row: ModelRow, seed: int) -> VisionModel:
    model = _configure(build_random(row.architecture, seed), row)
    model.weights_id = f"random:seed={seed}"
    model.provenance = WeightsProvenance(
        row.architecture.name, source=f"random, seed {seed}", citation=(PAPER,)
    )
    return model


def build_random(architecture: Architecture, seed: int) -> VisionModel:
    """Build a network with weights drawn from ``seed``; torch's global generator is left as it was."""
    return build_with_seed(lambda: build(architecture.blueprint), seed)


def _build_from_file(
    row: ModelRow, path: Path, *, whole: bool = False
) -> tuple[VisionModel, TrainedNetwork | None]:
    """Build a network with the weights of a file; also return what a training run's checkpoint describes."""
    file, key = split_key(path)
    contents = read_checkpoint(file)
    trained = None
    if is_trained(contents) and key is None:
        trained = read_trained_network(contents, path)
        check_same_network(trained, row)
    model = _build_empty(row)
    model.weights_id = fill_weights(model, contents, path, whole=whole)
    return model, trained


def _build_empty(row: ModelRow) -> VisionModel:
    """Build a network whose weights are still to be filled in, without the time to draw them."""
    with torch.device("meta"):
        model = build(row.architecture.blueprint)
    return _configure(model.to_empty(device="cpu"), row)


def _configure(model: VisionModel, row: ModelRow) -> VisionModel:
    model.name = row.name
    model.layers = row.architecture.layers
    model.published_layers = row.architecture.published_layers
    model.joined_layers = row.architecture.joined_layers
    model.preprocess = row.preprocess
    return model


def checkpoint_file(name: str | os.PathLike[str], weights: str | os.PathLike[str] = "released") -> Path:
    """Return the file of a checkpoint: itself, or that of a run folder which its recipe chooses for scoring.

    Raises
    ------
    UsageError
        If there is none, or a file of weights is given beside it.
    CheckpointError
        If ``last.pt`` of the folder, which holds the recipe, cannot be read.
    """
    path = find_checkpoint(name, weights)
    if not path.is_dir():
        return path
    contents = read_checkpoint(path / LAST, remedy=ANOTHER)
    try:
        recipe: Any = json.loads(contents["recipe"]) if is_trained(contents) else {}  # type: ignore[index]
        choice = recipe["checkpoint"]["score"]
    except (KeyError, TypeError, ValueError):
        # Recipes of older checkpoints do not choose.
        choice = "last"
    if choice != "best":
        return path / LAST
    if not (path / BEST).is_file():
        raise UsageError(
            f"{path}: its recipe scores {BEST} (checkpoint.score: best), which is not there yet\n"
            f"name another checkpoint: {path / LAST}"
        )
    return path / BEST


@dataclass(frozen=True)
class TrainedNetwork:
    """The network of a checkpoint of ``mvkit train``.

    Attributes
    ----------
    path
        The file.
    recipe, step, epochs
        Name of the recipe, numbers of optimisation steps and of finished epochs.
    network
        Name of the architecture, as the recipe has it.
    architecture
        The network, its read-out as wide as it was trained.
    seed
        Of the run's random start.
    layers
        Layers scored by default.
    preprocess
        How images become input.
    contents
        Everything in the file.
    """

    path: Path
    recipe: str
    step: int
    epochs: int
    network: str
    architecture: Architecture
    seed: int
    layers: tuple[str, ...]
    preprocess: Preprocessing
    contents: Mapping[str, Any]

    @property
    def image_digests(self) -> tuple[str, ...]:
        """sha256 of each image that it was trained on, of recordings; else empty."""
        return tuple(self.contents.get("images", {}).get("image_digests", ()))

    def row(self, state: str) -> ModelRow:
        """Return its row of a table of models, named for its recipe and state: ``demo@step400``."""
        architecture = replace(self.architecture, layers=self.layers)
        return ModelRow(f"{self.recipe}@{state}", architecture, None, self.preprocess)

    def describe_checkpoint(self) -> str:
        """Say which one of its run it is: ``best.pt, epoch 2 of 3 (best validation_loss.top1: 0.41)``."""
        recipe, progress = json.loads(self.contents["recipe"]), self.contents["progress"]
        planned = recipe.get("train", {}).get("epochs")
        epoch = f"epoch {self.epochs}" + (f" of {planned}" if planned is not None else "")
        best, best_by = progress.get("best"), recipe.get("checkpoint", {}).get("best_by")
        if best_by is None:
            best_by = recipe["evaluate"][0]["name"] if recipe.get("evaluate") else "training loss"
        if self.path.name != BEST or not isinstance(best, float):
            return f"{self.path.name}, {epoch}"
        return f"{self.path.name}, {epoch} (best {best_by}: {best:.4g})"

    def provenance(self) -> WeightsProvenance:
        """Return where its weights come from, with all that :func:`read_trained_network` needs."""
        digest = self.contents.get("digest")
        return WeightsProvenance(
            self.architecture.name,
            source=f"mvkit train, recipe {self.recipe}, digest {digest or 'unknown'}, step {self.step}",
            citation=(PAPER,),
            checkpoint=self.describe_checkpoint(),
            training_run={
                "format": FORMAT,
                "version": VERSION,
                "architecture": self.network,
                "n_classes": self.contents["n_classes"],
                "recipe": self.contents["recipe"],
                "digest": digest,
                "seed": self.seed,
                "layers": list(self.layers),
                "preprocessing": self.preprocess.as_dict(),
                "images": {"image_digests": list(self.image_digests)},
                "progress": {"step": self.step, "epochs": self.epochs},
            },
        )


def is_trained(contents: object) -> bool:
    """Tell whether the contents of a checkpoint were written by ``mvkit train``."""
    return isinstance(contents, Mapping) and contents.get("format") == FORMAT


def read_trained_network(contents: object, path: Path) -> TrainedNetwork:
    """Read the description of its network from a checkpoint of ``mvkit train``.

    Parameters
    ----------
    contents
        What :func:`mvkit.models.checkpoints.read_checkpoint` returned.
    path
        The file.

    Raises
    ------
    CheckpointError
        If it was not written by ``mvkit train``, or by a newer one, or lacks what is needed.
    """
    if not isinstance(contents, Mapping) or not is_trained(contents):
        raise CheckpointError(
            f"{path}: not a checkpoint of mvkit train, so it does not say which network it is of\n"
            "name the network and give the file as its weights: "
            + wording(f"NAME --weights {path}", f'load_model(NAME, weights="{path}")')
        )
    version = contents.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, but this mvkit reads up to {VERSION}\n"
            "use the version of mvkit that wrote it, or a newer one"
        )
    try:
        network = str(contents["architecture"])
        if not is_model(network):
            raise CheckpointError(
                f"{path}: is of '{network}', which this mvkit does not have; use the one that wrote it"
            )
        architecture = find_model(network).architecture
        classes = contents["n_classes"]
        return TrainedNetwork(
            path=path,
            recipe=str(json.loads(contents["recipe"])["name"]),
            step=int(contents["progress"]["step"]),
            epochs=int(contents["progress"].get("epochs", 0)),
            network=network,
            architecture=with_classes(architecture, None if classes is None else int(classes)),
            seed=int(contents["seed"]),
            layers=tuple(map(str, contents["layers"])),
            preprocess=Preprocessing.from_dict(contents["preprocessing"]),
            contents=contents,
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing; {ANOTHER}") from error
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"{path}: the description of its network makes no sense ({error})\n{ANOTHER}"
        ) from error


def check_same_network(trained: TrainedNetwork, requested: ModelRow) -> None:
    """Check that a trained checkpoint is of the network that its weights are requested for.

    Raises
    ------
    CheckpointError
        If architectures or numbers of classes differ; the message explains how to use the checkpoint itself.
    """
    if trained.architecture == requested.architecture:
        return
    if find_model(trained.network).architecture == requested.architecture:
        n_classes = trained.contents["n_classes"]
        difference = f"its read-out has {n_classes} classes, that of '{requested.name}' another number"
    else:
        difference = f"it is of '{trained.network}' (recipe {trained.recipe}), not of '{requested.name}'"
    raise CheckpointError(
        f"{trained.path}: {difference}\ngive the file instead of a model's name: it says which network it is"
    )
