"""From a name to a model with weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from mvkit.errors import CheckpointError, UsageError
from mvkit.models.base import NO_WEIGHTS, VisionModel
from mvkit.models.blueprints import Architecture, Baseline
from mvkit.models.building import build
from mvkit.models.checkpoint import fill_weights, read_checkpoint
from mvkit.models.foreign.loading import load_foreign
from mvkit.models.foreign.names import parse_foreign
from mvkit.models.foreign.options import InputOptions
from mvkit.models.origin import file_origin, foreign_origin, random_origin, released_origin
from mvkit.models.released import RELEASED, ModelRow, find_model
from mvkit.models.trained import (
    ANOTHER,
    describe_trained,
    is_place,
    is_trained,
    refuse_other_network,
    trained_file,
)
from mvkit.naming import suggest
from mvkit.paths import checkpoint_path

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
