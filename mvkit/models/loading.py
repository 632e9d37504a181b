"""From a name, a checkpoint or a run's folder to a network with weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mvkit.errors import CheckpointError, UsageError, suggest
from mvkit.models.base import NO_WEIGHTS, VisionModel, WeightsOrigin
from mvkit.models.checkpoints import fill_weights, read_checkpoint
from mvkit.models.external import load_foreign, parse_foreign
from mvkit.models.mousenet import ConnectomeModel
from mvkit.models.plain import PlainModel, ResidualModel, build_baseline
from mvkit.models.preprocessing import InputOptions, Preprocessing
from mvkit.models.registry import (
    PAPER,
    RELEASED,
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
from mvkit.paths import checkpoint_path


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


#: Value of a checkpoint's key "format", and the newest version of the format that is read here.
FORMAT = "mvkit-checkpoint"
VERSION = 1

#: The newest checkpoint of a run and that of its best epoch, in its folder.
LAST, BEST = "last.pt", "best.pt"

#: What to do about a damaged checkpoint of a training run.
ANOTHER = "take another checkpoint of the run (best.pt, epoch_*.pt), or train it again"

_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors")


@dataclass(frozen=True)
class TrainedNetwork:
    """What a checkpoint of ``mvkit train`` says of its network.

    Attributes
    ----------
    path
        The file.
    recipe, step, epochs
        Name of the recipe, numbers of optimisation steps and of finished epochs.
    row
        The architecture's row of the table.
    architecture
        The network, its read-out as wide as it was trained.
    seed
        That the run's random start was drawn from.
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
    row: ModelRow
    architecture: Architecture
    seed: int
    layers: tuple[str, ...]
    preprocess: Preprocessing
    contents: Mapping[str, Any]

    def finish(self, model: VisionModel, *, trained: bool) -> VisionModel:
        """Give a network of this architecture its name (``demo@step400``), layers and preprocessing."""
        model.name = f"{self.recipe}@{f'step{self.step}' if trained else 'start'}"
        model.published_layers = self.architecture.published_layers
        model.layers = self.layers
        model.preprocess = self.preprocess
        return model.eval()

    def describe_checkpoint(self) -> str:
        """Say which one of its run it is: ``best.pt, epoch 2 of 3 (best validation_loss.top1: 0.41)``."""
        recipe, progress = json.loads(self.contents["recipe"]), self.contents["progress"]
        planned = recipe.get("train", {}).get("epochs")
        epoch = f"epoch {self.epochs}" + (f" of {planned}" if planned is not None else "")
        best, best_by = progress.get("best"), recipe.get("checkpoint", {}).get("best_by")
        if best_by is None:
            best_by = recipe["evaluate"][0]["name"] if recipe.get("evaluate") else "training loss"
        chosen = ""
        if self.path.name == BEST and isinstance(best, float):
            chosen = f" (best {best_by}: {best:.4g})"
        return f"{self.path.name}, {epoch}{chosen}"

    def origin(self) -> WeightsOrigin:
        """Return what the checkpoint says of its weights, as far as :func:`describe_trained` needs it."""
        digest = self.contents.get("digest")
        return WeightsOrigin(
            self.row.architecture.name,
            source=f"mvkit train, recipe {self.recipe}, digest {digest or 'unknown'}, step {self.step}",
            citation=(PAPER,),
            checkpoint=self.describe_checkpoint(),
            training_run={
                "format": FORMAT,
                "version": VERSION,
                "architecture": self.row.name,
                "n_classes": self.contents["n_classes"],
                "recipe": self.contents["recipe"],
                "digest": digest,
                "seed": self.seed,
                "layers": list(self.layers),
                "preprocessing": self.preprocess.as_dict(),
                "progress": {"step": self.step, "epochs": self.epochs},
            },
        )


def is_place(name: str | os.PathLike[str]) -> bool:
    """Tell whether a model is given by a place and not by its name.

    A path object is; text is if it looks like a path, or is no model's name
    but that of a file or run folder.
    """
    if not isinstance(name, str):
        return True
    if os.sep in name or name.endswith(_SUFFIXES) or name.startswith(("~", ".")):
        return True
    return not is_model(name) and (Path(name).is_file() or (Path(name) / LAST).is_file())


def trained_file(place: str | os.PathLike[str]) -> Path:
    """Return the checkpoint at a place: the file, or that of a run folder which its recipe says to score.

    Raises
    ------
    UsageError
        If there is none.
    CheckpointError
        If ``last.pt`` of the folder, which holds the recipe, cannot be read.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        if not (path / LAST).is_file():
            raise UsageError(f"{path}: no {LAST} in this folder; is it the folder of a training run?")
        return path / _scored_checkpoint(path)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; give a checkpoint of mvkit train, a run folder, or a model's name"
        )
    return path


def _scored_checkpoint(folder: Path) -> str:
    """Return the name of the checkpoint that stands for a run: ``checkpoint.score`` of its recipe."""
    contents = read_checkpoint(folder / LAST, remedy=ANOTHER)
    if not isinstance(contents, Mapping) or not is_trained(contents):
        return LAST
    try:
        chosen = json.loads(contents["recipe"])["checkpoint"]["score"]
    except (KeyError, TypeError, ValueError):
        # Checkpoints of before recipes said so.
        return LAST
    if chosen != "best":
        return LAST
    if not (folder / BEST).is_file():
        raise UsageError(
            f"{folder}: its recipe scores {BEST} (checkpoint.score: best), which is not there yet\n"
            f"name another checkpoint: {folder / LAST}"
        )
    return BEST


def is_trained(contents: object) -> bool:
    """Tell whether the contents of a checkpoint were written by ``mvkit train``."""
    return isinstance(contents, Mapping) and contents.get("format") == FORMAT


def describe_trained(contents: object, path: Path) -> TrainedNetwork:
    """Read what a checkpoint of ``mvkit train`` says of its network.

    Parameters
    ----------
    contents
        What :func:`mvkit.models.checkpoints.read_checkpoint` returned.
    path
        The file.

    Raises
    ------
    CheckpointError
        If it was not written by ``mvkit train``, or by a newer one, or does not say all that is needed.
    """
    if not isinstance(contents, Mapping) or not is_trained(contents):
        raise CheckpointError(
            f"{path}: not a checkpoint of mvkit train, so it does not say which network it is of\n"
            f"name the network and give the file as its weights: NAME --weights {path}"
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
        row = find_model(network)
        classes = contents["n_classes"]
        return TrainedNetwork(
            path=path,
            recipe=str(json.loads(contents["recipe"])["name"]),
            step=int(contents["progress"]["step"]),
            epochs=int(contents["progress"].get("epochs", 0)),
            row=row,
            architecture=with_classes(row.architecture, None if classes is None else int(classes)),
            seed=int(contents["seed"]),
            layers=tuple(map(str, contents["layers"])),
            preprocess=Preprocessing.from_dict(contents["preprocessing"]),
            contents=contents,
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: does not say {error}; {ANOTHER}") from error
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"{path}: what it says of its network makes no sense ({error})\n{ANOTHER}"
        ) from error


def refuse_other_network(trained: TrainedNetwork, wanted: ModelRow) -> None:
    """Refuse the weights of a trained checkpoint for another network than they are of.

    Raises
    ------
    CheckpointError
        If architectures or numbers of classes differ; says how to use the checkpoint itself.
    """
    if trained.architecture == wanted.architecture:
        return
    if trained.row.architecture == wanted.architecture:
        wide = trained.contents["n_classes"]
        difference = f"its read-out has {wide} classes, that of '{wanted.name}' another number"
    else:
        difference = f"it is of '{trained.row.name}' (recipe {trained.recipe}), not of '{wanted.name}'"
    raise CheckpointError(
        f"{trained.path}: {difference}\ngive the file instead of a model's name: it says which network it is"
    )


#: Of published weights; neither their files nor the paper state one.
UNSTATED_LICENCE = "not stated with the published files: ask their authors before passing them on"


def released_origin(row: ModelRow) -> WeightsOrigin:
    """Describe published weights, or a baseline, which has none."""
    if row.released is None:
        return WeightsOrigin(row.architecture.name)
    return WeightsOrigin(
        row.architecture.name,
        source=row.released.url,
        citation=row.released.citation,
        licence=UNSTATED_LICENCE,
    )


def random_origin(architecture: str, seed: int) -> WeightsOrigin:
    """Describe weights as drawn for a new network."""
    return WeightsOrigin(architecture, source=f"random, seed {seed}", citation=(PAPER,))


def foreign_origin(name: str, weights: str | os.PathLike[str], seed: int) -> WeightsOrigin:
    """Describe the weights of a model from elsewhere, called ``name``."""
    entry, equals, file = os.fspath(weights).partition("=")
    if Path(weights).is_file():
        source = f"file {Path(weights).name}"
    elif equals and Path(file).is_file():
        source = f"file {Path(file).name}, settings of {entry}"
    elif weights == "random":
        source = f"random, seed {seed}"
    else:
        source = name if weights == "released" else f"{name}, weights {weights}"
    return WeightsOrigin(name, source=source)


def file_origin(architecture: str, path: Path) -> WeightsOrigin:
    """Describe weights of a file that does not say where it comes from."""
    return WeightsOrigin(architecture, source=f"file {path.name}", citation=(PAPER,))


_CHOICES = ("released", "random")


def load_model(
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "released",
    seed: int | None = None,
    *,
    home: Path | None = None,
    input_size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    grey: bool | None = None,
) -> VisionModel:
    """Build a model and give it weights.

    Parameters
    ----------
    name
        A released model, an architecture (the reference's long name), or a
        baseline; see :func:`mvkit.list_models`. Or a checkpoint that ``mvkit
        train`` wrote, by its path or that of the run folder (the checkpoint that its recipe
        names: ``checkpoint.score``). Or a model
        from elsewhere: ``torchvision:NAME``, ``timm:NAME``, a function of the user's own that
        makes an ``nn.Module`` (``package.module:function``, ``path/to/file.py:function``; its
        code is run).
    weights
        "released": the published checkpoint, from where ``mvkit fetch
        checkpoints`` put it (of a trained checkpoint: its own weights); "random": as drawn
        for a new network; otherwise the path of a checkpoint. Baselines have none; for them
        both words mean the same. torchvision and timm: "random", "DEFAULT" (what the library
        downloads), an entry of torchvision's weights, or a file, also ``.safetensors``
        (``ENTRY=FILE`` where it is not plain which entry's preprocessing belongs to it); a user's
        function: a file, or else as the function makes it.
    seed
        Of random weights; None: 0, or of a trained checkpoint the seed its run started from.
        Neither the seed nor the drawing touches torch's global generator.
    home
        Directory of mvkit's files; by default MVKIT_HOME or the platform's.
    input_size
        Side of the input in pixels, instead of what the network was trained with or its library
        declares; the part of the image that is seen stays the same.
    mean, std, grey
        Preprocessing of a model from elsewhere, instead of what its library declares: one number or
        three for values scaled to [0, 1], and whether colour becomes grey first.

    Returns
    -------
    VisionModel
        In eval mode, on the CPU, float32. ``name``, ``layers``, ``preprocess``
        and ``weights_id`` say what it is; ``tap_points()`` which layers it has.

    Raises
    ------
    UsageError
        If the name is unknown, the place does not exist, or ``weights`` is neither a choice nor a file.
    CheckpointError
        If there is no such checkpoint, or it cannot be read or does not fit.
    UserCodeError
        If the user's own code fails.
    """
    options = InputOptions(input_size, mean, std, grey)
    foreign = parse_foreign(name)
    if foreign is not None:
        other = load_foreign(foreign, weights, seed, options)
        other.origin = foreign_origin(foreign.shown, weights, seed or 0)
        return other
    options.only_size(f"{os.fspath(name)} has its own mean, deviation and colours")
    return _at_requested_size(_load_own(name, weights, seed, home), options)


def _at_requested_size(model: VisionModel, options: InputOptions) -> VisionModel:
    """Let a network of mvkit's see images of another size than it was trained on, where that is asked for."""
    if options.input_size is None:
        return model
    if model.weights_id == NO_WEIGHTS:
        raise UsageError(f"{model.name} is defined for its own size of images: leave out --input-size")
    own = model.preprocess
    model.preprocess = options.applied_to(own)
    model.input_was_px = own.input_px
    model.check_input_side(options.input_size)
    return model


def _load_own(
    name: str | os.PathLike[str], weights: str | os.PathLike[str], seed: int | None, home: Path | None
) -> VisionModel:
    if is_place(name):
        return _load_trained(name, weights, seed)
    row = find_model(str(name))
    if isinstance(row.architecture.blueprint, Baseline):
        if weights not in _CHOICES:
            raise UsageError(f"'{name}' has no weights to load: leave out {weights}")
        return _finish(build(row.architecture.blueprint), row)
    if weights == "random":
        model = _finish(build_random(row.architecture, seed or 0), row)
        model.weights_id = f"random:seed={seed or 0}"
        model.origin = random_origin(row.architecture.name, seed or 0)
        return model
    path = _released_path(row, home) if weights == "released" else _given_path(weights)
    contents = read_checkpoint(path)
    origin = released_origin(row) if weights == "released" else file_origin(row.architecture.name, path)
    if is_trained(contents):
        trained = describe_trained(contents, path)
        refuse_other_network(trained, row)
        origin = trained.origin()
    model = _finish(build_empty(row.architecture), row)
    model.weights_id = fill_weights(model, contents, path)
    model.origin = origin
    return model


def _load_trained(
    place: str | os.PathLike[str], weights: str | os.PathLike[str], seed: int | None
) -> VisionModel:
    if weights not in _CHOICES:
        raise UsageError(
            f"{place} has weights of its own: leave out {weights}, or name the network instead of the file"
        )
    path = trained_file(place)
    trained = describe_trained(read_checkpoint(path, remedy=ANOTHER), path)
    if weights == "random":
        chosen = trained.seed if seed is None else seed
        model = trained.finish(build_random(trained.architecture, chosen), trained=False)
        model.weights_id = f"random:seed={chosen}"
        model.origin = random_origin(trained.row.architecture.name, chosen)
        return model
    model = trained.finish(build_empty(trained.architecture), trained=True)
    model.weights_id = fill_weights(model, trained.contents, path)
    model.origin = trained.origin()
    return model


def build_random(architecture: Architecture, seed: int) -> VisionModel:
    """Build a network with weights drawn from ``seed``; torch's global generator is left as it was."""
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(architecture.blueprint)


def build_empty(architecture: Architecture) -> VisionModel:
    """Build a network whose weights are still to be filled in, without the time to draw them."""
    with torch.device("meta"):
        model = build(architecture.blueprint)
    return model.to_empty(device="cpu")


def _finish(model: VisionModel, row: ModelRow) -> VisionModel:
    model.name = row.name
    model.published_layers = row.architecture.published_layers
    model.layers = row.architecture.layers
    model.preprocess = row.preprocess
    return model.eval()


def _released_path(row: ModelRow, home: Path | None) -> Path:
    if row.released is None:
        raise CheckpointError(
            f"no released weights for '{row.name}'; released: {', '.join(RELEASED)}\n"
            f"use random weights (--weights random) or a checkpoint of your own (--weights PATH)"
        )
    path = checkpoint_path(row.released.name, home)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: the released weights of '{row.released.name}' are not on this machine\n"
            f"run: mvkit fetch checkpoints {row.released.name}"
        )
    return path


def _given_path(weights: str | os.PathLike[str]) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if isinstance(weights, str) and path.name == weights and not path.suffix:
        raise UsageError(
            f"weights '{weights}' is neither {' nor '.join(_CHOICES)} nor a file{suggest(weights, _CHOICES)}"
        )
    raise CheckpointError(
        f"{path}: no such file; give the path of a checkpoint, or one of: {', '.join(_CHOICES)}"
    )


def build_for_training(
    architecture: str,
    *,
    n_classes: int | None,
    seed: int,
    weights: str | os.PathLike[str] = "random",
    home: Path | None = None,
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

    Returns
    -------
    VisionModel
        In training mode, on the CPU, float32; ``name``, ``layers``, ``preprocess`` (as the weights were
        trained) and ``weights_id`` are set as by ``load_model``.

    Raises
    ------
    UsageError
        If the name is unknown, or stands for a fixed transformation without
        weights; or if trained weights are asked for with another number of classes than they have.
    CheckpointError
        If there is no such checkpoint, or it cannot be read or does not fit.
    """
    row = find_model(architecture)
    if isinstance(row.architecture.blueprint, Baseline):
        raise UsageError(f"'{architecture}' has no weights to train; name a network, see mvkit.list_models()")
    row = replace(row, architecture=with_classes(row.architecture, n_classes))
    if weights == "random":
        model = build_random(row.architecture, seed)
        model.preprocess = row.preprocess
        model.weights_id = f"random:seed={seed}"
    elif weights == "released":
        if row.architecture != find_model(architecture).architecture:
            raise UsageError(f"'{architecture}' was released with its own read-out, not {n_classes} classes")
        return load_model(architecture, home=home).train()
    else:
        model = _with_trained_weights(row, weights)
    model.name = row.name
    model.published_layers = row.architecture.published_layers
    model.layers = row.architecture.layers
    return model.train()


def _with_trained_weights(row: ModelRow, weights: str | os.PathLike[str]) -> VisionModel:
    path = trained_file(weights)
    contents = read_checkpoint(path)
    model = build_empty(row.architecture)
    model.preprocess = row.preprocess
    if is_trained(contents):
        trained = describe_trained(contents, path)
        refuse_other_network(trained, row)
        model.preprocess = trained.preprocess
    model.weights_id = fill_weights(model, contents, path)
    return model
