"""How scores are shown; knows nothing of how they were made."""

from mvkit.report.headline import Headline, headline
from mvkit.report.score_table import score_table

__all__ = ["Headline", "headline", "score_table"]
