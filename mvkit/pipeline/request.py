"""What a user asks to have scored: recipe, dataset, recordings and models, checked before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from mvkit.errors import DataError, RecipeError, UsageError, suggest
from mvkit.files import plain, shorten
from mvkit.machine import Resources, installed_versions
from mvkit.models.names import check_inputs, is_checkpoint_path
from mvkit.models.viewing import ViewingConditions
from mvkit.neural.selection import SelectionSettings, selection_with
from mvkit.paths import default_dataset
from mvkit.recipes import Count, Settings, load_recipe, packaged_recipes, parse_scalar
from mvkit.scoring.settings import (
    CORRECTED_ONLY,
    DEFAULT_SETTINGS,
    FIELDS_OF_MAPPINGS,
    SIMILARITIES,
    ScoreSettings,
)

if TYPE_CHECKING:
    from mvkit.models import VisionModel
    from mvkit.models.preprocessing import InputOptions
    from mvkit.models.registry import ModelRow
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.report.text import Table2Comparison, Table2Difference
    from mvkit.scoring import Scores


#: Where the scoring recipes lie among the packaged ones; their names may be given without it.
_RECIPES = "score/"

#: Keys of a scoring recipe that have an option of their own.
OPTIONS = {
    "mapping": "--map",
    "n_splits": "--splits",
    "n_halves": "--halves",
    "ceiling": "--ceiling",
    "measure": "--measure",
    "selection.preset": "--selection",
    "input.size_px": "--input-size",
}


_MIN_UNITS = ("q3", "median", "none", None)


class UnitSelection(SelectionSettings):
    """The group ``selection`` of a scoring recipe: a preset, and the thresholds that differ from it.

    Attributes
    ----------
    preset
        ``"code"``, ``"paper"`` or ``"none"``, see :mod:`mvkit.neural.selection`.

    Notes
    -----
    A key that is not given is the preset's. ``min_reliability`` alone goes for recordings without a time
    axis, too; ``none`` switches a threshold off.
    """

    preset: Literal["code", "paper", "none"] = "code"

    @field_validator("*", mode="before")
    @classmethod
    def _read_none(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name == "preset":
            return value
        if info.field_name == "min_units" and type(value) is not int and value not in _MIN_UNITS:
            raise ValueError("must be q3, median, none or a whole number")
        # What a validator has looked at is no JSON any more, in which a list is a tuple.
        return None if value == "none" else tuple(value) if isinstance(value, list) else value

    def resolve(self) -> SelectionSettings:
        """Return the preset with the thresholds that are given."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"preset"}}
        if "min_reliability" in given:
            given.setdefault("min_mean_reliability", given["min_reliability"])
        return selection_with(self.preset, **given)


class NetworkInput(Settings):
    """The group ``input`` of a scoring recipe: changes to how images are prepared for every model.

    Attributes
    ----------
    size_px
        Side of the input; None: as trained.
    mean, std
        One number or three, for values in [0, 1]; None: as declared.
    grey
        Whether colour images become grey first.
    acuity_cpd
        Visual acuity in cycles per degree; None: no filter.
    field_of_view_deg
        Degrees of visual angle that the width of an image spans; None: as the dataset says, else 120.
    contrast
        Factor of the deviations from the mean of each image.
    frame_rate_hz
        Frames per second of a movie, whose frames the images of the dataset are; None: as the dataset says.
    """

    size_px: Count | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    grey: bool = False
    acuity_cpd: float | None = Field(default=None, gt=0)
    field_of_view_deg: float | None = Field(default=None, gt=0, le=360)
    contrast: float = Field(default=1.0, ge=0)
    frame_rate_hz: float | None = Field(default=None, gt=0)

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_or_three(cls, value: object) -> object:
        values = value if isinstance(value, list) else [value]
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        if value is not None and (len(numbers) != len(values) or len(values) not in (1, 3)):
            raise ValueError("must be one number or a list of three")
        return None if value is None else tuple(map(float, numbers))

    def options(self) -> InputOptions:
        """Return the changes as models take them."""
        from mvkit.models.preprocessing import InputOptions

        viewing = ViewingConditions(self.acuity_cpd, self.field_of_view_deg, self.contrast)
        return InputOptions(
            self.size_px,
            self.mean,
            self.std,
            self.grey or None,
            viewing if viewing.changes_images else None,
        )


class Machine(Settings):
    """The group ``machine`` of a scoring recipe: what scores depend on by rounding only, or not at all.

    Attributes
    ----------
    batch_size
        Images per forward pass; None: as for :func:`mvkit.features.extract`.
    scratch
        Folder of features that do not fit in memory; None: in mvkit's cache.
    """

    batch_size: Count | None = None
    scratch: Path | None = None


class ScoreRecipe(ScoreSettings):
    """Everything that a scoring recipe may hold: the protocol, the selection of units, the networks' input.

    Attributes
    ----------
    extrapolate
        Whether the ceiling is followed over the number of ``"units"`` or ``"stimuli"``.
    extrapolate_grid
        At which numbers: evenly spaced in their logarithm (``"log"``), or those of the 2020 code
        (``"linear"``).
    shuffle_seed
        Seed of the control in which the features of all layers are dealt out anew; None: layers as they are.
    two_way
        Whether animals are compared with the model both ways, see :mod:`mvkit.scoring.two_way`.
    selection, input, machine
        See :class:`UnitSelection`, :class:`NetworkInput`, :class:`Machine`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    extrapolate: Literal["none", "units", "stimuli"] = "none"
    extrapolate_grid: Literal["log", "linear"] = "log"
    two_way: bool = False
    shuffle_seed: int | None = Field(default=None, ge=0)
    selection: UnitSelection = UnitSelection()
    input: NetworkInput = NetworkInput()
    machine: Machine = Machine()

    @property
    def settings(self) -> ScoreSettings:
        """The protocol alone, as scores carry it."""
        return ScoreSettings(**{name: getattr(self, name) for name in ScoreSettings.model_fields})


@dataclass(frozen=True)
class ScoreRequest:
    """What a user asked to have scored; None means the default.

    Attributes
    ----------
    models
        Released models, architectures, baselines, or paths of checkpoints or folders of training runs;
        ``NAME@random`` has random weights, of a training run those it started from.
    pool_as
        Name of the model as which all models are pooled, see :func:`mvkit.scoring.pool_networks`; None: each
        is a model of its own.
    layers, areas
        Layer names or patterns, for every model; area acronyms.
    dataset
        Name or path of a neural file.
    weights, seed
        ``"released"``, ``"random"`` or the path of a checkpoint; seed of random weights
        (None: 0, or a training run's own).
    recipe, overrides
        Scoring recipe (path or packaged name, ``score/`` may be left out) and ``key=value`` changes to it.
    options
        Key of the recipe (:data:`OPTIONS`) -> value of its option; None: not given.
    against
        Folders of saved scores to compare with.
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
    options: Mapping[str, object] = field(default_factory=dict)
    against: tuple[Path, ...] = ()
    pool_as: str | None = None
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of the ``count`` parts of a run."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    Raises
    ------
    UsageError
        If it is something else, or i is not one of 1 to n.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give i/n with i from 1 to n, for example 2/8")
    return Shard(int(match[1]), int(match[2]))


def check_request(request: ScoreRequest) -> ScoreRecipe:
    """Check the models and the recipe of a request without importing torch, and return the recipe.

    Raises
    ------
    UsageError, RecipeError
        As :func:`resolve_recipe`; one model twice, or a single one that is to be pooled.
    """
    recipe = resolve_recipe(request)
    if request.pool_as is not None and len(request.models) < 2:
        raise UsageError(
            f"--as {request.pool_as} pools networks, such as runs of other seeds: give two MODELs or more"
        )
    inputs = recipe.input.options()
    for name in request.models:
        check_inputs(name, inputs)
    # Two paths may be of one checkpoint; that is checked when they are read.
    _check_duplicates([name for name in request.models if not is_checkpoint_path(name)], request.weights)
    return recipe


def resolve_recipe(request: ScoreRequest) -> ScoreRecipe:
    """Return the recipe of a request, with what options and ``--set`` change.

    Raises
    ------
    UsageError, RecipeError
        An unknown name, a value out of range, or keys that contradict one another or have no effect.
    """
    options = {key: value for key, value in request.options.items() if value is not None}
    for key, value in options.items():
        for override in request.overrides:
            if _value_at(key, override) not in (None, value):
                raise UsageError(f"{OPTIONS[key]} {value} contradicts --set {override}: give one of them")
    changes = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    recipe = load_recipe(ScoreRecipe, _full_name(request.recipe), [*request.overrides, *changes])
    given = {override.partition("=")[0].strip(): f"--set {override}" for override in request.overrides}
    given |= {key: f"{OPTIONS[key]} {value}" for key, value in options.items()}
    unused = _keys_without_effect(recipe)
    for key, words in given.items():
        if key in unused:
            raise UsageError(f"{words} has no effect: {unused[key]}")
    _check_contradictions(recipe)
    if recipe.two_way and request.pool_as is not None:
        raise UsageError(f"two_way compares single networks: leave out --as {request.pool_as}, or two_way")
    return recipe


def _value_at(key: str, override: str) -> object:
    """Return the value that a ``--set`` gives to a key, by itself or in its group; None if it gives none."""
    name, _, text = override.partition("=")
    group, _, member = key.rpartition(".")
    if name.strip() not in (key, group):
        return None
    value = parse_scalar(text, f"--set {override}")
    if name.strip() == key:
        return value
    return value.get(member) if isinstance(value, dict) else None


def _full_name(name: str | None) -> str | None:
    """Return the name of a scoring recipe in full: ``honest`` is ``score/honest``."""
    if name is None or Path(name).is_file() or "/" in name or Path(name).suffix:
        return name
    short = [known.removeprefix(_RECIPES) for known in packaged_recipes() if known.startswith(_RECIPES)]
    if name not in short:
        raise RecipeError(
            f"recipe '{name}' is neither a file nor a scoring recipe{suggest(name, short)}\n"
            f"packaged: {', '.join(short) or 'none'}"
        )
    return f"{_RECIPES}{name}"


def _keys_without_effect(recipe: ScoreRecipe) -> dict[str, str]:
    """Return the keys that change nothing, and why; those of a file may be meant for another map."""
    unused = {
        key: f"it belongs to {' and '.join(maps)}, and the map is {recipe.mapping}"
        for key, maps in FIELDS_OF_MAPPINGS.items()
        if recipe.mapping not in maps
    }
    if recipe.n_components != "cv":
        unused.setdefault("component_grid", "it belongs to n_components=cv")
    if recipe.ridge_alpha != "cv":
        unused.setdefault("ridge_grid", "it belongs to ridge_alpha=cv")
    if recipe.pls_stopping == "converged":
        for key in ("pls_tolerance", "pls_max_iterations"):
            unused.setdefault(key, "it belongs to pls_stopping=reference")
    if recipe.compares_all_images:
        why = f"{recipe.mapping} compares all images at once (--set similarity_images=test splits them)"
        unused |= dict.fromkeys(("n_splits", "train_fraction", "split_seed"), why)
    if recipe.measure != "corrected":
        why = f"it belongs to measure=corrected, and the measure is {recipe.measure}"
        unused |= dict.fromkeys(CORRECTED_ONLY, why)
    if recipe.measure == "feve":
        unused["correlation"] = "it belongs to correlations, and the measure is feve"
    if recipe.ceiling == "none":
        unused["source_units"] = "it is about the ceiling: give --ceiling holdout or pairwise"
    if recipe.input.acuity_cpd is None:
        unused["input.field_of_view_deg"] = "it belongs to input.acuity_cpd"
    if recipe.extrapolate == "none" and (recipe.ceiling == "none" or recipe.source_units == "all"):
        unused["n_subsamples"] = "it belongs to source_units=equal with a ceiling, and to extrapolate"
    if recipe.extrapolate == "none":
        unused["extrapolate_grid"] = "it belongs to extrapolate"
    return unused


def _check_contradictions(recipe: ScoreRecipe) -> None:
    """Refuse keys that mean nothing together."""
    if recipe.pools_animals and (recipe.ceiling != "none" or recipe.extrapolate != "none"):
        raise UsageError(
            "a ceiling is between animals, and pooled populations have none left: --set population=animal"
        )
    if recipe.measure != "corrected" and (recipe.ceiling != "none" or recipe.extrapolate != "none"):
        raise UsageError(
            f"a ceiling between animals is corrected for noise, and the measure is {recipe.measure}: "
            "--ceiling none, or --measure corrected"
        )
    if recipe.two_way and (recipe.measure != "corrected" or recipe.mapping in SIMILARITIES):
        what = f"map {recipe.mapping}" if recipe.mapping in SIMILARITIES else f"measure {recipe.measure}"
        raise UsageError(f"two_way predicts animals and models by corrected scores, which {what} has not")
    if recipe.two_way and recipe.shuffle_seed is not None:
        raise UsageError("two_way compares layers as they are: leave shuffle_seed out, or two_way")
    if recipe.layer_choice == "held-out":
        if recipe.compares_all_images:
            raise UsageError(
                f"{recipe.mapping} compares all images at once, so that no layer can be held out: "
                "--set similarity_images=test, or --set layer_choice=paper"
            )
        if recipe.n_splits < 2:
            raise UsageError(
                "held-out layers are chosen on some image splits and scored on others: give --splits 2 "
                "or more, or --set layer_choice=paper"
            )


_NOT_FETCHED = (
    "no recordings fetched: using the embedded SIMULATED dataset, not mouse data\n"
    "for the recordings run: mvkit fetch neural --dataset neuropixels"
)


def open_default(
    name: str | None,
    *,
    selection: SelectionSettings,
    home: Path | None = None,
    remark: Callable[[str], None],
) -> NeuralDataset:
    """Open a dataset; if none is named, neuropixels once it has been fetched, else the simulation.

    ``remark`` is then called with the command that fetches the recordings.
    """
    from mvkit.neural import open_dataset

    if name is None:
        name = default_dataset(home)
        if name != "neuropixels":
            remark(_NOT_FETCHED)
    return open_dataset(name, selection=selection, home=home)


def choose_recordings(dataset: NeuralDataset, areas: Sequence[str] | str | None) -> tuple[Recording, ...]:
    """Return the recordings of some areas, in the dataset's order.

    Raises
    ------
    UsageError
        An area the dataset does not have.
    DataError
        Nothing is left to score, with the reason for every area.
    """
    requested = [areas] if isinstance(areas, str) else areas
    for area in requested or ():
        if area in dataset.skipped and area not in dataset.areas:
            raise DataError(f"area {area} of {dataset.name}: {dataset.skipped[area]}")
    chosen = dataset.recordings if requested is None else dataset.in_areas(requested).recordings
    if not chosen:
        reasons = "; ".join(f"{area}: {why}" for area, why in dataset.skipped.items())
        raise DataError(
            f"{dataset.name}: no unit passes the selection ({reasons or 'the file has no units'})"
        )
    return chosen


def dataset_context(dataset: NeuralDataset) -> dict[str, object]:
    """Return what scores and ceilings note of the dataset they come from."""
    return {
        "dataset": dataset.name,
        "selection": dict(dataset.selection),
        "skipped_areas": dict(dataset.skipped),
        "dataset_provenance": dict(dataset.provenance),
        "versions": installed_versions("torch", "torchvision", "pillow", "h5py"),
    }


def load_models(
    names: Sequence[str],
    *,
    layers: Sequence[str] | None = None,
    weights: str = "released",
    seed: int | None = None,
    home: Path | None = None,
    inputs: InputOptions | None = None,
) -> dict[str, VisionModel]:
    """Load every model of a run and check the layers asked for, before gigabytes are read.

    Parameters
    ----------
    names
        Models as the user names them; see :func:`mvkit.load_model`.
    layers
        Patterns that must match layers of every model; None means each model's default list.
    weights, seed, home
        As in :func:`mvkit.load_model`, for every model.
    inputs
        Changes to how images are prepared, for every model.

    Returns
    -------
    dict
        Name -> model, in the order given.

    Raises
    ------
    UsageError
        No model, an unknown one, the same one twice (also under two names), a pattern that matches no
        layer of some model, or no layers for a model that has no published ones.
    CheckpointError
        Weights that are missing or do not fit.
    """
    from mvkit.features.layers import layers_to_record
    from mvkit.models import load_model

    if not names:
        raise UsageError("no MODEL to score: name at least one")
    _check_duplicates(names, weights)
    models = {}
    for name in names:
        model = load_model(
            name, weights=weights, seed=seed, home=home, **(inputs.keywords() if inputs else {})
        )
        try:
            layers_to_record(model, layers)
        except UsageError as error:
            raise error if len(names) == 1 else UsageError(f"{name}: {error}") from None
        models[name] = model
    return models


def _check_duplicates(names: Sequence[str], weights: str) -> None:
    """Refuse two names of one model: the network's short and long name, a run and its checkpoint."""
    from mvkit.models import find_model
    from mvkit.models.names import parse_external, split_random
    from mvkit.models.registry import Baseline

    first: dict[object, str] = {}
    for given in names:
        name, chosen = split_random(given, weights)
        external = parse_external(name)
        key: object = (
            external.key
            if external is not None
            else _checkpoint(name)
            if is_checkpoint_path(name)
            else find_model(name).architecture.name
        )
        named = external is None and not is_checkpoint_path(name)
        if not (named and isinstance(find_model(name).architecture.blueprint, Baseline)):
            # Baselines have no weights in which they could differ.
            key = key, chosen
        if key in first:
            other = first[key]
            same = "is given twice" if other == given else f"is the same model as {other}"
            raise UsageError(f"model {given} {same}: give each model once")
        first[key] = given


def _checkpoint(name: str) -> Path:
    from mvkit.models.loading import checkpoint_file

    return checkpoint_file(name).resolve()


# The paper's Table 2 beside the scores.

#: The selection of units that the paper's Table 2 is over: that of the code published with it.
_SELECTION = "code"
#: Lengths of the published pickles are known in GB with two digits, and not whether these are 10^9 or 2^30.
_SIZE_TOLERANCE = 0.1
#: Characters of a setting that are shown.
_LONGEST = 30


def compare_with_table2(name: str, weights: str, scores: Scores) -> Table2Comparison | None:
    """Put the paper's Table 2 value of a model beside its scores, with all that forbids to compare them.

    Parameters
    ----------
    name, weights
        As given to :func:`load_models`.
    scores
        Of that model.

    Returns
    -------
    Table2Comparison
        Or None where the table has no row of the model. A dataset for which the row has no value is set
        beside that for Neuropixels.
    """
    from mvkit.models.names import split_random
    from mvkit.models.registry import find_model, is_model, table2_row
    from mvkit.report.text import Table2Comparison
    from mvkit.scoring.results import ALL_AREAS

    name, chosen = split_random(name, weights)
    weights = str(chosen)
    model = find_model(name) if is_model(name) else None
    row = table2_row(model, weights) if model is not None else None
    if model is None or row is None:
        return None
    named = str(scores.context.get("dataset"))
    dataset = named if named in row.percent else "neuropixels"
    best = {str(record["area"]): record for record in scores.best_layers().to_dict("records")}
    everywhere = best.pop(ALL_AREAS)
    scored = [area for area, record in best.items() if record["n_units"]]
    differences = (
        _other_recordings(scores.context, dataset),
        _other_weights(scores.context, weights, model, is_untrained=row.is_untrained),
        _other_selection(scores.context),
        _other_areas(scored),
        *_other_protocol(scores.settings),
        _other_layers(scores.layers, model.architecture.layers),
        *_other_preprocessing(scores.context, model),
    )
    return Table2Comparison(
        row.name,
        dataset,
        row.value(dataset),
        float(everywhere["median"]),
        tuple(difference for difference in differences if difference is not None),
    )


def _other_recordings(context: Mapping[str, object], dataset: str) -> Table2Difference | None:
    """Tell recordings that are not those of the published file from them, by what the neural file says of it.

    The name does not tell: a file made of Allen Institute sessions has it too, and a pickle of the user's.
    """
    from mvkit.fetch.catalogue import RECORDINGS
    from mvkit.files import format_bytes
    from mvkit.neural.reliability import PROVENANCE_KEY
    from mvkit.report.text import Table2Difference

    published = RECORDINGS[dataset]
    named = str(context.get("dataset", "unnamed"))
    if named != dataset:
        words = "the SIMULATED dataset" if named == "simulated" else f"dataset {named}"
        return Table2Difference("dataset", named, dataset, words)
    given = context.get("dataset_provenance")
    provenance = given if isinstance(given, Mapping) else {}
    size = provenance.get("pickle_bytes")
    if size is None and str(provenance.get("source")).endswith(".pkl"):
        # Files converted before the length of the pickle was noted.
        size = provenance.get("source_bytes")
    is_published = (
        "source_sha256" in provenance
        and isinstance(size, int)
        and abs(size - published.approximate_size) <= _SIZE_TOLERANCE * published.approximate_size
    )
    if not is_published:
        here = {"source": provenance.get("source"), "pickle_bytes": size}
        paper = {"source": published.file_name, "pickle_bytes": published.approximate_size}
        words = f"{named} recordings not from the published pickle"
        if isinstance(size, int):
            words += f" ({format_bytes(size)} instead of {format_bytes(published.approximate_size)})"
        return Table2Difference("dataset", here, paper, words)
    if PROVENANCE_KEY in provenance:
        return Table2Difference(
            "dataset", "reliabilities measured anew", "published reliabilities", "reliabilities measured anew"
        )
    return None


def _other_weights(
    context: Mapping[str, object], weights: str, model: ModelRow, *, is_untrained: bool
) -> Table2Difference | None:
    from mvkit.report.text import Table2Difference

    if is_untrained or model.released is None:
        return None
    source = context.get("weights_source")
    if weights == "released" and source == model.released.url:
        return None
    if weights == "random":
        words = "weights random"
    elif weights == "released":
        words = "weights other than the published ones"
    else:
        words = f"weights {Path(weights).name}"
    return Table2Difference("weights", source or weights, model.released.url, words)


def _other_selection(context: Mapping[str, object]) -> Table2Difference | None:
    from mvkit.report.text import Table2Difference

    selection = context.get("selection")
    given = selection if isinstance(selection, Mapping) else {}
    name = str(given.get("name", "unknown"))
    if name != _SELECTION:
        return Table2Difference("selection", name, _SELECTION, f"selection {name}")
    return None


def _other_areas(scored: Sequence[str]) -> Table2Difference | None:
    from mvkit.neural.dataset import AREA_ORDER
    from mvkit.report.text import Table2Difference

    missing = [area for area in AREA_ORDER if area not in scored]
    more = [area for area in scored if area not in AREA_ORDER]
    if not missing and not more:
        return None
    if more:
        words = f"areas {', '.join(more)} too"
    elif len(scored) < len(missing):
        words = f"areas {' and '.join(scored)} only" if scored else "no area with a score"
    else:
        words = f"without {', '.join(missing)}"
    return Table2Difference("areas", list(scored), list(AREA_ORDER), words)


def _other_protocol(settings: ScoreSettings) -> list[Table2Difference]:
    """Name every setting that numbers depend on and that is not the paper's."""
    from mvkit.report.text import Table2Difference

    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    return [
        Table2Difference(
            name,
            here[name],
            paper[name],
            f"{name} {shorten(here[name], _LONGEST)} instead of {shorten(paper[name], _LONGEST)}",
        )
        for name in here
        if here[name] != paper[name]
    ]


def _other_layers(here: Sequence[str], paper: Sequence[str]) -> Table2Difference | None:
    from mvkit.report.text import Table2Difference

    if set(here) == set(paper):
        return None
    taken = [layer for layer in here if layer in paper]
    words = f"{len(taken)} of {len(paper)} layers" if len(taken) == len(here) else "other layers"
    return Table2Difference("layers", list(here), list(paper), words)


def _other_preprocessing(context: Mapping[str, object], model: ModelRow) -> list[Table2Difference]:
    from mvkit.report.text import Table2Difference

    given = context.get("preprocessing")
    here = given if isinstance(given, Mapping) else {}
    paper = plain(model.preprocess.as_dict())
    return [
        Table2Difference(
            "preprocessing",
            {name: here.get(name)},
            {name: paper.get(name)},
            f"{name} {shorten(here.get(name), _LONGEST)} instead of {shorten(paper.get(name), _LONGEST)}",
        )
        for name in dict.fromkeys([*paper, *here])
        if here.get(name) != paper.get(name)
    ]
