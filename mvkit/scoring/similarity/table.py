"""Similarities between a layer and a population, a row each."""

from __future__ import annotations

from functools import partial

from mvkit.scoring.correlation import Drop
from mvkit.scoring.rows import SimilarityRow
from mvkit.scoring.similarity import cka, rsa
from mvkit.scoring.similarity.comparing import between, compare, describe
from mvkit.scoring.similarity.measure import Measure


def _row(title: str, measure: Measure) -> SimilarityRow:
    return SimilarityRow(
        title=title,
        describe=partial(describe, measure),
        compare=partial(compare, measure),
        between=partial(between, measure),
        from_coordinates=measure.from_coordinates,
    )


SIMILARITIES: dict[str, SimilarityRow] = {
    "rsa": _row(
        "RSA",
        Measure(
            population_matrices=rsa.population_rdms,
            layer_matrices=rsa.layer_rdms,
            vectors=rsa.rdm_vectors,
            why_undefined=rsa.why_undefined,
            n_images_needed=lambda settings: 3,
            n_units_needed=2,
            undefined=Drop.UNDEFINED_RDM,
        ),
    ),
    "cka": _row(
        "CKA",
        Measure(
            population_matrices=cka.population_grams,
            layer_matrices=cka.layer_grams,
            vectors=cka.gram_vectors,
            why_undefined=cka.why_undefined,
            n_images_needed=lambda settings: 4 if settings.cka_debiased else 3,
            n_units_needed=1,
            undefined=Drop.CONSTANT_RESPONSE,
            from_coordinates=True,
        ),
    ),
}
