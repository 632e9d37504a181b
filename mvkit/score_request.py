"""What a user asks to have scored, and what a scoring run makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import RecipeError, UsageError
from mvkit.machine import Resources
from mvkit.naming import suggest, unknown_name

if TYPE_CHECKING:
    from mvkit.models.foreign.options import InputOptions
    from mvkit.neural import SelectionSettings
    from mvkit.scoring import ScoreSettings

#: Where the scoring recipes lie among the packaged ones; their names may be given without it.
_RECIPES = "score/"

_EXTRAPOLATIONS = ("units", "stimuli")


@dataclass(frozen=True)
class ScoreRequest:
    """What a user asked to have scored; None means the default.

    Attributes
    ----------
    models
        Released models, architectures, baselines, or paths of checkpoints or folders of training runs.
    layers, areas
        Layer names or patterns, for every model; area acronyms.
    dataset
        Name or path of a neural file.
    weights, seed
        ``"released"``, ``"random"`` or the path of a checkpoint; seed of random weights
        (None: 0, or a training run's own).
    recipe, overrides
        Scoring recipe (path or packaged name, ``score/`` may be left out) and ``key=value`` changes to it.
    settings
        Fields of :class:`~mvkit.scoring.ScoreSettings` given as options; they win over the recipe.
    selection, thresholds
        Preset of the unit selection, and thresholds that differ from it.
    against
        Folders of saved scores to compare with.
    extrapolate
        ``"units"`` or ``"stimuli"``: follow the ceiling over their number.
    inputs
        Preprocessing of models from elsewhere.
    resources
        Where and with what it runs; the scores do not depend on it.
    """

    models: tuple[str, ...]
    layers: tuple[str, ...] | None = None
    areas: tuple[str, ...] | None = None
    dataset: str | None = None
    weights: str = "released"
    seed: int | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    selection: str = "code"
    thresholds: Mapping[str, object] = field(default_factory=dict)
    against: tuple[Path, ...] = ()
    extrapolate: str | None = None
    inputs: InputOptions | None = None
    resources: Resources = field(default_factory=Resources)


def settings_of(request: ScoreRequest) -> ScoreSettings:
    """Return the protocol of a request, and refuse options that mean nothing without others.

    Raises
    ------
    UsageError, RecipeError
        An unknown name or a value out of range, or options that contradict one another.
    """
    settings = _protocol(request)
    _refuse_contradictions(request, settings)
    return settings


def _protocol(request: ScoreRequest) -> ScoreSettings:
    from mvkit.recipes import load_recipe
    from mvkit.scoring import ScoreSettings

    base = load_recipe(ScoreSettings, _recipe(request.recipe), request.overrides)
    given = {name: value for name, value in request.settings.items() if value is not None}
    from mvkit.scoring.settings import merge_settings

    return merge_settings(base, given)


def _recipe(name: str | None) -> str | None:
    """Return the name of a scoring recipe in full: ``honest`` is ``score/honest``."""
    from mvkit.recipes import packaged_recipes

    if name is None or Path(name).is_file() or "/" in name or Path(name).suffix:
        return name
    short = [known.removeprefix(_RECIPES) for known in packaged_recipes() if known.startswith(_RECIPES)]
    if name not in short:
        raise RecipeError(
            f"recipe '{name}' is neither a file nor a scoring recipe{suggest(name, short)}\n"
            f"packaged: {', '.join(short) or 'none'}"
        )
    return f"{_RECIPES}{name}"


def _refuse_contradictions(request: ScoreRequest, settings: ScoreSettings) -> None:
    """Refuse options that mean nothing without others."""
    if request.extrapolate is not None and request.extrapolate not in _EXTRAPOLATIONS:
        raise unknown_name("extrapolation", request.extrapolate, _EXTRAPOLATIONS)
    if settings.ceiling == "none" and request.settings.get("source_units") is not None:
        raise UsageError("--equal-units is about the ceiling: give --ceiling holdout or pairwise too")
    if settings.pools_animals and (settings.ceiling != "none" or request.extrapolate):
        raise UsageError(
            "a ceiling is between animals, and pooled populations have none left: --set population=animal"
        )
    if settings.layer_choice == "held-out":
        if settings.compares_all_images:
            raise UsageError(
                f"{settings.mapping} compares all images at once, so that no layer can be held out: "
                "--set similarity_images=test, or --layer-choice paper"
            )
        if settings.n_splits < 2:
            raise UsageError(
                "held-out layers are chosen on some image splits and scored on others: give --splits 2 "
                "or more, or --layer-choice paper"
            )


def selection_of(request: ScoreRequest) -> SelectionSettings:
    """Return which units a request wants.

    Raises
    ------
    UsageError
        An unknown preset or threshold.
    """
    from mvkit.neural import selection_with

    changes = {name: _threshold(value) for name, value in request.thresholds.items() if value is not None}
    return selection_with(request.selection, **changes)


def _threshold(value: object) -> object:
    """Read ``"none"`` and whole numbers in a threshold given as text (``--min-units``)."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    return int(value) if value.isdigit() else value
