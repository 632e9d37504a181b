"""Every way to compare features with responses."""

from __future__ import annotations

from mvkit.scoring.maps.table import MAPS
from mvkit.scoring.rows import MapRow, SimilarityRow
from mvkit.scoring.similarity.table import SIMILARITIES

MAPPINGS: dict[str, MapRow | SimilarityRow] = {**MAPS, **SIMILARITIES}
