"""A run as one HTML page that needs no network: protocol, ranking, figures, tables of layers and of units.

The page is ``report.html`` of this package with the run's numbers as JSON in it; its own JavaScript draws
the figures and tables. Whatever comes from the user (names, paths) stands in the JSON only and is put on the
page as text, never as markup.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit import __version__
from mvkit.errors import DataError, UsageError
from mvkit.files import check_output_path, name_text, plain, write_text
from mvkit.report.figures.style import looks
from mvkit.report.tables import (
    CHOICES,
    area_name,
    best_layers,
    extrapolation_lines,
    has_units,
    is_pooled,
    percent,
    verdict,
)
from mvkit.report.text import (
    ScoreRun,
    Table2Comparison,
    Table2Difference,
    joined_lines,
    mapping_words,
    result_lines,
    trial_words,
    warning_lines,
)
from mvkit.scoring.comparison import compare_models, fraction_of_ceiling
from mvkit.scoring.correlation import FULL_SIZE, REASONS, UNMAPPED
from mvkit.scoring.intervals import METHOD
from mvkit.scoring.layer_choice import OR, choose_layer, unit_grid
from mvkit.scoring.measures import MEASURES
from mvkit.scoring.results import ALL_AREAS, SUMMARY_JSON, Scores, read_models, read_scores
from mvkit.scoring.settings import (
    CEILING,
    CORRECTED_ONLY,
    DEFAULT_SETTINGS,
    FIELDS_OF_MAPPINGS,
    SIMILARITIES,
    ScoreSettings,
)

if TYPE_CHECKING:
    from mvkit.neural.selection import SelectionOutcome

#: Scores of units are stored as whole numbers of this.
STEP = 1e-4

#: How to cite the paper whose protocol and models these are.
BIBTEX = """\
@article{nayebi2023mouse,
  title   = {Mouse visual cortex as a limited resource system that self-learns an
             ecologically-general representation},
  author  = {Nayebi, Aran and Kong, Nathan C. L. and Zhuang, Chengxu and Gardner, Justin L.
             and Norcia, Anthony M. and Yamins, Daniel L. K.},
  journal = {PLOS Computational Biology},
  volume  = {19},
  number  = {10},
  pages   = {e1011506},
  year    = {2023},
  doi     = {10.1371/journal.pcbi.1011506}
}"""

#: Why the selection excluded a unit, in the words of the table of units.
_EXCLUDED = {
    "reliability": "reliability too low",
    "running": "modulated by running",
    "no_responsive_bin": "no reliable time bin",
    "few_units": "too few units left in its recording",
}

#: The same of several units.
_EXCLUDED_SEVERAL = {
    "reliability": "of too low reliability",
    "running": "modulated by running",
    "no_responsive_bin": "without a reliable time bin",
    "few_units": "in recordings with too few units left",
}

_TEMPLATE = "report.html"
_CEILING_FOLDER, _UNITS_CSV = "ceiling", "units.csv"

Row = dict[str, Any]
UnitKey = tuple[str, int, int]


def write_report(run: ScoreRun, path: Path, *, command: str = "") -> Path:
    """Write a run as one HTML file, whole or not at all.

    Parameters
    ----------
    run
        The run.
    path
        File to write; one that exists is replaced.
    command
        The command line that made the run, shown as it is; "" = not known.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        If the path is a folder or has another suffix than ``.html`` or ``.htm``.
    """
    check_report(path)
    data = report_data(run, command=command)
    template = (resources.files("mvkit.report") / _TEMPLATE).read_text(encoding="utf-8")
    parts = {
        "title": escape(str(data["title"])),
        "formula": formula_mathml(run.scores.settings),
        "data": embed_json(data),
    }
    # In one pass: what is filled in may hold what looks like a placeholder.
    write_text(path, re.sub(r"\{\{(title|formula|data)\}\}", lambda match: parts[match[1]], template))
    return path


def check_report(path: Path) -> None:
    """Check the file of a report before hours of work end in it.

    Raises
    ------
    UsageError
        If the path is a folder, has another suffix than ``.html`` or ``.htm``, or cannot be written to.
    """
    check_output_path(path, overwrite=True, example="report.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: a report is a page; give a name that ends in .html")


def embed_json(value: object) -> str:
    """Return JSON that may stand inside a ``<script>`` element, whatever its texts hold."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def read_run(folders: Sequence[Path]) -> ScoreRun:
    """Read back what ``mvkit score --out`` wrote, to report on it; several folders make one run.

    Comparison and fractions of the ceiling are computed anew, with the same numbers.

    Parameters
    ----------
    folders
        Folders with the scores of one model, or with a folder of each of several models; at least one.

    Raises
    ------
    DataError
        If a folder holds no scores, or damaged ones.
    UsageError
        If folders of different protocols are given, or one is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a folder is given twice: give each once")
    models: dict[str, Scores] = {}
    table2: dict[str, Table2Comparison | None] = {}
    ceiling: Scores | None = None
    selection: SelectionOutcome | None = None
    for folder in folders:
        for name, scores in read_models(folder).items():
            label = name_text(folder / name) if name in models else name
            models[label] = scores
            table2[label] = _read_table2(folder, name)
        if ceiling is None and (folder / _CEILING_FOLDER / SUMMARY_JSON).is_file():
            ceiling = read_scores(folder / _CEILING_FOLDER)
        if selection is None and (folder / _UNITS_CSV).is_file():
            selection = _read_selection(folder / _UNITS_CSV)
    comparison = (
        compare_models(models, choice=_first(models).settings.layer_choice) if len(models) > 1 else None
    )
    fractions = (
        {}
        if ceiling is None
        else {name: fraction_of_ceiling(scores, ceiling) for name, scores in models.items()}
    )
    return ScoreRun(
        models, table2, ceiling=ceiling, fractions=fractions, comparison=comparison, selection=selection
    )


def _read_table2(folder: Path, name: str) -> Table2Comparison | None:
    entries = json.loads((folder / SUMMARY_JSON).read_text(encoding="utf-8"))["models"]
    document = next((entry.get("table2") for entry in entries if entry["name"] == name), None)
    if not document:
        return None
    here = document["here"]
    return Table2Comparison(
        document["row"],
        document["dataset"],
        document["value"],
        math.nan if here is None else here,
        tuple(Table2Difference(**difference) for difference in document["differences"]),
    )


def _read_selection(path: Path) -> SelectionOutcome:
    import pandas as pd

    from mvkit.neural.selection import SelectionOutcome, SelectionSettings

    try:
        table = pd.read_csv(path, keep_default_na=False)
        return SelectionOutcome(
            unit_ids=table["unit_id"].to_numpy(np.int64),
            specimens=table["specimen"].to_numpy(np.int64),
            areas=table["area"].to_numpy(str),
            reasons=table["excluded"].to_numpy(str),
            min_units={},
            settings=SelectionSettings(),
            threshold=None,
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); score again with --out") from error


def report_data(run: ScoreRun, *, command: str = "") -> dict[str, Any]:
    """Return everything that a report shows, as plain JSON values.

    Parameters
    ----------
    run
        The run.
    command
        The command line that made it.

    Returns
    -------
    dict
        Among others ``areas``, ``models`` (each with ``summary``, a row per layer and area; ``best``, a row
        per area; ``animals``, medians per animal; ``units``, columns as long as the table of units) and
        ``units`` (``area``, ``animal``, ``id``, ``excluded``). Scores, correlations and reliabilities of
        units are whole numbers of :data:`STEP`, None = none; all other numbers are as in the results. Units
        have the values of the layer chosen for their area only.
    """
    scores = run.scores
    everything = {**run.models, **run.earlier}
    units = _UnitTable(everything.values(), run.selection)
    simulated = scores.context.get("dataset") == "simulated"
    dataset = (
        "SIMULATED data, not mouse recordings"
        if simulated
        else str(scores.context.get("dataset", "recordings"))
    )
    names = list(everything)
    subject = names[0] if len(names) == 1 else f"{len(names)} models"
    colours = model_colours(names)
    ceiling = None if run.ceiling is None else _ceiling_data(run.ceiling, units)
    return {
        "title": f"{subject} on {dataset}",
        "dataset": dataset,
        "simulated": simulated,
        "step": STEP,
        "hasUnits": has_units(scores),
        "pooled": is_pooled(scores),
        "similarity": scores.settings.mapping in SIMILARITIES,
        "confidence": percent(scores.settings.confidence),
        "choice": scores.settings.layer_choice,
        "choiceWords": _choice_words(everything),
        "areas": [*units.areas, ALL_AREAS],
        "areaNames": [area_name(area) for area in (*units.areas, ALL_AREAS)],
        "units": units.to_json(),
        "models": [
            {**_model_data(run, name, model, units), "colour": colours[name], "earlier": name in run.earlier}
            for name, model in everything.items()
        ],
        "ceiling": ceiling,
        "comparison": _comparison_data(run),
        "reasons": units.reasons,
        "facts": _facts(run, units),
        "notes": _notes(run),
        "protocol": protocol_data(scores),
        "environment": _environment(run, command),
        "bibtex": BIBTEX,
        "written": datetime.date.today().isoformat(),
        "version": __version__,
    }


class _UnitTable:
    """Every unit of a run once: those that were scored, area by area, then those that were excluded."""

    def __init__(self, results: Iterable[Scores], selection: SelectionOutcome | None) -> None:
        models = list(results)
        self.areas = list(dict.fromkeys(area for scores in models for area in scores.areas))
        #: Texts that columns refer to by their position; the first is "".
        self.reasons = [""]
        self._index: dict[UnitKey, int] = {}
        for area in self.areas:
            for scores in models:
                for key in _unit_keys(scores, area):
                    self._index.setdefault(key, len(self._index))
        self._excluded = [0] * len(self._index)
        if selection is not None:
            keys = zip(
                selection.areas.tolist(),
                selection.specimens.tolist(),
                selection.unit_ids.tolist(),
                strict=True,
            )
            for key, reason in zip(keys, selection.reasons.tolist(), strict=True):
                if reason and key[0] in self.areas and key not in self._index:
                    self._index[key] = len(self._index)
                    self._excluded.append(self.reason(f"excluded: {_EXCLUDED.get(reason, reason)}"))
        self.animals = sorted({specimen for _, specimen, _ in self._index})

    def __len__(self) -> int:
        return len(self._index)

    def reason(self, text: str) -> int:
        """Return the position of a text, added if it is new."""
        if text not in self.reasons:
            self.reasons.append(text)
        return self.reasons.index(text)

    def positions(self, keys: Iterable[UnitKey]) -> list[int]:
        return [self._index[key] for key in keys]

    def to_json(self) -> dict[str, Any]:
        area_of = {area: position for position, area in enumerate(self.areas)}
        animal_of = {animal: position for position, animal in enumerate(self.animals)}
        return {
            "area": [area_of[area] for area, _, _ in self._index],
            "animal": [animal_of[specimen] for _, specimen, _ in self._index],
            # As text: ids may be larger than JavaScript's whole numbers.
            "id": [str(unit) for _, _, unit in self._index],
            "excluded": self._excluded,
            "animals": [str(animal) for animal in self.animals],
        }


def _unit_keys(scores: Scores, area: str) -> list[UnitKey]:
    """Return the units of an area in the order of its first layer."""
    if not scores.layers or area not in scores.areas:
        return []
    chosen = (scores.columns["area"] == area) & (scores.columns["layer"] == scores.layers[0])
    specimens, unit_ids = (scores.columns[name][chosen].tolist() for name in ("specimen", "unit_id"))
    return [(area, int(specimen), int(unit)) for specimen, unit in zip(specimens, unit_ids, strict=True)]


def _model_data(run: ScoreRun, name: str, scores: Scores, units: _UnitTable) -> Row:
    areas = [*units.areas, ALL_AREAS]
    choice = run.scores.settings.layer_choice
    fractions = _fractions(run, name, choice)
    best = {str(row["area"]): row for row in best_layers(scores, choice).to_dict("records")}
    table2 = run.table2.get(name)
    rows = []
    for position, area in enumerate(areas):
        if area in best:
            row = _interval_row(best[area])
            rows.append(
                {"area": position, "layer": str(best[area]["layer"]), **row, **fractions.get(area, {})}
            )
    summary = [
        {
            "layer": scores.layers.index(str(row["layer"])),
            "area": areas.index(str(row["area"])),
            **_interval_row(row),
        }
        for row in scores.summary().to_dict("records")
    ]
    columns, animals = _unit_columns(scores, choice, units)
    return {
        "name": name,
        "weights": str(scores.context.get("weights_source", "")),
        "network": str(scores.context.get("network", "")),
        "layers": list(scores.layers),
        "best": rows,
        "summary": summary,
        "animals": animals,
        "units": columns,
        "table2": "" if table2 is None else table2.line(),
    }


def _interval_row(row: Mapping[Any, Any]) -> Row:
    names = ("median", "low", "high", "n_units", "n_animals", "n_nan", "reason")
    return {name: plain(row[name]) for name in names if name in row}


def _fractions(run: ScoreRun, name: str, choice: str) -> dict[str, Row]:
    frame = run.fractions.get(name)
    if frame is None:
        return {}
    return {
        str(row["area"]): {
            "fraction": plain(row["fraction"]),
            "fractionLow": plain(row["low"]),
            "fractionHigh": plain(row["high"]),
        }
        for row in frame.to_dict("records")
        if row["choice"] == choice
    }


def _unit_columns(scores: Scores, choice: str, units: _UnitTable) -> tuple[Row, list[list[Any]]]:
    """Return columns over all units, and rows (area, animal, median, number of units) per animal."""
    n_units = len(units)
    values = {name: np.full(n_units, np.nan) for name in ("score", "raw", "map", "response", "highest")}
    counts = {
        name: np.full(n_units, -1, dtype=np.int64) for name in ("used", "dropped", "reason", "own", "layer")
    }
    layers: list[str] = []
    animals: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for area in scores.areas:
        grid = unit_grid(scores.columns, scores.by_fold, scores.layers, area)
        chosen = choose_layer(grid, choice)
        specimens, unit_ids = chosen.specimen.tolist(), chosen.unit_id.tolist()
        at = np.array(
            units.positions(
                (area, specimen, unit) for specimen, unit in zip(specimens, unit_ids, strict=True)
            ),
            dtype=np.int64,
        )
        if not len(at):
            continue
        values["score"][at] = chosen.score
        # -inf for no score, so that argmax finds a layer; those without any score stay -1.
        ranked = np.where(np.isnan(grid.score), -np.inf, grid.score)
        own = ranked.argmax(axis=0)
        highest = ranked.max(axis=0)
        counts["own"][at] = np.where(np.isfinite(highest), own, -1)
        values["highest"][at] = np.where(np.isfinite(highest), highest, np.nan)
        if chosen.layer not in layers:
            layers.append(chosen.layer)
        counts["layer"][at] = layers.index(chosen.layer)
        # A held-out score of two layers has no raw correlation of its own.
        single = chosen.layer in scores.layers
        layer = chosen.layer if single else (chosen.layer.split(OR)[0] or scores.layers[0])
        of_layer = np.flatnonzero((scores.columns["area"] == area) & (scores.columns["layer"] == layer))
        values["response"][at] = scores.columns["response_reliability"][of_layer]
        if single:
            values["raw"][at] = scores.columns["raw_correlation"][of_layer]
            values["map"][at] = scores.columns["map_reliability"][of_layer]
            counts["used"][at] = scores.columns["halves_used"][of_layer]
            counts["dropped"][at] = scores.columns["halves_dropped"][of_layer]
        reasons, details = scores.columns["reason"][of_layer], scores.columns["detail"][of_layer]
        for position, score, reason, detail in zip(
            at.tolist(), chosen.score.tolist(), reasons.tolist(), details.tolist(), strict=True
        ):
            missing = math.isnan(score)
            words = (detail if reason == UNMAPPED else REASONS.get(reason, reason)) if missing else ""
            words = words or (chosen.reason or "no score from the layers chosen" if missing else "")
            counts["reason"][position] = units.reason(words)
        if not is_pooled(scores):
            everywhere = len(units.areas)
            for specimen in sorted(set(specimens)):
                of_animal = chosen.score[chosen.specimen == specimen]
                for key in ((units.areas.index(area), specimen), (everywhere, specimen)):
                    animals.setdefault(key, []).append(of_animal[~np.isnan(of_animal)])
    medians = [
        [area, units.animals.index(specimen), float(np.median(scored)), len(scored)]
        for (area, specimen), parts in sorted(animals.items())
        if len(scored := np.concatenate(parts))
    ]
    compact: dict[str, list[Any]] = {name: _steps(column) for name, column in values.items()}
    compact |= {name: column.tolist() for name, column in counts.items()}
    return {**compact, "layers": layers}, medians


def _steps(values: NDArray[np.float64]) -> list[int | None]:
    """Return values as whole numbers of :data:`STEP`, None for NaN: a third of the characters."""
    return [
        None if not math.isfinite(value) else round(value / STEP)
        for value in values.astype(np.float64).tolist()
    ]


def _ceiling_data(ceiling: Scores, units: _UnitTable) -> Row:
    areas = [*units.areas, ALL_AREAS]
    values = np.full(len(units), np.nan)
    for area in ceiling.areas:
        known = [(key, index) for index, key in enumerate(_unit_keys(ceiling, area)) if key in units._index]
        chosen = ceiling.chosen_units("paper")[area]
        for key, index in known:
            values[units._index[key]] = chosen.score[index]
    return {
        "kind": ceiling.layers[0],
        "words": _ceiling_words(ceiling.layers[0]),
        "rows": [
            {"area": areas.index(str(row["area"])), **_interval_row(row)}
            for row in ceiling.summary().to_dict("records")
            if row["area"] in areas
        ],
        "score": _steps(values),
    }


def _ceiling_words(kind: str) -> str:
    if kind == "holdout":
        return "consistency between animals: each predicted from the units of all others pooled"
    return "consistency between animals: each predicted from every other one by itself"


def _comparison_data(run: ScoreRun) -> list[Row] | None:
    if run.comparison is None:
        return None
    names = list(run.models) + list(run.earlier)
    areas = [*_areas(run), ALL_AREAS]
    rows = []
    for row in run.comparison.table().to_dict("records"):
        rows.append(
            {
                "area": areas.index(str(row["area"])),
                "first": names.index(str(row["first"])),
                "second": names.index(str(row["second"])),
                **{name: plain(row[name]) for name in ("difference", "low", "high", "p_holm", "resolved")},
                "n_units": int(row["n_units"]),
                "n_animals": int(row["n_animals"]),
                "verdict": verdict(row),
            }
        )
    return rows


def _areas(run: ScoreRun) -> list[str]:
    return list(
        dict.fromkeys(
            area for scores in (*run.models.values(), *run.earlier.values()) for area in scores.areas
        )
    )


def _choice_words(models: Mapping[str, Scores]) -> str:
    if all(len(scores.layers) == 1 for scores in models.values()):
        return "one layer per model"
    choice = _first(models).settings.layer_choice
    if choice == "held-out":
        return "best layer of each area, held-out: chosen on some image splits, scored on the others"
    return f"best layer of each area, {CHOICES[choice]}"


def _facts(run: ScoreRun, units: _UnitTable) -> list[list[str]]:
    """Return (name, text) of what was scored."""
    scores = run.scores
    chosen = scores.columns["layer"] == (scores.layers[0] if scores.layers else "")
    n_rows, n_animals = int(chosen.sum()), len(set(scores.columns["specimen"][chosen].tolist()))
    rows = f"{n_rows:,} units" if has_units(scores) else f"{n_rows:,} populations"
    animals = "animals pooled" if is_pooled(scores) else f"{n_animals:,} animals"
    counts = [f"{area} {int((chosen & (scores.columns['area'] == area)).sum()):,}" for area in scores.areas]
    settings = scores.settings
    amount = "all images" if settings.compares_all_images else f"{settings.n_splits} image splits"
    return [
        [
            "Dataset",
            "SIMULATED, not mouse recordings"
            if scores.context.get("dataset") == "simulated"
            else str(scores.context.get("dataset", "recordings")),
        ],
        ["Scored", f"{rows}, {animals} ({', '.join(counts)})"],
        ["Selection", " ".join(_selection_words(run))],
        [
            "Protocol",
            f"{scores.digest()[:12]}: {mapping_words(settings)}, {amount} x {trial_words(settings)}",
        ],
        ["Layers", _choice_words({**run.models, **run.earlier})],
    ]


def _selection_words(run: ScoreRun) -> list[str]:
    given = run.scores.context.get("selection")
    selection = given if isinstance(given, Mapping) else {}
    name = str(selection.get("name", "as given"))
    if not selection.get("applied", True):
        return [f"{name}, not applied: {str(selection.get('note', '')).removeprefix('not applied: ')}"]
    words = [f"{name} ({selection['source']})." if selection.get("source") else f"{name}."]
    outcome = run.selection
    if outcome is None:
        return words
    if outcome.n_kept == outcome.n_units:
        return [*words, f"All {outcome.n_units:,} units were kept."]
    # Saved scores know the reasons, not the thresholds.
    thresholds = outcome.threshold is not None or bool(outcome.min_units)
    causes = [
        f"{count:,} {outcome.words(reason) if thresholds else _EXCLUDED_SEVERAL.get(reason, reason)}"
        for reason, (count, _) in outcome.excluded().items()
    ]
    kept = f"Kept {outcome.n_kept:,} of {outcome.n_units:,} units"
    kept += f", {outcome.n_animals_kept} of {outcome.n_animals} animals"
    return [*words, f"{kept}; left out: {'; '.join(causes)}."]


def _notes(run: ScoreRun) -> list[list[str]]:
    """Return (kind, text, model or "") of warnings and of the remarks below them."""
    warnings = [["warning", f"{line.removeprefix('warning: ')}.", ""] for line in warning_lines(run)]
    notes = [["note", f"{line[:1].upper()}{line[1:]}.", ""] for line in run.notes]
    for name, scores in {**run.models, **run.earlier}.items():
        lines = result_lines(scores, table2=run.table2.get(name))
        if lines:
            text = " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines)
            notes.append(["note", text, name])
    few: dict[str, list[str]] = {}
    for row in best_layers(run.scores, run.scores.settings.layer_choice).to_dict("records"):
        if row["reason"]:
            few.setdefault(str(row["reason"]), []).append(area_name(row["area"]))
    notes += [["note", f"No interval for {', '.join(names)}: {reason}.", ""] for reason, names in few.items()]
    for name, compared in run.two_way.items():
        verdicts = (f"{row['area']}: {row['verdict']}" for row in compared.to_json())
        notes.append(["note", f"{'; '.join(verdicts)}.", f"{name} and animals, both ways"])
    if run.extrapolation is not None:
        title = f"ceiling over the number of {run.extrapolation.over}"
        notes.append(["note", f"{'; '.join(extrapolation_lines(run.extrapolation))}.", title])
    return warnings + notes


def protocol_data(scores: Scores) -> Row:
    """Return the protocol in words, its digest, and the settings that differ from the paper's.

    Parameters
    ----------
    scores
        Scores made by it.

    Returns
    -------
    dict
        ``digest`` (sha256, hex), ``steps`` (sentences), ``symbols`` (symbol and meaning), ``settings`` (name,
        value, the paper's value where it differs, else "").
    """
    settings = scores.settings
    paper = DEFAULT_SETTINGS.protocol()
    here = settings.model_dump(mode="json")
    hidden = _unused_settings(settings)
    return {
        "digest": scores.digest(),
        "steps": protocol_steps(settings),
        "symbols": _symbols(settings),
        "axis": _axis(settings),
        "settings": [
            [name, _text(value), _text(paper[name]) if value != paper.get(name, value) else ""]
            for name, value in here.items()
            if name not in hidden
        ],
        "source": (
            "Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code published with it "
            "computes it; numbers of splits and halves as given to us, not checked against the paper's text."
        ),
    }


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_text(one)}" for name, one in value.items() if one)
    if isinstance(value, list):
        return ", ".join(f"{one:g}" if isinstance(one, float) else _text(one) for one in value)
    return str(value)


def _unused_settings(settings: ScoreSettings) -> set[str]:
    """Return settings that belong to another map and would only lengthen the table."""
    unused = {name for name, maps in FIELDS_OF_MAPPINGS.items() if settings.mapping not in maps}
    if settings.mapping in SIMILARITIES:
        unused.add("correlation")
        if settings.compares_all_images:
            unused |= {"n_splits", "train_fraction", "split_seed"}
    if settings.measure != "corrected":
        unused |= CORRECTED_ONLY
    if settings.ceiling == "none":
        unused |= CEILING - {"ceiling"}
    return unused


def protocol_steps(settings: ScoreSettings) -> list[str]:
    """Describe a protocol in sentences, in the order in which it is carried out."""
    similarity = settings.mapping in SIMILARITIES
    each = "each image by its own draw" if not settings.synchronous else "one draw for all images"
    drawn = {
        "split-half": "divided at random into two disjoint halves",
        "bootstrap": "resampled twice with replacement",
        "bootstrap-full-mean": "resampled with replacement, and set beside all trials",
        "subsample-half": "subsampled twice, half of them each time",
        "subsample-half-replacement": "subsampled twice with replacement, half as many each time",
    }[settings.halving]
    fitted = "once to each half" if settings.measure == "corrected" else "to the mean of all trials"
    steps = []
    if not settings.compares_all_images:
        share = f"{100 * settings.train_fraction:g} %"
        role = "are set aside" if similarity else "train the map"
        steps.append(
            f"Images: {share} of the images, drawn at random, {role}, the others test it; "
            f"{settings.n_splits} such splits (seeds from {settings.split_seed} on)."
        )
    if settings.measure == "corrected":
        steps.append(
            f"Trials: the trials are {drawn}, {settings.n_halves} times"
            f"{'' if settings.compares_all_images else ' for every split'}, {each} (seeds from "
            f"{settings.halves_seed} on), and responses are averaged within each half."
        )
    if similarity:
        pooled = "all animals of an area pooled" if settings.pools_animals else "one animal in an area"
        steps.append(
            f"Similarity: {mapping_words(settings)}, between a layer and a population, which is the units of "
            f"{pooled}. Nothing is fitted."
        )
    else:
        steps.append(
            f"Map: {mapping_words(settings)} from the features of a layer to the responses of the units, "
            f"fitted on the training images {fitted}, and used to predict "
            f"{'the test images' if settings.scored_images == 'test' else 'these same images'}."
        )
    if settings.measure != "corrected":
        steps.append(f"Score of a unit: {MEASURES[settings.measure]}, the mean over splits.")
    elif settings.correction == "none":
        steps.append("Score of a unit: not corrected for noise.")
    elif settings.estimator == "mean-of-corrected":
        steps.append(
            "Correction for noise: in every pair of halves, by the formula below; pairs whose reliabilities "
            "are not positive cannot be corrected and are left out. The score is the mean over the others."
        )
    else:
        steps.append(
            "Correction for noise: correlations are averaged over splits and halves first, and the averages "
            "are corrected by the formula below, so that no half is left out."
        )
    noun = "populations" if similarity else "units"
    choice = (
        "the highest median on the very test images that are reported (as the paper does; this flatters "
        "models with many layers)"
        if settings.layer_choice == "paper"
        else "the highest median on half of the image splits, and is scored on the others, both ways"
    )
    steps.append(f"Score of an area: the median over its {noun}, from the layer that has {choice}.")
    steps.append(
        f"Intervals: {percent(settings.confidence)}, {METHOD}; {settings.n_resamples:,} resamples, "
        f"seed {settings.resampling_seed}."
    )
    if settings.ceiling != "none":
        steps.append(f"Ceiling: {_ceiling_words(settings.ceiling)}, with the same formula.")
    return steps


def _symbols(settings: ScoreSettings) -> list[list[str]]:
    """Return (symbol, meaning) of what stands in the formula."""
    kind = "Spearman's rank" if settings.correlation == "spearman" else "Pearson's"
    if settings.measure == "feve":
        return [
            ["MSE", "mean squared difference of prediction and response, over trials and test images"],
            ["V", "variance of the responses over trials and test images"],
            ["N", "their variance over the trials of an image, averaged over test images"],
            ["⟨ ⟩", "mean over image splits"],
        ]
    if settings.measure != "corrected":
        responses = (
            ["t", "responses of the unit in all trials of the test images"]
            if settings.measure == "single-trial"
            else ["t", "responses of the unit to the test images, averaged over trials"]
        )
        return [
            ["r", f"{kind} correlation"],
            ["p", "predictions of the map fitted to all trials"],
            responses,
            ["⟨ ⟩", "mean over image splits"],
        ]
    if settings.mapping in SIMILARITIES:
        comparison = {
            "pearson": "Pearson's correlation",
            "spearman": "Spearman's rank correlation",
            "cosine": "the cosine",
        }
        what = (
            f"{comparison[settings.rsa_comparison]} of two dissimilarity matrices"
            if settings.mapping == "rsa"
            else "centred kernel alignment"
        )
        symbols = [
            ["r", what],
            ["L", "the layer"],
            ["t₁, t₂", "the population's responses in half 1 and half 2"],
        ]
    else:
        symbols = [
            ["r", f"{kind} correlation over the test images"],
            ["p₁, p₂", "predictions of the maps fitted to half 1 and to half 2"],
            ["t₁, t₂", "responses of the unit in half 1 and half 2"],
        ]
    if settings.correction.startswith("spearman-brown") and settings.halving not in FULL_SIZE:
        symbols.append(["SB", "Spearman and Brown's step from halves to all trials, SB(r) = 2r / (1 + r)"])
    symbols.append(
        [
            "⟨ ⟩",
            "mean over image splits and trial halves"
            if not settings.compares_all_images
            else "mean over trial halves",
        ]
    )
    return symbols


def _axis(settings: ScoreSettings) -> str:
    """Name what is scored, for axes."""
    if settings.measure != "corrected":
        return MEASURES[settings.measure]
    what = {"rsa": "RDM similarity", "cka": "CKA"}.get(settings.mapping, "correlation")
    return f"noise-corrected {what}" if settings.is_corrected else what


_OPEN, _CLOSE = '<mo stretchy="false">(</mo>', '<mo stretchy="false">)</mo>'
_CORRELATION = f"<mi>r</mi>{_OPEN}<mi>p</mi><mo>,</mo><mi>t</mi>{_CLOSE}"
#: Measure of maps fitted to all trials -> its formula.
_UNCORRECTED = {
    "feve": "<mn>1</mn><mo>&#8722;</mo><mfrac><mrow><mi>MSE</mi><mo>&#8722;</mo><mi>N</mi></mrow>"
    "<mrow><mi>V</mi><mo>&#8722;</mo><mi>N</mi></mrow></mfrac>",
    "single-trial": _CORRELATION,
    "to-average": _CORRELATION,
}


def formula_mathml(settings: ScoreSettings) -> str:
    """Return the formula of a unit's score as MathML.

    Parameters
    ----------
    settings
        ``measure``, ``correction``, ``estimator``, ``halving`` and ``mapping`` decide.
    """
    if settings.measure != "corrected":
        return _score_is(f"<mo>⟨</mo>{_UNCORRECTED[settings.measure]}<mo>⟩</mo>")
    similarity = settings.mapping in SIMILARITIES
    averaged_first = settings.estimator == "corrected-mean"

    def mean(inner: str) -> str:
        return f"<mo>⟨</mo>{inner}<mo>⟩</mo>"

    def correlation(first: str, second: str) -> str:
        inner = f"<mi>r</mi>{_OPEN}{first}<mo>,</mo>{second}{_CLOSE}"
        return mean(inner) if averaged_first and settings.correction != "none" else inner

    def whole(reliability: str) -> str:
        if settings.correction != "spearman-brown-denominator" or settings.halving in FULL_SIZE:
            return reliability
        return f"<mi>SB</mi>{_OPEN}{reliability}{_CLOSE}"

    p1, p2, t1, t2 = (f"<msub><mi>{name}</mi><mn>{half}</mn></msub>" for name in "pt" for half in (1, 2))
    layer = "<mi>L</mi>"
    top = correlation(layer if similarity else p1, t2)
    if settings.correction == "none":
        inner = top
    else:
        parts = (
            [whole(correlation(t1, t2))]
            if similarity
            else [whole(correlation(p1, p2)), whole(correlation(t1, t2))]
        )
        product = "<mo>·</mo>".join(parts)
        inner = f"<mfrac><mrow>{top}</mrow><msqrt><mrow>{product}</mrow></msqrt></mfrac>"
        if settings.correction == "spearman-brown-ratio" and settings.halving not in FULL_SIZE:
            inner = f"<mi>SB</mi>{_OPEN}{inner}{_CLOSE}"
    body = inner if averaged_first and settings.correction != "none" else mean(inner)
    return _score_is(body)


def _score_is(formula: str) -> str:
    return f'<math display="block"><mrow><mi>score</mi><mo>=</mo>{formula}</mrow></math>'


def _environment(run: ScoreRun, command: str) -> list[list[str]]:
    """Return (name, text) of versions, seeds, digests and the command line."""
    scores, settings = run.scores, run.scores.settings
    versions = scores.context.get("versions")
    provenance = scores.context.get("dataset_provenance")
    rows = [
        ["Command", command or "not recorded"],
        ["Protocol digest", f"{scores.digest()} (sha256)"],
        ["Responses", f"{scores.context.get('responses_sha256', 'not recorded')} (sha256)"],
        [
            "Seeds",
            f"image splits {settings.split_seed}, trial halves {settings.halves_seed}, "
            f"resampling {settings.resampling_seed}",
        ],
        [
            "Versions",
            ", ".join(f"{name} {version}" for name, version in versions.items())
            if isinstance(versions, Mapping)
            else "not recorded",
        ],
    ]
    if "fit_device" in scores.context:
        rows.append(["Fits made on", str(scores.context["fit_device"])])
    if isinstance(provenance, Mapping):
        # Where the file lies on somebody's disk is nobody's business.
        about = [
            f"{name.replace('_', ' ')}: {_text(plain(value))}"
            for name, value in provenance.items()
            if name != "file" and value
        ]
        rows.append(["Source of the data", "; ".join(about) or "not recorded"])
    for name, model in {**run.models, **run.earlier}.items():
        preprocessing = model.context.get("preprocessing")
        weights = model.context.get("weights_source") or model.context.get("weights_id")
        # "NAME: images at 64 px"
        words = [
            f"weights: {weights}" if weights not in (None, "", "none") else "",
            str(model.context.get("network", "")).split(": ", 1)[-1],
            *joined_lines(model),
        ]
        if isinstance(preprocessing, Mapping):
            words += [
                f"{key} {_text(plain(value))}" for key, value in preprocessing.items() if value is not None
            ]
        rows.append([name, "; ".join(filter(None, words)) or "nothing recorded"])
    return rows


#: Background of a page -> contrast of marks: at least 3 (WCAG 2.1, 1.4.11), and more on a dark one, where
#: bands behind them are lighter than the page.
PAGES = {"#ffffff": 3.0, "#15181c": 5.0}


def model_colours(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the colour of every model in all figures, for light and dark pages."""
    return {name: page_colours(look.colour) for name, look in looks(names).items()}


def page_colours(colour: str) -> tuple[str, str]:
    """Return a colour (``#rrggbb``) darkened or lightened until it stands out from light and dark pages."""
    light, dark = PAGES
    return _stand_out(colour, light, towards=0), _stand_out(colour, dark, towards=255)


def _stand_out(colour: str, page: str, *, towards: int) -> str:
    parts = _channels(colour)
    for step in range(101):
        mixed = "#" + "".join(f"{round(part + (towards - part) * step / 100):02x}" for part in parts)
        if contrast(mixed, page) >= PAGES[page]:
            return mixed
    return "#" + 3 * f"{towards:02x}"


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2), from 1 to 21."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def _first(models: Mapping[str, Scores]) -> Scores:
    return next(iter(models.values()))
