"""Maps from features to responses, a row each."""

from __future__ import annotations

from mvkit.scoring.pls import predict_test_images, prepare_kernel, prepare_pls, prepare_pls_source
from mvkit.scoring.reduction import LayerCoordinates, layer_coordinates
from mvkit.scoring.rows import Features, MapRow
from mvkit.scoring.settings import ScoreSettings


def _coordinates(name: str, features: Features, settings: ScoreSettings) -> LayerCoordinates:
    return layer_coordinates(name, features)


MAPS: dict[str, MapRow] = {
    "pls": MapRow(
        title="PLS",
        prepare_layer=_coordinates,
        prepare_split=prepare_pls,
        predict=predict_test_images,
        n_train_needed=lambda settings: settings.n_components,
        warm_up=prepare_kernel,
        source=prepare_pls_source,
    ),
}
