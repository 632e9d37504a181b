"""What a scoring run writes: tables as files, and one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.files import check_output_path, plain, replacing, write_text
from mvkit.report.tables import latex_table, markdown_table
from mvkit.report.text import ScoreRun, warning_lines
from mvkit.scoring.results import records, results_document, save_models, with_source

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.neural.selection import SelectionOutcome
    from mvkit.scoring.comparison import Comparison


def run_document(run: ScoreRun, files: Sequence[Path] = (), *, tables: bool = True) -> dict[str, Any]:
    """Return a run as plain JSON values (NaN becomes None): what ``--json`` prints.

    Described by a JSON schema, :func:`mvkit.report.schema.score_schema`. The keys are those of
    :func:`mvkit.scoring.results.results_document`, and: in each of ``models`` ``table2`` (None for a model
    that the paper's Table 2 does not have; else the paper's ``value``, the median ``here``, whether they are
    ``comparable``, and the ``differences``) and ``fractions`` (of the ceiling, or None);
    ``ceiling``, ``comparison`` and ``extrapolation``, None where there are none; ``units``, what the
    selection kept and excluded; ``warnings`` and ``notes``, sentences; ``files``.

    Parameters
    ----------
    run
        The run.
    files
        Files that were written.
    tables
        Whether to give what ``--out`` writes as CSV: ``summary``, ``best_layers``, ``fractions`` and so on.
    """
    also: dict[str, dict[str, object]] = {name: {"table2": table2_document(run, name)} for name in run.models}
    further: dict[str, Any] = {}
    if tables:
        for name, entry in also.items():
            entry["fractions"] = _records(run.fractions.get(name))
            if name in run.two_way:
                entry["two_way"] = run.two_way[name].to_json()
        further = {
            "ceiling": None
            if run.ceiling is None
            else {"kind": run.ceiling.layers[0], "summary": records(run.ceiling.summary())},
            "comparison": None if run.comparison is None else plain(run.comparison.to_json()),
            "extrapolation": None if run.extrapolation is None else plain(run.extrapolation.to_json()),
            "files": [str(path) for path in files],
        }
    return {
        **results_document(run.models, tables=tables, also=also),
        "units": None if run.selection is None else run.selection.to_json(),
        "warnings": warning_lines(run),
        "notes": list(run.notes),
        **further,
    }


def table2_document(run: ScoreRun, name: str) -> dict[str, Any] | None:
    """Return what is said of a model and the paper's Table 2 as plain JSON values, or None."""
    compared = run.table2.get(name)
    return None if compared is None else compared.to_json()


def _records(frame: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    return None if frame is None else records(frame)


CEILING = "ceiling"
FRACTIONS_CSV = "fractions.csv"
COMPARISON_CSV = "comparison.csv"
COMPARISON_JSON = "comparison.json"
EXTRAPOLATION_CSV = "extrapolation.csv"
EXTRAPOLATION_JSON = "extrapolation.json"
TWO_WAY_CSV = "two_way.csv"
UNITS_CSV = "units.csv"


def save_run(run: ScoreRun, out: Path) -> list[Path]:
    """Write a run to a folder, each file whole or not at all.

    Every table holds all models: those of :func:`mvkit.scoring.results.save_models`; fractions of the ceiling
    (``fractions.csv``), comparisons (``comparison.csv`` and ``comparison.json``), comparisons with the
    animals both ways (``two_way.csv``), every unit of the areas that were scored with the reason why the
    selection excluded it, or "" (``units.csv``); the ceiling's scores in the folder ``ceiling``, with an
    extrapolation. :data:`mvkit.report.columns.TABLES` describes all columns.

    Returns
    -------
    list of Path
        The files written.
    """
    files: list[Path] = []
    dataset = str(run.scores.context.get("dataset", ""))
    if run.fractions:
        import pandas as pd

        frames = [with_source(frame, name, run.models[name].context) for name, frame in run.fractions.items()]
        files.append(_write_csv(out / FRACTIONS_CSV, pd.concat(frames, ignore_index=True)))
    if run.comparison is not None:
        files.append(_write_csv(out / COMPARISON_CSV, _comparison_table(run, run.comparison)))
        files.append(_write_json(out / COMPARISON_JSON, run.comparison.to_json()))
    if run.two_way:
        import pandas as pd

        frames = [
            with_source(compared.table(), name, run.models[name].context)
            for name, compared in run.two_way.items()
        ]
        files.append(_write_csv(out / TWO_WAY_CSV, pd.concat(frames, ignore_index=True)))
    if run.selection is not None:
        files.append(_write_csv(out / UNITS_CSV, _unit_table(run, run.selection)))
    if run.ceiling is not None:
        name = f"ceiling ({run.ceiling.layers[0]})"
        files += save_models({name: run.ceiling}, out / CEILING, layers_chosen=False)
    if run.extrapolation is not None:
        table = run.extrapolation.table()
        table.insert(0, "dataset", dataset)
        files.append(_write_csv(out / CEILING / EXTRAPOLATION_CSV, table))
        files.append(_write_json(out / CEILING / EXTRAPOLATION_JSON, run.extrapolation.to_json()))
    return files + save_models(run.models, out, document=run_document(run, tables=False))


def _comparison_table(run: ScoreRun, comparison: Comparison) -> pd.DataFrame:
    """Return a comparison with the weights of both models and the dataset."""
    contexts = {name: scores.context for name, scores in {**run.models, **run.earlier}.items()}
    table = comparison.table()
    for which in ("first", "second"):
        table[f"{which}_weights"] = [str(contexts[name].get("weights_source", "")) for name in table[which]]
    table["dataset"] = str(run.scores.context.get("dataset", ""))
    return table


def _unit_table(run: ScoreRun, selection: SelectionOutcome) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "dataset": str(run.scores.context.get("dataset", "")),
            "area": selection.areas,
            "specimen": selection.specimens,
            "unit_id": selection.unit_ids,
            "excluded": selection.reasons,
        }
    )


#: Suffix of a table for a paper -> how it is made.
_TABLES = {".tex": latex_table, ".md": markdown_table}


def check_table(path: Path) -> None:
    """Check the file of a table for a paper before hours of work end in it.

    Raises
    ------
    UsageError
        If the suffix is that of no format, or nothing can be written there.
    """
    if path.suffix.lower() not in _TABLES:
        raise UsageError(f"--table {path}: give a name that ends in {' or '.join(_TABLES)}")
    check_output_path(path, overwrite=True, example="table.tex")


def save_table(run: ScoreRun, path: Path) -> Path:
    """Write the models of a run by areas, with intervals, as LaTeX (``.tex``) or Markdown (``.md``).

    Raises
    ------
    UsageError
        If the suffix is another one.
    """
    check_table(path)
    write_text(path, _TABLES[path.suffix.lower()](run))
    return path


def written_lines(files: Iterable[Path]) -> list[str]:
    """Name files that were written: alone by their path, several of a folder in one line."""
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    return [
        f"wrote {folder}: {', '.join(names)}"
        if len(names) > 1 and folder != Path()
        else f"wrote {', '.join(str(folder / name) for name in names)}"
        for folder, names in folders.items()
    ]


def _write_csv(path: Path, frame: pd.DataFrame) -> Path:
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path


def _write_json(path: Path, document: object) -> Path:
    write_text(path, json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
    return path
