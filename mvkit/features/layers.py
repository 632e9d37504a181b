"""Layers of a network: which there are, their shapes, and recording them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mvkit.errors import UsageError, wording
from mvkit.features.feature_set import LayerInfo
from mvkit.features.hooks import CallValue, evaluation_mode, floating_dtype, parse_device, record_calls
from mvkit.features.stimuli import InputReader, open_stimuli
from mvkit.models.base import FINAL, VisionModel, declared_names, missing_weights
from mvkit.models.external import unwrap
from mvkit.models.names import LISTING_COMMAND, PUBLISHED, RequestedLayer, requested_layers, split_joined
from mvkit.models.registry import JoinedLayer

logger = logging.getLogger(__name__)

#: How many layers a message lists at most.
_SHOWN = 12


def tap(model: nn.Module, inputs: Tensor, layers: str | Sequence[str]) -> dict[str, Tensor]:
    """Run one batch through a network and return the values of some layers.

    Parameters
    ----------
    model
        The network, already in the mode (train or eval) and on the device it should run in.
    inputs
        Batch of inputs, (n_images, ...), as the network takes them.
    layers
        Names or patterns, see :func:`layers_to_record`.

    Returns
    -------
    dict
        Layer name -> value right after that layer, (n_images, ...), on the CPU, in the network's dtype.

    Raises
    ------
    UsageError
        If a pattern matches nothing or a layer cannot be recorded.
    """
    model = unwrap(model)
    return LayerTap(model, layers_to_record(model, layers))(inputs)


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
        In the model's order; ``is_default`` and ``is_published`` tell which of its lists it is in. Modules
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
    """Layers of a network, and modules that are none.

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
    """Show one image to a network and list what can be tapped and what cannot.

    Parameters and errors are those of :func:`list_layers`.
    """
    model = unwrap(model)
    if images is None:
        if not hasattr(model, "preprocess"):
            raise UsageError(
                "this network has no preprocessing: give list_layers one prepared input (1, c, h, w)"
            )
        images = np.zeros((1, 64, 64), np.uint8)
    stimuli = open_stimuli(images)
    compute_on = parse_device(device)
    paths = tappable_layers(model)
    if layers is not None:
        paths = {layer.name: paths[layer.name] for layer in layers_to_record(model, layers)}
    with evaluation_mode(model, compute_on):
        inputs = InputReader(model, stimuli).read(0, 1).to(compute_on, floating_dtype(model))
        calls = record_calls(model, inputs, dict.fromkeys(paths.values()))
    default, published = set(default_layers(model)), set(published_layers(model))
    infos, left_out, lacking = [], {}, missing_weights(model)
    for name, path in paths.items():
        values = dict(name_calls(name, calls[path]))
        if not values:
            never = lacking or "the forward pass never calls it"
            left_out[name] = "returns no tensor" if calls[path] else never
        for full_name, value in values.items():
            problem = problem_with(value, 1)
            if problem is None:
                shape = tuple(value.shape[1:])
                infos.append(LayerInfo(full_name, shape, name in default, name in published))
            else:
                left_out[full_name] = f"its output {problem}"
    return LayerSurvey(tuple(infos), left_out)


def tappable_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers that can be tapped: layer name -> module path, in the model's order.

    A model with a ``tap_points()`` method (all of mvkit's) names its own; those in
    its ``layers`` run once in a pass. Any other module offers every
    submodule under its path, and its output (empty path) as "final".

    Parameters
    ----------
    model
        Any network.
    """
    own = getattr(model, "tap_points", None)
    if callable(own):
        return dict(own())
    containers = (nn.ModuleList, nn.ModuleDict)
    inner = {
        path: path
        for path, module in model.named_modules()
        # Transforms of pictures are no part of the forward pass, even where they are modules.
        if path and not isinstance(module, containers) and path.partition(".")[0] != "preprocess"
    }
    return inner if FINAL in inner else {**inner, FINAL: ""}


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the layers that a model declares to be scored; none if its ``layers`` is something else."""
    return declared_names(model, "layers")


def published_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the layers that the reference scored (``published``), mostly the default ones."""
    return declared_names(model, "published_layers") or default_layers(model)


def layers_to_record(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[RequestedLayer, ...]:
    """Resolve the layers asked for, or those that the model declares if none are.

    Parameters
    ----------
    model
        The network.
    layers
        Names or patterns, see :func:`mvkit.models.names.requested_layers`; among them ``"published"``
        stands for :func:`published_layers` (a layer of that very name is ``"re:published"``), and
        ``NAME=a+b`` for its parts (:func:`joined_layers`). None for :func:`default_layers`.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or the model has no list of layers where one is needed.
    """
    names = tappable_layers(model)
    asked = (layers,) if isinstance(layers, str) else layers
    listed = default_layers(model) if asked is None else published_layers(model)
    if not listed and (asked is None or PUBLISHED in asked):
        name = getattr(model, "name", "this network")
        known = list(names)
        half = _SHOWN // 2
        shown = known if len(known) <= _SHOWN else [*known[:half], "...", *known[-half:]]
        raise UsageError(
            f"{name} has no published list of layers: name some ({wording('--layers', 'layers=')})\n"
            f"valid ({len(known)}): {', '.join(shown)}; or patterns such as '*'; all: {LISTING_COMMAND}"
        )
    if asked is None:
        return requested_layers(listed, names)
    single, joined = split_joined(asked, names, declared_joined_layers(model))
    patterns = [layer for pattern in single for layer in (listed if pattern == PUBLISHED else (pattern,))]
    return requested_layers(patterns, names, joined)


def joined_layers(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[JoinedLayer, ...]:
    """Return the joined layers among those asked for, see :func:`mvkit.models.names.split_joined`.

    Parameters and errors are those of :func:`layers_to_record`, which returns their parts.
    """
    asked = (layers,) if isinstance(layers, str) else layers or ()
    return split_joined(asked, tappable_layers(model), declared_joined_layers(model))[1]


def declared_joined_layers(model: nn.Module) -> tuple[JoinedLayer, ...]:
    """Return the populations of several layers that a model of mvkit's declares; mostly none."""
    return model.joined_layers if isinstance(model, VisionModel) else ()


class LayerTap:
    """Records chosen layers, batch after batch, one forward pass each.

    The first pass finds out how often each layer runs, unless the model declares it; from then on a pass ends
    with the last requested layer.

    Parameters
    ----------
    model
        The network.
    requested
        Layers from :func:`mvkit.models.names.requested_layers`.
    """

    def __init__(self, model: nn.Module, requested: Sequence[RequestedLayer]) -> None:
        self._model = model
        self._requested = tuple(requested)
        self._paths = tappable_layers(model)
        self._needed = self._declared_calls()
        self._names: tuple[str, ...] | None = None
        #: Names of the values, without those that are only parts of joined layers; after the first pass.
        self.single: tuple[str, ...] = ()

    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return layer name -> value, (n_images, ...), on the CPU, in the model's order.

        A layer that runs several times in one pass gives ``name[0]``, ``name[1]``, ...; a tuple or dict gives
        ``name:0`` or ``name:key``.

        Raises
        ------
        UsageError
            If a layer never runs, returns no tensor, does not return one value per image, or runs a different
            number of times for different batches.
        """
        calls = record_calls(self._model, inputs, self._needed)
        values: dict[str, Tensor] = {}
        single: dict[str, None] = {}
        for layer in self._requested:
            try:
                own = calls[self._paths[layer.name]]
                if not own and (lacking := missing_weights(self._model)):
                    raise UsageError(
                        f"layer '{layer.name}' cannot be recorded: it needs weights, and {lacking}\n"
                        "name layers before these, or give a file that has them"
                    )
                named = _named_values(layer, own, len(inputs))
                values.update(named)
                if not layer.is_only_joined:
                    single.update(dict.fromkeys(named))
            except UsageError as error:
                if layer.is_named:
                    raise
                if self._names is None:
                    logger.warning("left out: %s", str(error).splitlines()[0])
        if not values:
            raise UsageError("none of the layers that the patterns match has anything to record")
        if self._names is None:
            self._names, self.single = tuple(values), tuple(single)
            self._needed = {path: count or len(calls[path]) for path, count in self._needed.items()}
        elif self._names != tuple(values):
            raise UsageError(
                f"layers differ between batches (first {', '.join(self._names)}; now {', '.join(values)}): "
                "the network takes different paths for different images"
            )
        return values

    def _declared_calls(self) -> dict[str, int | None]:
        # Listed layers of mvkit's own models run once per pass (a test runs over all of them), so even the
        # first pass can end early. Of other modules nothing is known before one pass has run to its end.
        runs_once = getattr(self._model, "layers_run_once", hasattr(self._model, "tap_points"))
        listed = (*default_layers(self._model), *published_layers(self._model))
        once = set(listed) if runs_once else set()
        needed: dict[str, int | None] = {}
        for layer in self._requested:
            path = self._paths[layer.name]
            count = layer.call + 1 if layer.call is not None else 1 if layer.name in once else None
            known = needed.get(path, 0)
            needed[path] = None if count is None or known is None else max(count, known)
        return needed


def problem_with(value: Tensor, n_images: int) -> str | None:
    """Return why a recorded value cannot become features; None if it can."""
    if value.is_complex():
        return "holds complex numbers"
    if value.ndim == 0 or len(value) != n_images:
        return f"has shape {tuple(value.shape)}, which is not one row for each of {n_images} image(s)"
    if value.numel() == 0:
        return f"is empty, of shape {tuple(value.shape)}"
    return None


def name_calls(layer: str, calls: Sequence[CallValue]) -> Iterator[tuple[str, Tensor]]:
    """Name every value of a layer: ``layer``, or ``layer[call]`` of several calls; ``:part`` in tuples."""
    for index, parts in enumerate(calls):
        base = layer if len(calls) == 1 else f"{layer}[{index}]"
        for part, value in parts.items():
            yield (f"{base}:{part}" if part else base), value


def _named_values(layer: RequestedLayer, calls: Sequence[CallValue], n_images: int) -> dict[str, Tensor]:
    if not calls:
        raise UsageError(
            f"layer '{layer.name}' exists but the forward pass never calls it\n"
            "only modules that run can be tapped, not operations called as functions (F.relu, +)"
        )
    if layer.call is not None:
        if layer.call >= len(calls):
            raise UsageError(
                f"layer '{layer.name}' runs {len(calls)} time(s) per pass: there is no call {layer.call}"
            )
        name, chosen = f"{layer.name}[{layer.call}]", calls[layer.call : layer.call + 1]
    else:
        name, chosen = layer.name, calls
    if layer.part is not None:
        chosen = [_only_part(layer, parts) for parts in chosen]
    values = dict(name_calls(name, chosen))
    if not values:
        raise UsageError(f"layer '{layer.name}' returns no tensor, so it has no features")
    for full_name, value in values.items():
        problem = problem_with(value, n_images)
        if problem:
            raise UsageError(f"layer '{full_name}' cannot be recorded: its output {problem}")
    return values


def _only_part(layer: RequestedLayer, parts: CallValue) -> CallValue:
    part = layer.part or ""
    if part not in parts:
        raise UsageError(
            f"layer '{layer.name}' has no part '{part}'; it returns "
            + (", ".join(name for name in parts if name) or "a single tensor")
        )
    return {part: parts[part]}
