"""Checkpoints of a run and their folder: locking it, what a checkpoint holds, writing and resuming."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from mvkit.errors import CheckpointError, RecipeError, UsageError, wording
from mvkit.files import Lock, make_folder, remove_leftovers, replacing, write_text
from mvkit.models.checkpoints import read_checkpoint
from mvkit.models.loading import FORMAT, VERSION
from mvkit.models.names import BEST, LAST, NEVER, checkpoint_to_resume
from mvkit.training.recipe import TrainRecipe, differences, recipe_text, science_digest
from mvkit.training.setup import TrainingSetup

_LOCK = ".train.lock"
_RECIPE = "recipe.yaml"
#: Parts of a checkpoint's machine that may change the last bits of what follows.
_BITS = ("device", "precision", "accumulate", "processes", "channels_last", "compile", "threads")


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

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


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other processes, and remove what killed ones left half-written.

    The folder is made if missing. The system releases the lock when its holder dies, however it dies.

    Raises
    ------
    UsageError
        Another process is training there.
    """
    make_folder(folder)
    lock = Lock(folder / _LOCK)
    if not lock.acquire():
        raise UsageError(
            f"{folder}: another process is training here\nwait for it to end, or choose another "
            + wording("--out", "out=")
        )
    try:
        for name in (LAST, BEST):
            remove_leftovers(folder / name)
        for numbered in folder.glob("epoch_*.tmp-*.pt"):
            numbered.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def find_resume(folder: Path, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint to go on from and its contents; None: start afresh.

    Parameters
    ----------
    folder
        Of the run.
    resume
        "auto": from ``last.pt`` of the folder if there is one; "never": start
        afresh, in a folder that holds no run; otherwise the path of a checkpoint.

    Raises
    ------
    UsageError
        "never", and the folder holds a run.
    CheckpointError
        The checkpoint is missing, damaged, or none of a run.
    """
    last = folder / LAST
    given = checkpoint_to_resume(resume)
    if given is not None:
        return given, _read(given)
    if not last.exists():
        return None
    if resume == NEVER:
        raise UsageError(
            f"{folder} already holds a run ({LAST}); it is never overwritten\n"
            + wording(
                "choose another --out, or go on with it: --resume auto",
                'choose another out=, or go on with it: resume="auto"',
            )
        )
    try:
        return last, _read(last)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nor go on from an older one: "
            + wording(f"--resume {folder}/epoch_NNNN.pt", f'resume="{folder}/epoch_NNNN.pt"')
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run; tensors stay on the CPU, mapped from the file."""
    document = read_checkpoint(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: holds weights, but not a training run that can be resumed\n"
            "start a new run from them: " + wording(f"--weights {path}", f'weights="{path}"')
        )
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written in version {document.get('version')} of the format, this mvkit reads {VERSION}"
        )
    return document


def write_recipe(folder: Path, recipe: TrainRecipe) -> None:
    """Write the resolved recipe to ``recipe.yaml``; reading it gives the same recipe."""
    document = recipe.model_dump(mode="json")
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / _RECIPE, text)


def check_same_run(document: Mapping[str, Any], setup: TrainingSetup, name: str) -> None:
    """Check that a checkpoint is of the same science as a run.

    Parameters
    ----------
    document
        Contents of the checkpoint.
    setup
        The run of today.
    name
        Of the checkpoint in messages.

    Raises
    ------
    RecipeError
        Recipes differ; names the keys.
    CheckpointError
        Images or the weights from which training started differ.
    """
    out = wording("--out", "out=")
    advice = f"choose another {out} for a new run, or undo the change to go on with this one"
    before = json.loads(document["recipe"]).get("checkpoint", {}).get("best_by")
    best_by = setup.recipe.checkpoint.best_by
    if document["progress"]["best"] is not None and before != best_by:
        raise RecipeError(
            f"{name}: its best.pt was chosen by checkpoint.best_by {before}, now {best_by}\n{advice}"
        )
    if document["digest"] != science_digest(setup.recipe):
        changed = differences(json.loads(document["recipe"]), setup.recipe)
        # Defaults that a newer mvkit added or removed can change the digest of an unchanged file.
        shown = "; ".join(changed) or f"written by mvkit {document['versions'].get('mvkit', 'unknown')}"
        raise RecipeError(f"{name} was trained with another recipe: {shown}\n{advice}")
    images, train = document["images"], setup.images.train
    if images["digest"] != train.digest:
        raise CheckpointError(
            f"{name} was trained on other images: {images['description']}, now {train.description}\n{advice}"
        )
    weights_id = setup.learner.encoder.weights_id
    if document["initial_weights"] != weights_id:
        raise CheckpointError(
            f"{name} started from other weights: {document['initial_weights']}, now {weights_id}\n{advice}"
        )


def restore(document: Mapping[str, Any], setup: TrainingSetup, message: Callable[[str], None]) -> Progress:
    """Put a run back to where a checkpoint was written.

    Parameters
    ----------
    document
        Contents of a checkpoint of the same run, see :func:`check_same_run`.
    setup
        The run, freshly built.
    message
        Called if the machine differs, so that the last bits may.

    Raises
    ------
    CheckpointError
        If a state does not fit.
    """
    learner = setup.learner
    _load(learner.encoder, document["model"], "network")
    _load(learner.objective, document["objective"], "objective")
    # The file is mapped into memory: the optimiser would use its tensors as they are.
    learner.optimiser.load_state_dict(_plain(document["optimiser"], copy=True))
    learner.step.load_state_dict(_plain(document["step"], copy=True))
    setup.evaluators.load_state_dict(_plain(document["evaluators"], copy=True))
    then, now = document["machine"], setup.machine
    changed = [f"{key} {then.get(key)}, now {now.get(key)}" for key in _BITS if then.get(key) != now.get(key)]
    if changed:
        message(f"going on, but not to the same last bits: {'; '.join(changed)}")
    return Progress(**document["progress"])


def _load(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint's {name} does not fit: {reason[:300]}") from error


def checkpoint_name(epoch: int) -> str:
    """Return the file name of a numbered checkpoint, by finished epochs."""
    return f"epoch_{epoch:04d}.pt"


def snapshot(setup: TrainingSetup, progress: Progress) -> dict[str, Any]:
    """Return the contents of a checkpoint; all processes call it, the first one writes it.

    ``generators`` needs no state: what is drawn in a step is keyed by (seed,
    step, process), and views and order by (seed, epoch, image).
    """
    learner, recipe, train = setup.learner, setup.recipe, setup.images.train
    return {
        "model": learner.encoder.state_dict(),
        "architecture": recipe.model.architecture,
        "n_classes": learner.n_classes,
        "preprocessing": learner.encoder.preprocess.as_dict(),
        "layers": list(learner.encoder.layers),
        "recipe": recipe_text(recipe),
        "digest": science_digest(recipe),
        "seed": recipe.train.seed,
        "initial_weights": learner.encoder.weights_id,
        "images": {
            "n_images": train.n_images,
            "digest": train.digest,
            "description": train.description,
            "image_digests": list(train.image_digests),
        },
        "machine": dict(setup.machine),
        "versions": dict(setup.versions),
        "objective": learner.objective.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        "step": learner.step.state_dict(),
        "evaluators": setup.evaluators.state_dict(),
        "progress": asdict(progress),
        "generators": {"keyed_by": ["seed", "step", "process"], "seed": recipe.train.seed},
    }


def write_checkpoint(folder: Path, document: Mapping[str, Any], *, also: tuple[str, ...] = ()) -> Path:
    """Write ``last.pt``, and give its contents further names.

    Parameters
    ----------
    folder
        Of the run; made if missing.
    document
        Plain values and tensors, on any device; see :func:`snapshot`.
    also
        Further file names (``best.pt``, ``epoch_0010.pt``).

    Raises
    ------
    CheckpointError, OSError
        If it cannot be written.
    """
    last = folder / LAST
    with replacing(last) as temporary:
        try:
            torch.save(_plain({"format": FORMAT, "version": VERSION, **document}), temporary)
        except RuntimeError as error:
            # PyTorch does not pass on what the system said.
            raise CheckpointError(f"{last}: not written ({str(error)[:160]}); is the disk full?") from error
        for name in also:
            with replacing(folder / name) as second:
                try:
                    os.link(temporary, second)
                except OSError:
                    shutil.copyfile(temporary, second)
    return last


def _plain(value: Any, *, copy: bool = False) -> Any:
    """Return nested containers as dicts, lists and tuples, tensors detached and on the CPU."""
    if isinstance(value, Tensor):
        own = value.detach().cpu()
        # A view would bring the whole of what it is part of into the file.
        is_view = own.untyped_storage().nbytes() != own.numel() * own.element_size()
        return own.clone() if copy or is_view else own
    if isinstance(value, Mapping):
        return {key: _plain(item, copy=copy) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item, copy=copy) for item in value)
    if isinstance(value, list):
        return [_plain(item, copy=copy) for item in value]
    return value
