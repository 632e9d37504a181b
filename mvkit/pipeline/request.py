"""What a user asks to have scored: dataset, recordings, models, settings, all checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import DataError, RecipeError, UsageError, suggest, unknown_name
from mvkit.files import plain, shortened
from mvkit.machine import Resources, installed_versions
from mvkit.report.text import Table2Comparison, Table2Difference
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from mvkit.models import VisionModel
    from mvkit.models.preprocessing import InputOptions
    from mvkit.models.registry import ModelRow
    from mvkit.neural import NeuralDataset, Recording, SelectionSettings
    from mvkit.scoring import Scores, ScoreSettings


_NOT_FETCHED = (
    "no recordings fetched: using the embedded SIMULATED dataset, not mouse data\n"
    "for the recordings run: mvkit fetch neural --dataset neuropixels"
)


@dataclass(frozen=True)
class ChosenDataset:
    """The dataset that a command uses when none is named, and what to tell the user about it."""

    name: str
    remark: str = ""


def default_dataset(home: Path | None = None) -> ChosenDataset:
    """Choose neuropixels when it has been fetched, and the embedded simulation otherwise.

    Returns
    -------
    ChosenDataset
        With a remark naming the command that fetches the recordings when they are missing.
    """
    from mvkit.features import default_stimuli

    name = default_stimuli(home=home)
    return ChosenDataset(name, "" if name == "neuropixels" else _NOT_FETCHED)


def open_default(
    name: str | None,
    *,
    selection: SelectionSettings,
    home: Path | None = None,
    remark: Callable[[str], None],
) -> NeuralDataset:
    """Open a dataset, or the one of :func:`default_dataset` if none is named, telling the user which."""
    from mvkit.neural import open_dataset

    if name is None:
        chosen = default_dataset(home)
        name = chosen.name
        if chosen.remark:
            remark(chosen.remark)
    return open_dataset(name, selection=selection, home=home)


def choose_recordings(dataset: NeuralDataset, areas: Sequence[str] | str | None) -> tuple[Recording, ...]:
    """Return the recordings of the wanted areas, in the dataset's order.

    Raises
    ------
    UsageError
        An area the dataset does not have.
    DataError
        Nothing is left to score, with the reason for every area.
    """
    wanted = [areas] if isinstance(areas, str) else areas
    for area in wanted or ():
        if area in dataset.skipped and area not in dataset.areas:
            raise DataError(f"area {area} of {dataset.name}: {dataset.skipped[area]}")
    chosen = dataset.recordings if wanted is None else dataset.in_areas(wanted).recordings
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


#: The selection of units that the paper's Table 2 is over: that of the code published with it.
_SELECTION = "code"
#: Lengths of the published pickles are known in GB with two digits, and not whether these are 10^9 or 2^30.
_SIZE_TOLERANCE = 0.1
#: Settings that are numbers of something.
_COUNTED = {"n_splits": "splits", "n_halves": "halvings", "n_components": "components"}
#: Characters of a setting that are shown.
_LONGEST = 30


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
        Preprocessing of models from elsewhere, for every model.

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
    _check_duplicates(names)
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


def _check_duplicates(names: Sequence[str]) -> None:
    """Refuse two names of one model: the network's short and long name, a run and its checkpoint."""
    from mvkit.models import find_model
    from mvkit.models.loading import checkpoint_file
    from mvkit.models.names import is_checkpoint_path, parse_external

    first: dict[object, str] = {}
    for name in names:
        external = parse_external(name)
        key: object = (
            external.key
            if external is not None
            else checkpoint_file(name).resolve()
            if is_checkpoint_path(name)
            else find_model(name).architecture.name
        )
        if key in first:
            other = first[key]
            same = "is given twice" if other == name else f"is the same model as {other}"
            raise UsageError(f"model {name} {same}: give each model once")
        first[key] = name


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
    from mvkit.models.registry import find_model, is_model, table2_row

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
    selection = context.get("selection")
    given = selection if isinstance(selection, Mapping) else {}
    name = str(given.get("name", "unknown"))
    if name != _SELECTION:
        return Table2Difference("selection", name, _SELECTION, f"selection {name}")
    if not given.get("applied", True):
        return Table2Difference("selection", "not applied", _SELECTION, f"selection {name} not applied")
    return None


def _other_areas(scored: Sequence[str]) -> Table2Difference | None:
    from mvkit.neural.dataset import AREA_ORDER

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
    from mvkit.scoring.settings import DEFAULT_SETTINGS

    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    return [
        Table2Difference(
            name,
            here[name],
            paper[name],
            f"{_setting(name, here[name])} instead of {shortened(paper[name], _LONGEST)}",
        )
        for name in here
        if here[name] != paper[name]
    ]


def _setting(name: str, value: object) -> str:
    """Write a setting: ``2 splits``, or its name and value."""
    if name in _COUNTED:
        noun = _COUNTED[name]
        return f"{value} {noun.removesuffix('s') if value == 1 else noun}"
    return f"{name} {shortened(value, _LONGEST)}"


def _other_layers(here: Sequence[str], paper: Sequence[str]) -> Table2Difference | None:
    if set(here) == set(paper):
        return None
    taken = [layer for layer in here if layer in paper]
    words = f"{len(taken)} of {len(paper)} layers" if len(taken) == len(here) else "other layers"
    return Table2Difference("layers", list(here), list(paper), words)


def _other_preprocessing(context: Mapping[str, object], model: ModelRow) -> list[Table2Difference]:
    given = context.get("preprocessing")
    here = given if isinstance(given, Mapping) else {}
    paper = plain(model.preprocess.as_dict())
    return [
        Table2Difference(
            "preprocessing",
            {name: here.get(name)},
            {name: paper.get(name)},
            f"{name} {shortened(here.get(name), _LONGEST)} instead of {shortened(paper.get(name), _LONGEST)}",
        )
        for name in dict.fromkeys([*paper, *here])
        if here.get(name) != paper.get(name)
    ]


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
