"""The JSON schema of what ``mvkit score --json`` prints and ``--out`` writes as summary.json."""

from __future__ import annotations

from typing import Any

from mvkit.scoring.comparison import PairDifference
from mvkit.scoring.results import SCHEMA_VERSION
from mvkit.scoring.settings import CEILING as CEILING_SETTINGS
from mvkit.scoring.settings import REPORTING, ScoreSettings

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": ["number", "null"]}


def score_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema, draft 2020-12) of :func:`mvkit.report.run_document`.

    Keys that only ``--json`` has, because ``--out`` writes them as CSV, are not required: ``summary``,
    ``best_layers``, ``fractions``, ``ceiling``, ``comparison``, ``extrapolation``, ``files``.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mvkit score",
        "description": "Scores of one or several models by one protocol; null stands for NaN.",
        **_object(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "digest": {**_TEXT, "description": "sha256 of protocol: equal digests are comparable."},
                "protocol": _protocol(),
                "reporting": _reporting(),
                "intervals": {**_TEXT, "description": "How intervals are made."},
                "areas": _list(_TEXT, "Areas that were scored, in the order of tables."),
                "context": {"type": "object", "description": "Versions, origin of the recordings."},
                "models": {**_list(_model(), "Every model, in the order given."), "minItems": 1},
                "units": _nullable(_units(), "What the selection kept and excluded."),
                "warnings": _list(_TEXT, "What a reader must know before the numbers."),
                "notes": _list(_TEXT, "How models were pooled or compared."),
                "ceiling": _nullable(
                    _object({"kind": {"enum": ["holdout", "pairwise"]}, "summary": _rows(_SUMMARY)}),
                    "Consistency between animals.",
                ),
                "comparison": _nullable(_comparison(), "Every pair of models."),
                "extrapolation": {
                    "type": ["object", "null"],
                    "description": "The ceiling over numbers of units or images.",
                },
                "files": _list(_TEXT, "Files that were written."),
                "checksums": {
                    "type": "object",
                    "description": "sha256 of Parquet files and of the rest of this.",
                },
            },
            optional=("ceiling", "comparison", "extrapolation", "files", "checksums"),
        ),
    }


_MEDIAN: dict[str, Any] = {
    "median": _NUMBER,
    "sem": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "n_units": _COUNT,
    "n_animals": _COUNT,
    "n_nan": _COUNT,
    "reason": _TEXT,
}
_SUMMARY = {"layer": _TEXT, "area": _TEXT, **_MEDIAN}
_CHOICE = {"enum": ["paper", "held-out"]}


def _protocol() -> dict[str, Any]:
    settings = ScoreSettings.model_json_schema()["properties"]
    fields = {name: settings[name] for name in settings if name not in REPORTING | CEILING_SETTINGS}
    return {
        **_object(
            {
                **fields,
                "dataset": {"type": ["string", "null"]},
                "selection": {"type": ["object", "null"]},
                "responses_sha256": {"type": ["string", "null"]},
            }
        ),
        "description": "All that the numbers depend on besides the model.",
    }


def _reporting() -> dict[str, Any]:
    settings = ScoreSettings.model_json_schema()["properties"]
    fields = {name: settings[name] for name in settings if name in REPORTING | CEILING_SETTINGS}
    return {**_object(fields), "description": "Settings of intervals, choice of layers and ceiling."}


def _model() -> dict[str, Any]:
    return _object(
        {
            "name": {**_TEXT, "description": "As in tables and figures."},
            "weights": {**_TEXT, "description": "Where they come from; empty: none, or not known."},
            "layers": _list(_TEXT, "Layers that were scored."),
            "context": {"type": "object", "description": "Preprocessing, fingerprint of the weights."},
            "table2": {
                "type": ["object", "null"],
                "description": "The paper's value and all that forbids to compare it.",
            },
            "summary": _rows(_SUMMARY),
            "best_layers": _rows({"area": _TEXT, "layer": _TEXT, "choice": _CHOICE, **_MEDIAN}),
            "two_way": {"type": "array", "description": "Comparison with the animals, both ways, by area."},
            "fractions": _nullable(
                _rows(
                    {
                        "area": _TEXT,
                        "choice": _CHOICE,
                        "fraction": _NUMBER,
                        "low": _NUMBER,
                        "high": _NUMBER,
                        "n_units": _COUNT,
                        "n_animals": _COUNT,
                        "reason": _TEXT,
                    }
                ),
                "Medians as fractions of the ceiling.",
            ),
        },
        optional=("summary", "best_layers", "two_way", "fractions"),
    )


def _units() -> dict[str, Any]:
    excluded = {
        "type": "object",
        "additionalProperties": _object({"units": _COUNT, "recordings": _COUNT}),
    }
    counts = dict.fromkeys(("units", "units_kept", "animals", "animals_kept"), _COUNT)
    return _object({**counts, "excluded": excluded})


def _comparison() -> dict[str, Any]:
    of_type = {"str": _TEXT, "float": _NUMBER, "int": _COUNT, "bool": {"type": "boolean"}}
    fields = PairDifference.__dataclass_fields__
    return _object(
        {
            "models": _list(_TEXT, "In the order given, earlier ones last."),
            "choice": _CHOICE,
            "confidence": {"type": "number"},
            "same_protocol": {"type": "boolean"},
            "intervals": _TEXT,
            "test": _TEXT,
            "holm_family": _TEXT,
            "pairs": _rows({name: of_type[str(field.type)] for name, field in fields.items()}),
            "sentences": _list(_TEXT, "One for each area and pair."),
        }
    )


def _object(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": description}


def _rows(columns: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _object(columns)}


def _nullable(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "description": description}
