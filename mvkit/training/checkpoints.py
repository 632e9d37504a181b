"""Checkpoints of a run: everything needed to go on, as plain tensors and plain values.

Files are readable with ``torch.load(path, weights_only=True)``, appear whole
or not at all, and hold the network under "model", so that every reader of
weights finds it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvkit.atomic import remove_leftovers, replacing
from mvkit.errors import CheckpointError
from mvkit.models.checkpoint import read_checkpoint
from mvkit.models.trained import BEST, FORMAT, LAST, VERSION


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    step
        Optimisation steps finished.
    epochs
        Epochs finished, evaluation included.
    best
        Best value so far of the metric that decides; None before the first.
    loss_sum, loss_steps
        Sum of the losses of the epoch in progress, and of how many steps.
    """

    step: int = 0
    epochs: int = 0
    best: float | None = None
    loss_sum: float = 0.0
    loss_steps: int = 0


def checkpoint_name(epoch: int) -> str:
    """Return the file name of a numbered checkpoint, by finished epochs."""
    return f"epoch_{epoch:04d}.pt"


def write_checkpoint(folder: Path, document: Mapping[str, Any], *, also: tuple[str, ...] = ()) -> Path:
    """Write ``last.pt``, and give its contents further names.

    Parameters
    ----------
    folder
        Of the run; made if missing.
    document
        Plain values and tensors, on any device; see :func:`mvkit.training.snapshot`.
    also
        Further file names (``best.pt``, ``epoch_0010.pt``).
    """
    last = folder / LAST
    whole = {"format": FORMAT, "version": VERSION, **document}
    with replacing(last) as temporary:
        torch.save(plain_tensors(whole), temporary)
        for name in also:
            _name_again(temporary, folder / name)
    return last


def read_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run; tensors stay on the CPU, mapped from the file.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, holds more than plain data, or was not written by a training run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint to resume from")
    document = read_checkpoint(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: holds weights, but not a training run that can be resumed\n"
            f"start a new run from them: --weights {path}"
        )
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written in version {document.get('version')} of the format, this mvkit reads {VERSION}"
        )
    return document


def progress_of(document: Mapping[str, Any]) -> Progress:
    """Return how far the run of a checkpoint is."""
    return Progress(**document["progress"])


def progress_as_dict(progress: Progress) -> dict[str, Any]:
    """Return progress as a checkpoint holds it."""
    return asdict(progress)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; only the holder of the run's lock may do so."""
    for name in (LAST, BEST):
        remove_leftovers(folder / name)
    for numbered in folder.glob("epoch_*.tmp-*.pt"):
        numbered.unlink(missing_ok=True)


def plain_tensors(value: Any) -> Any:
    """Return nested containers as dicts, lists and tuples, tensors detached and on the CPU."""
    if isinstance(value, Tensor):
        own = value.detach().cpu()
        # A view would drag the whole of what it is part of into the file.
        return own.clone() if own.untyped_storage().nbytes() != own.numel() * own.element_size() else own
    if isinstance(value, Mapping):
        return {key: plain_tensors(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_tensors(item) for item in value)
    if isinstance(value, list):
        return [plain_tensors(item) for item in value]
    return value


def _name_again(source: Path, target: Path) -> None:
    """Give a finished file another name, at once and without copying where the disk allows it."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
