"""How scores are shown; knows nothing of how they were made."""

from mvkit.report.files import run_document, save_run, written_lines
from mvkit.report.tables import score_table
from mvkit.report.text import Headline, ScoreRun, headline, run_page

__all__ = [
    "Headline",
    "ScoreRun",
    "headline",
    "run_document",
    "run_page",
    "save_run",
    "score_table",
    "written_lines",
]
