"""Results as text, tables, figures and files; knows nothing of how they were made."""

from mvkit.report.files import run_document, save_run, save_table, written_lines
from mvkit.report.tables import score_table
from mvkit.report.text import ScoreRun, run_page

__all__ = ["ScoreRun", "run_document", "run_page", "save_run", "save_table", "score_table", "written_lines"]
