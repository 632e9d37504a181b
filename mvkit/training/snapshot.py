"""From a run to the contents of its checkpoint and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mvkit.errors import CheckpointError, RecipeError
from mvkit.training.checkpoints import Progress, plain_tensors, progress_as_dict, progress_of
from mvkit.training.identity import differences, recipe_text, science_digest
from mvkit.training.setup import TrainingSetup

#: Parts of a checkpoint's machine that may change the last bits of what follows.
_BITS = ("device", "precision", "accumulate", "processes", "channels_last", "compile", "threads")


def snapshot(setup: TrainingSetup, progress: Progress) -> dict[str, Any]:
    """Return the contents of a checkpoint; all processes call it, the first one writes it.

    ``generators`` needs no state: what is drawn in a step is keyed by (seed,
    step, process), and views and order by (seed, epoch, image).
    """
    encoder, objective = setup.learner.modules()
    recipe = setup.recipe
    return {
        "model": encoder.state_dict(),
        "architecture": recipe.model.architecture,
        "n_classes": setup.learner.n_classes,
        "preprocessing": setup.learner.encoder.preprocess.as_dict(),
        "layers": list(setup.learner.encoder.layers),
        "recipe": recipe_text(recipe),
        "digest": science_digest(recipe),
        "seed": recipe.train.seed,
        "initial_weights": setup.learner.encoder.weights_id,
        "images": {
            "n_images": setup.train.n_images,
            "digest": setup.train.digest,
            "description": setup.train.description,
        },
        "machine": dict(setup.place.machine),
        "versions": dict(setup.place.versions),
        "objective": objective.state_dict(),
        "optimiser": setup.learner.optimiser.state_dict(),
        "step": setup.learner.step.state_dict(),
        "evaluators": setup.evaluators.state_dict(),
        "progress": progress_as_dict(progress),
        "generators": {"keyed_by": ["seed", "step", "process"], "seed": recipe.train.seed},
    }


def check_same_run(document: Mapping[str, Any], setup: TrainingSetup, place: str) -> None:
    """Refuse to go on from a checkpoint of other science.

    Parameters
    ----------
    document
        Contents of the checkpoint.
    setup
        The run of today.
    place
        The checkpoint in messages.

    Raises
    ------
    RecipeError
        Recipes differ; names the keys.
    CheckpointError
        Images or the weights from which training started differ.
    """
    advice = "choose another --out for a new run, or undo the change to go on with this one"
    before = json.loads(document["recipe"]).get("checkpoint", {}).get("best_by")
    best_by = setup.recipe.checkpoint.best_by
    if document["progress"]["best"] is not None and before != best_by:
        raise RecipeError(
            f"{place}: its best.pt was chosen by checkpoint.best_by {before}, now {best_by}\n{advice}"
        )
    if document["digest"] != science_digest(setup.recipe):
        changed = differences(json.loads(document["recipe"]), setup.recipe)
        # Defaults that a newer mvkit added or dropped can change the digest of an unchanged file.
        shown = "; ".join(changed) or f"written by mvkit {document['versions'].get('mvkit', 'unknown')}"
        raise RecipeError(f"{place} was trained with another recipe: {shown}\n{advice}")
    images = document["images"]
    if images["digest"] != setup.train.digest:
        raise CheckpointError(
            f"{place} was trained on other images: {images['description']}, now {setup.train.description}\n"
            f"{advice}"
        )
    if document["initial_weights"] != setup.learner.encoder.weights_id:
        raise CheckpointError(
            f"{place} started from other weights: {document['initial_weights']}, "
            f"now {setup.learner.encoder.weights_id}\n{advice}"
        )


def restore(document: Mapping[str, Any], setup: TrainingSetup, remark: Callable[[str], None]) -> Progress:
    """Put a run back to where a checkpoint was written.

    Parameters
    ----------
    document
        Contents of a checkpoint of the same run, see :func:`check_same_run`.
    setup
        The run, freshly built.
    remark
        Told if the machine differs, so that the last bits may.

    Raises
    ------
    CheckpointError
        If a state does not fit.
    """
    encoder, objective = setup.learner.modules()
    _load(encoder, document["model"], "network")
    _load(objective, document["objective"], "objective")
    # The file is mapped into memory: the optimiser would keep its tensors as they are.
    setup.learner.optimiser.load_state_dict(_copied(document["optimiser"]))
    setup.learner.step.load_state_dict(_copied(document["step"]))
    setup.evaluators.load_state_dict(_copied(document["evaluators"]))
    then, now = document["machine"], setup.place.machine
    changed = [f"{key} {then.get(key)}, now {now.get(key)}" for key in _BITS if then.get(key) != now.get(key)]
    if changed:
        remark(f"going on, but not to the same last bits: {'; '.join(changed)}")
    return progress_of(document)


def _load(module: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint's {what} does not fit: {reason[:300]}") from error


def _copied(state: Any) -> Any:
    plain = plain_tensors(state)
    if isinstance(plain, torch.Tensor):
        return plain.clone()
    if isinstance(plain, dict):
        return {key: _copied(item) for key, item in plain.items()}
    if isinstance(plain, list | tuple):
        return type(plain)(_copied(item) for item in plain)
    return plain
