"""Maps from features to responses, a row each."""

from __future__ import annotations

from mvkit.scoring.gram import LayerCoordinates, layer_coordinates
from mvkit.scoring.one_to_one import distinct_sources, predict_one_to_one, prepare_search, prepare_sources
from mvkit.scoring.pls import predict_test_images, prepare_kernel, prepare_pls, prepare_pls_source
from mvkit.scoring.ridge import predict_ridge, prepare_ridge, prepare_ridge_source, prepare_squares
from mvkit.scoring.rows import LayerInput, MapRow
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.sparse import predict_elastic_net, predict_lasso, sparse_sources


def _coordinates(name: str, features: LayerInput, settings: ScoreSettings) -> LayerCoordinates:
    """Reduce features; coordinates given in their place are used as they are."""
    return features if isinstance(features, LayerCoordinates) else layer_coordinates(name, features)


MAPS: dict[str, MapRow] = {
    "pls": MapRow(
        title="PLS",
        prepare_layer=_coordinates,
        prepare_split=prepare_pls,
        predict=predict_test_images,
        n_train_needed=lambda settings: settings.n_components,
        warm_up=prepare_kernel,
        source=prepare_pls_source,
        from_coordinates=True,
    ),
    "ridge": MapRow(
        title="ridge",
        prepare_layer=_coordinates,
        prepare_split=prepare_ridge,
        predict=predict_ridge,
        warm_up=prepare_squares,
        source=prepare_ridge_source,
        from_coordinates=True,
    ),
    "one-to-one": MapRow(
        title="one-to-one",
        prepare_layer=distinct_sources,
        prepare_split=prepare_sources,
        predict=predict_one_to_one,
        warm_up=prepare_search,
    ),
    "lasso": MapRow(
        title="lasso",
        prepare_layer=sparse_sources,
        prepare_split=prepare_sources,
        predict=predict_lasso,
    ),
    "elasticnet": MapRow(
        title="elastic net",
        prepare_layer=sparse_sources,
        prepare_split=prepare_sources,
        predict=predict_elastic_net,
    ),
}
