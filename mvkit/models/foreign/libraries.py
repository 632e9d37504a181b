"""Networks of torchvision and timm by name, with the preprocessing that the library declares."""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvkit.errors import FetchError, MissingPackageError, UsageError
from mvkit.models.foreign.network import seeded
from mvkit.models.foreign.options import IMAGENET_224
from mvkit.models.foreign.preparing import ForeignPreprocessing
from mvkit.naming import suggest
from mvkit.paths import is_offline

logger = logging.getLogger(__name__)

#: What asks for the library's own choice of pretrained weights.
_PRETRAINED = ("DEFAULT", "pretrained")

#: Made network, and how images become its input.
Made = tuple[nn.Module, ForeignPreprocessing]


def build_torchvision(name: str, weights: str, seed: int | None) -> Made:
    """Build a network of torchvision.

    Parameters
    ----------
    name
        As ``torchvision.models.list_models()`` gives it.
    weights
        "random", or the name of an entry of the model's weights (``DEFAULT``, ``IMAGENET1K_V1``).
    seed
        Of random weights.

    Raises
    ------
    UsageError
        If the model or its weights are unknown.
    FetchError
        If pretrained weights are not on this machine and cannot be downloaded.
    """
    from torchvision import models

    if name not in models.list_models():
        raise UsageError(f"torchvision has no model '{name}'{suggest(name, models.list_models())}")
    choices = models.get_model_weights(name)
    declared = next((row for row in choices if row.name == "DEFAULT"), getattr(choices, "DEFAULT", None))
    if weights == "random":
        # Detectors take a pretrained backbone, and so the network, unless told not to.
        builder = inspect.signature(models.get_model_builder(name))
        bare = {"weights_backbone": None} if "weights_backbone" in builder.parameters else {}
        with _quiet():
            network = seeded(lambda: models.get_model(name, weights=None, **bare), seed)
        return network, _declared_by_torchvision(declared)
    entry = weights.rpartition(".")[2]
    if entry not in choices.__members__:
        valid = ["random", "DEFAULT", *(row.name for row in choices)]
        raise UsageError(
            f"torchvision:{name} has no weights '{weights}'{suggest(weights, valid)}\n"
            f"valid: {', '.join(dict.fromkeys(valid))}, or a file"
        )
    chosen = choices[entry]
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
    advice = f"download {chosen.url} elsewhere and give --weights FILE, or --weights random"
    with _downloading(f"torchvision:{name}", advice, is_here=place.is_file()), _quiet():
        return models.get_model(name, weights=chosen), _declared_by_torchvision(chosen)


def build_timm(name: str, weights: str, seed: int | None) -> Made:
    """Build a network of timm.

    Parameters
    ----------
    name
        As ``timm.list_models()`` gives it, with or without the tag of pretrained weights.
    weights
        "random", or ``DEFAULT`` for the pretrained weights that the name stands for.
    seed
        Of random weights.

    Raises
    ------
    MissingPackageError
        If timm is not installed.
    UsageError
        If the model or its weights are unknown.
    FetchError
        If pretrained weights cannot be downloaded.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            f"timm:{name} needs timm, which is not installed ({error}): pip install 'mvkit[timm]'"
        ) from None
    resolve: Any = importlib.import_module("timm.data").resolve_model_data_config
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'{suggest(name, timm.list_models())}")
    if weights == "random":
        with _quiet():
            network = seeded(lambda: timm.create_model(name, pretrained=False), seed)
    elif weights in _PRETRAINED:
        advice = "download them elsewhere and give --weights FILE, or --weights random"
        with _downloading(f"timm:{name}", advice, is_here=False), _quiet():
            network = timm.create_model(name, pretrained=True)
    else:
        raise UsageError(f"timm:{name} has no weights '{weights}'; valid: random, DEFAULT, or a file")
    return network, _declared_by_timm(resolve(network))


def _declared_by_torchvision(weights: Any) -> ForeignPreprocessing:
    """Read the transforms of an entry of torchvision's weights; those of no images' are the usual ones."""
    transforms: Callable[..., Any] | None = getattr(weights, "transforms", None)
    steps = transforms() if transforms is not None else None
    resize, crop = getattr(steps, "resize_size", None), getattr(steps, "crop_size", None)
    side = crop or resize
    mean, std = getattr(steps, "mean", None), getattr(steps, "std", None)
    if not side or not mean or not std:
        return IMAGENET_224
    return ForeignPreprocessing(
        resize_px=(resize or side)[0],
        crop_px=side[0],
        input_px=None,
        mean=_three(mean),
        std=_three(std),
        interpolation=getattr(getattr(steps, "interpolation", None), "value", "bilinear"),
    )


def _declared_by_timm(config: dict[str, Any]) -> ForeignPreprocessing:
    side = int(config["input_size"][-1])
    return ForeignPreprocessing(
        # As timm's own evaluation: the crop is this part of the resized image.
        resize_px=int(side / float(config["crop_pct"])),
        crop_px=side,
        input_px=None,
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        interpolation=str(config["interpolation"]),
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    """Return values for three channels; one stands for all."""
    red, green, blue = map(float, [*values] * 3 if len(values) == 1 else values)
    return red, green, blue


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings of libraries about their own defaults and future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _downloading(model: str, advice: str, *, is_here: bool) -> Iterator[None]:
    if is_offline() and not is_here:
        raise FetchError(
            f"{model}: pretrained weights would have to be downloaded, but MVKIT_OFFLINE is set\n{advice}"
        )
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FetchError(
            f"{model}: pretrained weights cannot be had ({reason[:200]})\nwithout the network: {advice}"
        ) from error
