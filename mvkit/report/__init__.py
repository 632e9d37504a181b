"""Results as text, tables, figures and files; knows nothing of how they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit import lazy_names

if TYPE_CHECKING:
    from mvkit.report.files import run_document, save_run, save_table, written_lines
    from mvkit.report.tables import score_table
    from mvkit.report.text import ScoreRun, run_page

_HOMES = {
    "ScoreRun": "mvkit.report.text",
    "run_document": "mvkit.report.files",
    "run_page": "mvkit.report.text",
    "save_run": "mvkit.report.files",
    "save_table": "mvkit.report.files",
    "score_table": "mvkit.report.tables",
    "written_lines": "mvkit.report.files",
}

__all__ = ["ScoreRun", "run_document", "run_page", "save_run", "save_table", "score_table", "written_lines"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
