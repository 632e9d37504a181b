"""Checkpoints that ``mvkit train`` writes, as models.

Such a file says which architecture it is of, how many classes its read-out
has, which layers are scored and how images become its input; so it needs no
name beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvkit.errors import CheckpointError, UsageError
from mvkit.models.base import VisionModel, WeightsOrigin
from mvkit.models.blueprints import Architecture
from mvkit.models.checkpoint import read_checkpoint
from mvkit.models.preprocessing import Preprocessing
from mvkit.models.readouts import with_classes
from mvkit.models.released import PAPER, ModelRow, find_model, is_model

#: Value of a checkpoint's key "format", and the newest version of the format that is read here.
FORMAT = "mvkit-checkpoint"
VERSION = 1

#: The newest checkpoint of a run and that of its best epoch, in its folder.
LAST, BEST = "last.pt", "best.pt"

#: What to do about a damaged checkpoint of a training run.
ANOTHER = "take another checkpoint of the run (best.pt, epoch_*.pt), or train it again"

_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors")


@dataclass(frozen=True)
class TrainedNetwork:
    """What a checkpoint of ``mvkit train`` says of its network.

    Attributes
    ----------
    path
        The file.
    recipe, step, epochs
        Name of the recipe, numbers of optimisation steps and of finished epochs.
    row
        The architecture's row of the table.
    architecture
        The network, its read-out as wide as it was trained.
    seed
        That the run's random start was drawn from.
    layers
        Layers scored by default.
    preprocess
        How images become input.
    contents
        Everything in the file.
    """

    path: Path
    recipe: str
    step: int
    epochs: int
    row: ModelRow
    architecture: Architecture
    seed: int
    layers: tuple[str, ...]
    preprocess: Preprocessing
    contents: Mapping[str, Any]

    def finish(self, model: VisionModel, *, trained: bool) -> VisionModel:
        """Give a network of this architecture its name (``demo@step400``), layers and preprocessing."""
        model.name = f"{self.recipe}@{f'step{self.step}' if trained else 'start'}"
        model.published_layers = self.architecture.published_layers
        model.layers = self.layers
        model.preprocess = self.preprocess
        return model.eval()

    def describe_checkpoint(self) -> str:
        """Say which one of its run it is: ``best.pt, epoch 2 of 3 (best validation_loss.top1: 0.41)``."""
        recipe, progress = json.loads(self.contents["recipe"]), self.contents["progress"]
        planned = recipe.get("train", {}).get("epochs")
        epoch = f"epoch {self.epochs}" + (f" of {planned}" if planned is not None else "")
        best, best_by = progress.get("best"), recipe.get("checkpoint", {}).get("best_by")
        if best_by is None:
            best_by = recipe["evaluate"][0]["name"] if recipe.get("evaluate") else "training loss"
        chosen = ""
        if self.path.name == BEST and isinstance(best, float):
            chosen = f" (best {best_by}: {best:.4g})"
        return f"{self.path.name}, {epoch}{chosen}"

    def origin(self) -> WeightsOrigin:
        """Return what the checkpoint says of its weights, as far as :func:`describe_trained` needs it."""
        digest = self.contents.get("digest")
        return WeightsOrigin(
            self.row.architecture.name,
            source=f"mvkit train, recipe {self.recipe}, digest {digest or 'unknown'}, step {self.step}",
            citation=(PAPER,),
            checkpoint=self.describe_checkpoint(),
            training_run={
                "format": FORMAT,
                "version": VERSION,
                "architecture": self.row.name,
                "n_classes": self.contents["n_classes"],
                "recipe": self.contents["recipe"],
                "digest": digest,
                "seed": self.seed,
                "layers": list(self.layers),
                "preprocessing": self.preprocess.as_dict(),
                "progress": {"step": self.step, "epochs": self.epochs},
            },
        )


def is_place(name: str | os.PathLike[str]) -> bool:
    """Tell whether a model is given by a place and not by its name.

    A path object is; text is if it looks like a path, or is no model's name
    but that of a file or run folder.
    """
    if not isinstance(name, str):
        return True
    if os.sep in name or name.endswith(_SUFFIXES) or name.startswith(("~", ".")):
        return True
    return not is_model(name) and (Path(name).is_file() or (Path(name) / LAST).is_file())


def trained_file(place: str | os.PathLike[str]) -> Path:
    """Return the checkpoint at a place: the file, or that of a run folder which its recipe says to score.

    Raises
    ------
    UsageError
        If there is none.
    CheckpointError
        If ``last.pt`` of the folder, which holds the recipe, cannot be read.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        if not (path / LAST).is_file():
            raise UsageError(f"{path}: no {LAST} in this folder; is it the folder of a training run?")
        return path / _scored_checkpoint(path)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; give a checkpoint of mvkit train, a run folder, or a model's name"
        )
    return path


def _scored_checkpoint(folder: Path) -> str:
    """Return the name of the checkpoint that stands for a run: ``checkpoint.score`` of its recipe."""
    contents = read_checkpoint(folder / LAST, remedy=ANOTHER)
    if not isinstance(contents, Mapping) or not is_trained(contents):
        return LAST
    try:
        chosen = json.loads(contents["recipe"])["checkpoint"]["score"]
    except (KeyError, TypeError, ValueError):
        # Checkpoints of before recipes said so.
        return LAST
    if chosen != "best":
        return LAST
    if not (folder / BEST).is_file():
        raise UsageError(
            f"{folder}: its recipe scores {BEST} (checkpoint.score: best), which is not there yet\n"
            f"name another checkpoint: {folder / LAST}"
        )
    return BEST


def is_trained(contents: object) -> bool:
    """Tell whether the contents of a checkpoint were written by ``mvkit train``."""
    return isinstance(contents, Mapping) and contents.get("format") == FORMAT


def describe_trained(contents: object, path: Path) -> TrainedNetwork:
    """Read what a checkpoint of ``mvkit train`` says of its network.

    Parameters
    ----------
    contents
        What :func:`mvkit.models.checkpoint.read_checkpoint` returned.
    path
        The file.

    Raises
    ------
    CheckpointError
        If it was not written by ``mvkit train``, or by a newer one, or does not say all that is needed.
    """
    if not isinstance(contents, Mapping) or not is_trained(contents):
        raise CheckpointError(
            f"{path}: not a checkpoint of mvkit train, so it does not say which network it is of\n"
            f"name the network and give the file as its weights: NAME --weights {path}"
        )
    version = contents.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, but this mvkit reads up to {VERSION}\n"
            "use the version of mvkit that wrote it, or a newer one"
        )
    try:
        network = str(contents["architecture"])
        if not is_model(network):
            raise CheckpointError(
                f"{path}: is of '{network}', which this mvkit does not have; use the one that wrote it"
            )
        row = find_model(network)
        classes = contents["n_classes"]
        return TrainedNetwork(
            path=path,
            recipe=str(json.loads(contents["recipe"])["name"]),
            step=int(contents["progress"]["step"]),
            epochs=int(contents["progress"].get("epochs", 0)),
            row=row,
            architecture=with_classes(row.architecture, None if classes is None else int(classes)),
            seed=int(contents["seed"]),
            layers=tuple(map(str, contents["layers"])),
            preprocess=Preprocessing.from_dict(contents["preprocessing"]),
            contents=contents,
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: does not say {error}; {ANOTHER}") from error
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"{path}: what it says of its network makes no sense ({error})\n{ANOTHER}"
        ) from error


def refuse_other_network(trained: TrainedNetwork, wanted: ModelRow) -> None:
    """Refuse the weights of a trained checkpoint for another network than they are of.

    Raises
    ------
    CheckpointError
        If architectures or numbers of classes differ; says how to use the checkpoint itself.
    """
    if trained.architecture == wanted.architecture:
        return
    if trained.row.architecture == wanted.architecture:
        wide = trained.contents["n_classes"]
        difference = f"its read-out has {wide} classes, that of '{wanted.name}' another number"
    else:
        difference = f"it is of '{trained.row.name}' (recipe {trained.recipe}), not of '{wanted.name}'"
    raise CheckpointError(
        f"{trained.path}: {difference}\ngive the file instead of a model's name: it says which network it is"
    )
