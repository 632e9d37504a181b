"""List what a network offers: every layer that can be tapped, with its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mvkit.errors import UsageError
from mvkit.features.featureset import LayerInfo
from mvkit.features.inputs import network_inputs
from mvkit.features.modes import evaluating, floating_dtype, parse_device
from mvkit.features.recording import record_calls
from mvkit.features.stimuli import open_stimuli
from mvkit.features.tapping import (
    default_layers,
    layers_to_record,
    name_calls,
    problem_with,
    published_layers,
    tappable_layers,
)
from mvkit.models.foreign.wrappers import unwrapped


def list_layers(
    model: nn.Module,
    images: object | None = None,
    layers: str | Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> tuple[LayerInfo, ...]:
    """List every layer that can be tapped, with its shape for one image.

    Parameters
    ----------
    model
        The network.
    images
        As for :func:`extract`; the first image is shown. None shows a black image, to models with
        ``.preprocess``.
    layers
        Names or patterns; None for every layer. A layer that runs several times is listed with all its calls.
    device
        Where to compute.

    Returns
    -------
    tuple of LayerInfo
        In the model's order; ``is_default`` and ``is_published`` say in which of its lists one is. Modules
        that never run, or return nothing that has one row per image, are left out.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or ``images`` is None and the network has no ``.preprocess``.
    DataError
        If the image cannot be read.
    """
    return survey_layers(model, images, layers, device=device).layers


@dataclass(frozen=True)
class LayerSurvey:
    """What a network offers, and what it does not.

    Attributes
    ----------
    layers
        Layers that can be tapped.
    left_out
        Other modules -> why they cannot.
    """

    layers: tuple[LayerInfo, ...]
    left_out: Mapping[str, str]


def survey_layers(
    model: nn.Module,
    images: object | None = None,
    layers: str | Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> LayerSurvey:
    """Show one image to a network and note what can be tapped and what cannot.

    Parameters and errors are those of :func:`list_layers`.
    """
    model = unwrapped(model)
    if images is None:
        if not hasattr(model, "preprocess"):
            raise UsageError(
                "this network has no preprocessing: give list_layers one prepared input (1, c, h, w)"
            )
        images = np.zeros((1, 64, 64), np.uint8)
    stimuli = open_stimuli(images)
    place = parse_device(device)
    paths = tappable_layers(model)
    if layers is not None:
        paths = {layer.name: paths[layer.name] for layer in layers_to_record(model, layers)}
    with evaluating(model, place):
        inputs = network_inputs(model, stimuli, stimuli.read(0, 1)).to(place, floating_dtype(model))
        calls = record_calls(model, inputs, dict.fromkeys(paths.values()))
    default, published = set(default_layers(model)), set(published_layers(model))
    found, left_out = [], {}
    for name, path in paths.items():
        values = dict(name_calls(name, calls[path]))
        if not values:
            left_out[name] = "returns no tensor" if calls[path] else "the forward pass never calls it"
        for full_name, value in values.items():
            problem = problem_with(value, 1)
            if problem is None:
                shape = tuple(value.shape[1:])
                found.append(LayerInfo(full_name, shape, name in default, name in published))
            else:
                left_out[full_name] = f"its output {problem}"
    return LayerSurvey(tuple(found), left_out)
