"""From the name of a model from elsewhere to a model with weights, layers and preprocessing."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from torch import nn

from mvkit.errors import UsageError, printable
from mvkit.models.foreign.factories import make_network
from mvkit.models.foreign.libraries import (
    FileWeights,
    build_timm,
    build_torchvision,
    is_timm_network,
    timm_input,
)
from mvkit.models.foreign.names import ForeignName
from mvkit.models.foreign.network import ForeignModel
from mvkit.models.foreign.options import IMAGENET_224, InputOptions
from mvkit.models.foreign.preparing import UserPreprocessing, as_preprocessing
from mvkit.models.foreign.weights import fill_foreign, refuse_meta
from mvkit.models.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

#: What a weights argument says that is no file: mvkit's default, and random weights.
_OWN = "released"
_RANDOM = "random"

_FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".tar", ".bin")

_LIBRARIES = {"torchvision": build_torchvision, "timm": build_timm}


def load_foreign(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    """Build a model from elsewhere.

    Parameters
    ----------
    name
        From :func:`mvkit.models.foreign.names.parse_foreign`.
    weights
        Of torchvision and timm: "random", the library's name of pretrained weights (``DEFAULT``), or a file.
        Of a user's function: a file; "released" and "random" both mean as the function makes it.
    seed
        Of random weights; None: 0.
    options
        Preprocessing that wins over what is declared.

    Returns
    -------
    ForeignModel
        In eval mode, on the CPU; ``weights_id`` is the sha256 of its state.

    Raises
    ------
    UsageError
        If the name, the weights or an option do not exist or do not go together.
    CheckpointError
        If a file cannot be read or does not fit.
    UserCodeError
        If a user's own code fails.
    """
    if name.kind in _LIBRARIES:
        model = _of_library(name, weights, seed, options)
    else:
        model = _of_user(name, weights, seed, options)
    return model.eval()


def declared_layers(module: object) -> tuple[str, ...] | None:
    """Return the layers that a module declares to be scored; None if its ``layers`` is something else."""
    layers = getattr(module, "layers", None)
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, str) for layer in layers):
        return None
    return tuple(layers)


def _of_user(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    network, declared = make_network(name, seed)
    if weights not in (_OWN, _RANDOM):
        fill_foreign(network, Path(weights).expanduser(), name.shown)
    refuse_meta(network, name.shown)
    preprocess = _user_preprocess(network, declared, name, options)
    return ForeignModel(network, name.shown, declared_layers(declared) or (), preprocess)


def _of_library(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    if weights == _OWN:
        raise UsageError(
            f"{name.shown}: say which weights: --weights random, --weights DEFAULT (the library's pretrained "
            "ones, which it downloads), or --weights FILE; in Python load_model(name, weights=...)"
        )
    network, declared = _LIBRARIES[name.kind](name.inside, _file_or_name(weights), seed)
    return ForeignModel(network, name.shown, (), _changed(declared, name, options))


def _file_or_name(weights: str | os.PathLike[str]) -> str | FileWeights:
    """Read what stands for a library's weights: their name, FILE, or ENTRY=FILE."""
    path = Path(weights).expanduser()
    if isinstance(weights, str) and not path.is_file():
        entry, equals, file = weights.partition("=")
        if equals and os.sep not in entry and is_file_name(file):
            return FileWeights(Path(file).expanduser(), entry)
    return FileWeights(path) if is_file_name(weights) else str(weights)


def is_file_name(weights: str | os.PathLike[str]) -> bool:
    """Tell a file of weights from the name of weights in a library."""
    path = Path(weights).expanduser()
    return (
        not isinstance(weights, str) or path.suffix in _FILE_SUFFIXES or os.sep in weights or path.is_file()
    )


def _user_preprocess(
    network: nn.Module, declared: Any, name: ForeignName, options: InputOptions
) -> Preprocessing | UserPreprocessing:
    """Return what a user's network declares: its ``.preprocess``, or timm's data configuration."""
    own = getattr(declared, "preprocess", None)
    if own is not None:
        return _changed(as_preprocessing(own, name.shown), name, options)
    if is_timm_network(network):
        return _changed(timm_input(network, name.shown), name, options)
    return _undeclared(name, options)


def _changed(
    declared: Preprocessing | UserPreprocessing, name: ForeignName, options: InputOptions
) -> Preprocessing | UserPreprocessing:
    if isinstance(declared, Preprocessing):
        return options.applied_to(declared)
    options.refuse_any(f"{name.shown} brings a .preprocess function of its own")
    return declared


def _undeclared(name: ForeignName, options: InputOptions) -> Preprocessing:
    """Return the usual preprocessing where a network declares none, and say so."""
    chosen = options.applied_to(IMAGENET_224)
    if not {"--input-size", "--mean", "--std"} <= set(options.given):
        logger.warning(
            "%s declares no preprocessing: images as for ImageNet (resize %s, crop %s, mean %s, std %s); "
            "--input-size, --mean, --std, .preprocess change it",
            printable(name.shown),
            chosen.resize_px,
            chosen.crop_px,
            ",".join(f"{value:g}" for value in chosen.mean),
            ",".join(f"{value:g}" for value in chosen.std),
        )
    return chosen
