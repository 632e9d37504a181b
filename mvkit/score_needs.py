"""What scoring a model needs, from what was seen and measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvkit.fetch.sizes import readable
from mvkit.paths import scratch_dir
from mvkit.report.estimate import DiskNeeds, LayerNeeds, MemoryNeeds, ModelNeeds, Seconds

if TYPE_CHECKING:
    from mvkit.score_machine import Machine
    from mvkit.score_request import ScoreRequest
    from mvkit.score_run import OpenedRun
    from mvkit.scoring.settings import RecordingLike
    from mvkit.scoring.speed import Speed

#: Float64 blocks at a time while a layer is made ready: its features, their deviations, a factorisation.
_BLOCKS = 3
#: Maps that hold all features of a layer in float64, in every worker process.
_WHOLE = ("lasso", "elasticnet")
_FLOAT64 = 8


@dataclass(frozen=True)
class Plan:
    """What is to be done with every model."""

    request: ScoreRequest
    run: OpenedRun
    compared: Sequence[RecordingLike]
    n_images: int
    n_splits: int
    processes: int
    cores: int
    started_bytes: int
    machine: Machine

    @property
    def at_a_time(self) -> int:
        """Processes that this machine has cores for."""
        return min(self.processes, self.cores)


@dataclass(frozen=True)
class Seen:
    """A model that was shown a few images.

    Attributes
    ----------
    layers
        Every layer.
    missing
        Layer -> recordings that it is still to be compared with.
    opened
        Layers whose features are needed: scores are missing, and coordinates too where those are enough.
    image_s
        Seconds per image.
    batch_size
        Images of a batch.
    in_memory
        Whether features of all images stay in memory.
    """

    layers: tuple[LayerNeeds, ...]
    missing: Mapping[str, tuple[RecordingLike, ...]]
    opened: tuple[LayerNeeds, ...]
    image_s: float
    batch_size: int
    in_memory: bool


def model_needs(plan: Plan, name: str, found: Seen, speed: Speed | None) -> ModelNeeds:
    """Tell what scoring a model needs.

    Parameters
    ----------
    plan
        The run.
    name, found
        The model.
    speed
        None if there is nothing left to do.
    """
    settings = plan.run.settings
    n_missing = sum(len(recordings) for recordings in found.missing.values())
    memory, disk = _memory(plan, found), _disk(plan, found)
    return ModelNeeds(
        name=name,
        layers=found.layers,
        n_recordings=len(plan.compared),
        # Either half of every halving.
        n_fits=2 * n_missing * plan.n_splits * settings.n_halves,
        memory=memory,
        disk=disk,
        seconds=Seconds() if speed is None else _seconds(plan, found, speed),
        refusal=_refusal(plan, found, memory, disk),
    )


def _seconds(plan: Plan, found: Seen, speed: Speed) -> Seconds:
    todo = [layer for layer in found.layers if found.missing[layer.name]]
    opened = {layer.name for layer in found.opened}
    preparing = sum(
        speed.preparing(layer.n_features if layer.name in opened else 0, plan.n_splits) for layer in todo
    )
    fits = sum(
        speed.fits(
            layer.n_features,
            recording.responses.shape[2],
            n_splits=plan.n_splits,
            n_halves=plan.run.settings.n_halves,
        )
        for layer in todo
        for recording in found.missing[layer.name]
    )
    return Seconds(
        forward=found.image_s * plan.n_images if opened else 0.0,
        preparing=preparing / max(1, min(plan.at_a_time, len(todo))),
        fits=fits / plan.at_a_time,
    )


def _memory(plan: Plan, found: Seen) -> MemoryNeeds:
    from mvkit.scoring.gram import BLOCK_FEATURES
    from mvkit.scoring.sparse import sparse_bytes

    todo = [layer for layer in found.layers if found.missing[layer.name]]
    widest = max((layer.n_features for layer in todo), default=0)
    at_a_time = min(plan.at_a_time, len(todo))
    block = _BLOCKS * plan.n_images * min(widest, BLOCK_FEATURES) * _FLOAT64
    # Of every layer its coordinates, and a training and a test part for every split.
    ready = len(todo) * plan.n_images**2 * _FLOAT64 * (1 + plan.n_splits / 2)
    whole = sparse_bytes(plan.n_images, widest) if plan.run.settings.mapping in _WHOLE else 0
    return MemoryNeeds(
        started=plan.started_bytes,
        batch=2 * found.batch_size * sum(layer.n_bytes for layer in found.opened) // plan.n_images,
        features=sum(layer.n_bytes for layer in found.opened) if found.in_memory else 0,
        blocks=at_a_time * block + int(ready),
        whole=whole * plan.processes,
        available=plan.machine.available(),
    )


def _disk(plan: Plan, found: Seen) -> DiskNeeds:
    resources = plan.request.resources
    folder = resources.scratch or scratch_dir(resources.home)
    needed = 0 if found.in_memory else sum(layer.n_bytes for layer in found.opened)
    return DiskNeeds(folder, needed, plan.machine.free_disk(folder))


def _refusal(plan: Plan, found: Seen, memory: MemoryNeeds, disk: DiskNeeds) -> str:
    """Say why a model cannot be scored here, or ""."""
    mapping = plan.run.settings.mapping
    if memory.available is not None and memory.whole > memory.available:
        widest = max(found.layers, key=lambda layer: layer.n_features)
        return (
            f"{mapping} holds all features of a layer in float64: {readable(memory.whole)} for "
            f"{widest.n_features} features of layer '{widest.name}' in {plan.processes} processes, and "
            f"{readable(memory.available)} are available\n"
            "use --map ridge, give fewer --jobs, or leave wide layers out (--layers)"
        )
    if memory.available is not None and not memory.fits:
        return (
            f"{readable(memory.peak)} of memory are needed, of which {readable(memory.started)} are in use "
            f"already, and {readable(memory.available)} more are available\n"
            "score fewer layers at a time (--layers), or give fewer --jobs or a smaller --batch-size"
        )
    if not disk.fits:
        return (
            f"{disk.folder}: features take {readable(disk.needed)}, and {readable(disk.free)} are free\n"
            "give a folder on another disk with --scratch, or score fewer layers at a time (--layers)"
        )
    return ""
