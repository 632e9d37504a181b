"""The base class of models, with name, layers, preprocessing and provenance; digests of weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mvkit.errors import CheckpointError, UsageError
from mvkit.machine import is_forked_worker
from mvkit.models.preprocessing import IMAGENET_64, Preprocessing
from mvkit.models.registry import JoinedLayer
from mvkit.models.viewing import ViewingConditions

# Threads do not survive a fork: with more than one, torch would wait for its own forever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
if is_forked_worker():
    torch.set_num_threads(1)

#: Name under which a model's output can be tapped.
FINAL = "final"

#: Orders of the axes of a clip: frames, channels, height, width.
CLIP_AXES = ("TCHW", "CTHW")

#: Keys that a message lists at most.
_SHOWN = 5

#: ``weights_id`` of a model without weights.
NO_WEIGHTS = "none"


@dataclass(frozen=True)
class WeightsProvenance:
    """Where weights come from; fields that are not known are empty.

    Attributes
    ----------
    architecture
        The architecture's long name.
    source
        Address of the published file, the training run with its recipe's digest, the seed they were drawn
        with, or the name of the file they were read from.
    citation
        Papers to cite.
    licence
        Terms under which the weights may be passed on, where they are not the user's own.
    training_run
        Description of the network in a checkpoint of ``mvkit train``; empty for other weights.
    checkpoint
        The checkpoint of a training run in words: file, epoch, and by which evaluation it is the best.
    """

    architecture: str = ""
    source: str = ""
    citation: tuple[str, ...] = ()
    licence: str = ""
    training_run: Mapping[str, object] = field(default_factory=dict)
    checkpoint: str = ""


class VisionModel(nn.Module):
    """Base of all models; input float32 (n_images, 3, 64, 64) as made by ``preprocess``.

    Attributes
    ----------
    name
        The name it was loaded under.
    layers
        Layers scored by default, from input to output.
    published_layers
        Layers that the reference scored, where they are not the default ones; else empty.
    joined_layers
        Populations of several layers that the reference scored; mostly none.
    preprocess
        Turns uint8 images into the model's input.
    weights_id
        sha256 of the checkpoint file, "random:seed=N", or "none".
    provenance
        Where the weights come from.
    own_input_px
        Side of the input before ``input_size`` changed it; None: it was not changed.
    viewing
        Acuity, field of view and contrast by which images are changed before ``preprocess``; None: none.
    clip_frames, clip_axes
        Of a network that takes clips: number of frames, and ``"TCHW"`` or ``"CTHW"``; None: it takes images.
    layers_run_once
        Whether each of ``layers`` is known to run once in a forward pass.
    """

    layers_run_once: ClassVar[bool] = True

    name: str
    layers: tuple[str, ...]
    published_layers: tuple[str, ...]
    joined_layers: tuple[JoinedLayer, ...]
    preprocess: Preprocessing
    weights_id: str
    provenance: WeightsProvenance
    own_input_px: int | None
    viewing: ViewingConditions | None
    clip_frames: int | None
    clip_axes: str

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.layers = ()
        self.published_layers = ()
        self.joined_layers = ()
        self.preprocess = IMAGENET_64
        self.weights_id = NO_WEIGHTS
        self.provenance = WeightsProvenance()
        self.own_input_px = None
        self.viewing = None
        self.clip_frames = None
        self.clip_axes = CLIP_AXES[0]

    @torch.no_grad()
    def check_input_side(self, side_px: int) -> None:
        """Show a blank image of this side, in eval mode.

        Parameters
        ----------
        side_px
            In pixels.

        Raises
        ------
        UsageError
            If it is too small (or large) for the network.
        """
        modes = {module: module.training for module in self.modules()}
        try:
            self.eval()(torch.zeros(1, 3, side_px, side_px))
        except MissingWeightsError:
            pass
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{self.name} cannot see images of {side_px} px: {reason[:120]}\nchoose another size"
            ) from None
        finally:
            for module, training in modes.items():
                module.training = training

    def describe(self) -> str:
        """Return a line: checkpoint of a training run, size of the input, clips, viewing conditions."""
        known = (getattr(self.preprocess, name, None) for name in ("input_px", "crop_px", "resize_px"))
        side = next((side for side in known if side is not None), None)
        size = f"images at {side} px" if side is not None else ""
        if size and self.own_input_px is not None:
            size += f" on request; its own size is {self.own_input_px} px"
        clips = f"clips of {self.clip_frames} frames" if self.clip_frames is not None else ""
        seen = self.viewing.describe() if self.viewing is not None else ""
        return "; ".join(filter(None, (self.provenance.checkpoint, size, clips, seen)))

    def tap_points(self) -> dict[str, str]:
        """Return the layers that can be tapped: layer name -> path of the module whose output it is.

        A path is what ``get_submodule`` takes; the empty path is the model
        itself, whose output has the layer name "final".
        """
        return {**self.module_paths(), FINAL: ""}

    def module_paths(self) -> dict[str, str]:
        """Return the modules with an output of their own, by path (containers without one left out)."""
        containers = (nn.ModuleDict, nn.ModuleList)
        return {
            path: path for path, module in self.named_modules() if path and not isinstance(module, containers)
        }


class MissingWeightsError(CheckpointError):
    """A forward pass came to a module whose weights the checkpoint lacks."""


def guard_missing_weights(network: nn.Module, keys: Sequence[str], path: Path) -> None:
    """Let no forward pass run a module whose weights a file lacks.

    Parameters
    ----------
    network
        The network.
    keys
        Names of parameters and buffers without values.
    path
        The file.
    """
    if not keys:
        return
    # A plain attribute, which state dicts do not hold.
    network.missing_weights = f"{path} lacks {', '.join(keys[:_SHOWN])}" + (  # type: ignore[assignment]
        f", ... ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
    )
    reason = missing_weights(network)

    def stop(module: nn.Module, inputs: Any) -> None:
        del module, inputs
        raise MissingWeightsError(f"the forward pass needs weights that are not there: {reason}")

    for owner in dict.fromkeys(key.rpartition(".")[0] for key in keys):
        network.get_submodule(owner).register_forward_pre_hook(stop)


def missing_weights(model: nn.Module) -> str:
    """Return which weights a network lacks (``head.pth lacks fc.weight, fc.bias``); "" if it has all."""
    return next((str(found) for one in model.modules() if (found := vars(one).get("missing_weights"))), "")


def state_digest(model: nn.Module) -> str:
    """Return "state:" and the sha256 over a state dict (keys, dtypes, shapes, values); "none" if empty."""
    sha256 = hashlib.sha256()
    state = model.state_dict()
    for key, value in state.items():
        # Quantised modules hold a weight and its bias as a tuple.
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Tensor):
                sha256.update(f"{key};{part.dtype};{tuple(part.shape)};".encode())
                for content in _contents(part):
                    sha256.update(content)
    return f"state:{sha256.hexdigest()}" if state else "none"


def meta_tensors(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that have no values yet (device "meta")."""
    return [name for name, value in _tensors(model) if value.is_meta]


def weights_digest(model: nn.Module) -> str | None:
    """Return the sha256 (hex) over every parameter and buffer that a network holds now.

    Unlike a state dict this has buffers that are not saved, such as a fixed bank of filters. Shared tensors
    count as equal ones do.

    Returns
    -------
    str or None
        None if the content of a tensor cannot be read (sparse, or on the "meta" device), or modules hold
        quantised weights, which are no parameters.
    """
    if is_quantised(model):
        return None
    sha256 = hashlib.sha256()
    # Shared tensors appear under each of their names, and are read once.
    known: dict[int, bytes] = {}
    for name, value in _tensors(model):
        if id(value) not in known:
            content = tensor_bytes(value)
            if content is None:
                return None
            known[id(value)] = hashlib.sha256(content).digest()
        sha256.update(f"{name};{value.dtype};{tuple(value.shape)};".encode())
        sha256.update(known[id(value)])
    return sha256.hexdigest()


def tensor_bytes(value: Tensor) -> memoryview | None:
    """Return the content of a tensor, C order; None if it has none that can be read."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return None
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    content: memoryview = plain.view(torch.uint8).numpy().data
    return content if plain.numel() else memoryview(b"")


def _contents(value: Tensor) -> Iterator[bytes | memoryview]:
    """Yield what makes up a tensor's values: of a sparse one indices too, of a quantised one scales."""
    value = value.detach()
    parts: list[Any] = [value]
    if value.is_quantized:
        per_tensor = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = (
            [value.q_scale(), value.q_zero_point()]
            if per_tensor
            else [value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis()]
        )
        parts = [value.int_repr(), *map(torch.as_tensor, scales)]
    elif value.layout == torch.sparse_coo:
        merged = value.coalesce()
        parts = [merged.indices(), merged.values()]
    elif value.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [value.crow_indices(), value.col_indices(), value.values()]
    elif value.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [value.ccol_indices(), value.row_indices(), value.values()]
    elif value.layout != torch.strided:
        parts = [value.to_dense()]
    for part in parts:
        yield tensor_bytes(part) or b""


def declared_names(module: object, attribute: str) -> tuple[str, ...]:
    """Return the names that a module lists under an attribute; none if it is not a list of names."""
    names: Any = getattr(module, attribute, None)
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else ()


@dataclass(frozen=True)
class ClipInput:
    """Clips that a network takes in place of images.

    Attributes
    ----------
    n_frames
        Frames of a clip, T.
    axes
        Order of a clip's axes: ``"TCHW"``, or ``"CTHW"`` as torchvision's video networks have it.
    """

    n_frames: int
    axes: str = CLIP_AXES[0]


def declared_clip(module: object) -> ClipInput | None:
    """Return the clips that a network declares to take, by ``clip_frames`` and ``clip_axes``; None if none.

    Raises
    ------
    UsageError
        If one of the two is not what it should be.
    """
    n_frames, axes = getattr(module, "clip_frames", None), getattr(module, "clip_axes", CLIP_AXES[0])
    if n_frames is None:
        return None
    name = getattr(module, "name", type(module).__name__)
    if type(n_frames) is not int or n_frames < 1:
        raise UsageError(f"{name}: .clip_frames is {n_frames!r}; needed: the number of frames of a clip")
    if axes not in CLIP_AXES:
        raise UsageError(f"{name}: .clip_axes is {axes!r}; valid: {', '.join(map(repr, CLIP_AXES))}")
    return ClipInput(n_frames, axes)


def declared_viewing(module: object) -> ViewingConditions | None:
    """Return the conditions under which a network sees images (``.viewing``); None if nothing is changed.

    Raises
    ------
    UsageError
        If ``.viewing`` is something else.
    """
    viewing = getattr(module, "viewing", None)
    if viewing is not None and not isinstance(viewing, ViewingConditions):
        kind = f"{type(module).__name__}: .viewing is a {type(viewing).__name__}"
        raise UsageError(f"{kind}; needed: mvkit.ViewingConditions(acuity_cpd=0.5)")
    return viewing if viewing is not None and viewing.changes_images else None


def is_quantised(model: nn.Module) -> bool:
    """Tell whether modules hold weights in torch's packed form, outside parameters and buffers."""
    return any(
        isinstance(value, torch.ScriptObject)
        for module in model.modules()
        # TorchScript's modules are such an object themselves.
        if not isinstance(module, torch.jit.ScriptModule)
        for value in vars(module).values()
    )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    everything: Iterable[tuple[str, Tensor]] = model.named_parameters(remove_duplicate=False)
    yield from everything
    yield from model.named_buffers(remove_duplicate=False)
