"""Similarities between a layer and a population, a row each."""

from __future__ import annotations

from mvkit.scoring.rows import SimilarityRow

SIMILARITIES: dict[str, SimilarityRow] = {}
