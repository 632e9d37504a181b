"""How scores are shown; knows nothing of how they were made."""

from mvkit.report.document import run_document
from mvkit.report.files import save_run, written_lines
from mvkit.report.headline import Headline, headline
from mvkit.report.outcome import ScoreRun
from mvkit.report.page import run_page
from mvkit.report.score_table import score_table

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
