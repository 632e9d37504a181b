"""Principal coordinates of layers and of source animals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import hash as content_of
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression

from mvkit.errors import DataError, UsageError
from mvkit.features.buffer import StoredLayer
from mvkit.scoring import ScoreSettings, gram, score_features
from mvkit.scoring.gram import (
    BLOCK_FEATURES,
    LayerCoordinates,
    SplitCoordinates,
    gram_coordinates,
    gram_matrix,
    layer_coordinates,
    split_coordinates,
)
from mvkit.scoring.maps import MAPPINGS, prepare_layers
from mvkit.scoring.pls_choice import pls_predict
from mvkit.scoring.protocol import image_splits, splits_of

SPLITS = image_splits(30, n_splits=3, train_fraction=0.5)


def invariants(coordinates: SplitCoordinates) -> tuple[Any, Any]:
    """What does not depend on the signs of directions: train x train and test x train."""
    train = coordinates.basis.T * coordinates.scale
    return train @ train.T, coordinates.test @ train.T


@pytest.mark.parametrize("n_units", [1, 4, 14, 15, 29, 30, 200])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equal_the_coordinates_of_a_layer(n_units: int, offset: float) -> None:
    rng = np.random.default_rng(n_units)
    features = offset + rng.standard_normal((30, n_units)) * np.exp(rng.standard_normal(n_units))
    found = gram_coordinates("source", features, SPLITS, 1)
    for split, coordinates in zip(SPLITS, found, strict=True):
        expected = split_coordinates(layer_coordinates("layer", features), split, 1)
        assert coordinates.reason == ""
        np.testing.assert_allclose(coordinates.scale, expected.scale, rtol=1e-9)
        np.testing.assert_allclose(
            coordinates.basis @ coordinates.basis.T, np.eye(coordinates.scale.size), atol=1e-9
        )
        for ours, theirs in zip(invariants(coordinates), invariants(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("case", ["copies", "constant units", "steep"])
def test_spectra_with_gaps_are_reduced_the_careful_way(case: str) -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 20))
    if case == "copies":
        features = np.repeat(features[:, :5], 4, axis=1)
    elif case == "constant units":
        features[:, 3:] = 7.0
    else:
        features = features @ np.diag(10.0 ** -np.arange(20))
    for split, coordinates in zip(SPLITS, gram_coordinates("source", features, SPLITS, 1), strict=True):
        expected = split_coordinates(layer_coordinates("layer", features), split, 1)
        np.testing.assert_array_equal(coordinates.scale, expected.scale)
        np.testing.assert_array_equal(coordinates.test, expected.test)


def test_reasons_speak_of_source_units() -> None:
    features = np.random.default_rng(2).standard_normal((30, 4))
    reasons = {part.reason for part in gram_coordinates("source", features, SPLITS, 5)}
    assert reasons == {"5 components need at least 5 source units, there are 4"}
    reasons = {part.reason for part in gram_coordinates("source", np.ones((30, 4)), SPLITS, 4)}
    assert reasons == {"the source units do not vary over the training images"}


def test_gaps_are_refused() -> None:
    features = np.ones((30, 4))
    features[3, 2] = np.nan
    with pytest.raises(DataError, match="source animals: responses to predict from must be finite"):
        gram_coordinates("source animals", features, SPLITS, 1)


SPLIT = image_splits(30, n_splits=1, train_fraction=0.5)[0]


@pytest.mark.parametrize("n_features", [4, 30, 31, 500])
@pytest.mark.parametrize("block", [7, 64, 8192])
def test_inner_products_are_kept(n_features: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = np.random.default_rng(0).standard_normal((30, n_features)).astype(np.float32)
    layer = layer_coordinates("a", features)
    assert layer.coordinates.shape == (30, min(30, n_features))
    exact = features.astype(np.float64)
    exact -= exact.mean(axis=0)
    np.testing.assert_allclose(layer.coordinates @ layer.coordinates.T, exact @ exact.T, atol=1e-11)

    coordinates = split_coordinates(layer, SPLIT, 2)
    train = exact[SPLIT.train] - exact[SPLIT.train].mean(axis=0)
    test = exact[SPLIT.test] - exact[SPLIT.train].mean(axis=0)
    reduced = coordinates.basis.T * coordinates.scale
    np.testing.assert_allclose(reduced @ reduced.T, train @ train.T, atol=1e-11)
    np.testing.assert_allclose(coordinates.test @ reduced.T, test @ train.T, atol=1e-11)
    assert coordinates.scale.size == min(14, n_features)


def test_rounding_errors_are_no_directions() -> None:
    rng = np.random.default_rng(1)
    features = 1e6 + rng.standard_normal((30, 3)) @ rng.standard_normal((3, 200))
    assert split_coordinates(layer_coordinates("a", features), SPLIT, 3).scale.size == 3


def test_constant_layer_and_narrow_layer_say_so() -> None:
    constant = split_coordinates(layer_coordinates("a", np.full((30, 40), 1 / 3)), SPLIT, 5)
    assert constant.reason.startswith("constant features") and constant.scale.size == 0
    narrow = split_coordinates(layer_coordinates("a", np.eye(30)[:, :4]), SPLIT, 5)
    assert narrow.reason == "5 components need at least 5 features, the layer has 4"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_place(value: float) -> None:
    features = np.zeros((30, 9))
    features[12, 5] = value
    with pytest.raises(DataError, match=r"layer 'conv3': feature 5 of image 12 is -?(nan|inf)"):
        layer_coordinates("conv3", features)


@pytest.mark.parametrize("features", [np.zeros(30), np.zeros((30, 0)), np.array([["a"] * 3] * 30)])
def test_features_must_be_a_matrix_of_numbers(features: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match="must be numbers of shape"):
        layer_coordinates("conv3", features)


N_IMAGES = 60
WIDTH = BLOCK_FEATURES + 900
SMALL: dict[str, Any] = {"n_splits": 2, "n_halves": 3}
Array = NDArray[Any]


def with_spectrum(singular_values: Array) -> Array:
    """Features whose centred matrix has these singular values, times 300."""
    rng = np.random.default_rng(5)
    images = rng.standard_normal((N_IMAGES, singular_values.size))
    left = np.linalg.qr(images - images.mean(axis=0))[0]
    right = np.linalg.qr(rng.standard_normal((WIDTH, singular_values.size)))[0]
    features: Array = 300 * (left * singular_values) @ right.T
    return features


def make(case: str) -> Array:
    """Features of one kind."""
    rng = np.random.default_rng(3)
    plain = rng.standard_normal((N_IMAGES, WIDTH))
    if case.startswith("decaying"):
        return with_spectrum(np.geomspace(1, float(case.split()[1]), N_IMAGES - 1))
    if case == "one direction dwarfs the others":
        return with_spectrum(np.append(1.0, np.full(N_IMAGES - 2, 1.02e-2)))
    if case == "few directions":
        return plain[:, :40] @ rng.standard_normal((40, WIDTH))
    if case == "equal features":
        return np.tile(plain[:, :100], WIDTH // 100)[:, : BLOCK_FEATURES + 50]
    if case == "equal images":
        plain[7] = plain[3]
        return plain
    if case == "constant features":
        plain[:, rng.permutation(WIDTH)[: WIDTH // 2]] = 0.1
        return plain
    return plain + 1e4 if case == "offset" else plain


# Kinds of features, and whether inner products serve them.
CASES = {
    "benign": True,
    "decaying 1.1e-2": True,
    "one direction dwarfs the others": True,
    "equal features": True,
    "constant features": True,
    "offset": True,
    "decaying 9e-3": False,
    "decaying 1e-4": False,
    "decaying 1e-8": False,
    "few directions": False,
    "equal images": False,
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "pls": {"mapping": "pls"},
    "ridge": {"mapping": "ridge"},
    "ridge cv": {"mapping": "ridge", "ridge_alpha": "cv"},
    "ridge that hardly shrinks": {"mapping": "ridge", "ridge_alpha": 1e-6},
    "cka": {"mapping": "cka"},
    "debiased cka": {"mapping": "cka", "cka_debiased": True},
    "rsa": {"mapping": "rsa"},
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_scores_from_inner_products_are_those_from_features(
    case: str, many: bool, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"a": make(case)}
    rng = np.random.default_rng(1)
    # Responses depend on all directions alike, also on those that features hardly have.
    directions = np.linalg.svd(features["a"] - features["a"].mean(axis=0), full_matrices=False)[0]
    tuning = 8 * directions[:, : N_IMAGES - 1] @ rng.standard_normal((N_IMAGES - 1, 5))
    animal = recording((tuning + 0.3 * rng.standard_normal((8, N_IMAGES, 5))).astype(np.float32))
    careful: list[str] = []
    from_features = gram._layer_from_features

    def counted(name: str, values: Any) -> LayerCoordinates:
        careful.append(name)
        return from_features(name, values)

    monkeypatch.setattr(gram, "_layer_from_features", counted)
    with monkeypatch.context() as patch:
        if many:
            patch.setattr(gram, "MANY_IMAGES", 20)
        fast = {name: score_features(features, [animal], make_settings(name)) for name in PROTOCOLS}
    assert ("a" in careful) is not CASES[case]
    monkeypatch.setattr(gram, "is_well_conditioned", lambda *_, **__: False)
    for name, found in fast.items():
        exact = score_features(features, [animal], make_settings(name))
        scores = [np.asarray(result.columns["score"], dtype=np.float64) for result in (found, exact)]
        assert np.isfinite(scores[1]).all()
        np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("shape", [(60, 100), (60, 61), (100, 60)])
@pytest.mark.parametrize("smallest", [1e-1, 3e-3, 1e-3, 2e-4, 1e-6])
def test_singular_vectors_from_a_gram_matrix_are_as_good_as_lapacks(
    shape: tuple[int, int], smallest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    left = np.linalg.qr(rng.standard_normal(shape))[0]
    right = np.linalg.qr(rng.standard_normal(shape[::-1]))[0]
    size = min(shape)
    matrix = (left[:, :size] * np.geomspace(1, smallest, size)) @ right[:, :size].T
    matrix -= matrix.mean(axis=0)
    expected = np.linalg.svd(matrix, full_matrices=False)
    monkeypatch.setattr(gram, "MANY_IMAGES", 20)
    used = []
    from_gram = gram._svd_from_gram
    monkeypatch.setattr(gram, "_svd_from_gram", lambda *given: used.append(from_gram(*given)) or used[-1])
    found = gram.centred_svd(matrix)
    # Below the square root of the smallest eigenvalue that is relied on, LAPACK decomposes the matrix itself.
    assert (used[0] is not None) is (smallest >= 2e-4)
    rank = found[1].size
    assert rank >= size - 1
    np.testing.assert_allclose(np.sort(found[1])[::-1], expected[1][:rank], rtol=1e-10, atol=0)
    # A Gram matrix serves as it is up to a condition of 100; its errors are then 1e-4 / epsilon.
    tight = 1e-11
    np.testing.assert_allclose(found[0].T @ found[0], np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(found[2] @ found[2].T, np.eye(rank), atol=tight)
    np.testing.assert_allclose((found[0] * found[1]) @ found[2], matrix, atol=1e-13)


@pytest.mark.parametrize("n_features", [25, 59, 200, 9000])
def test_many_images_keep_the_inner_products_and_predictions(
    n_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    latent = rng.standard_normal((N_IMAGES, 60)) / np.arange(1, 61)
    features = np.maximum(latent @ rng.standard_normal((60, n_features)), 0).astype(np.float32)
    responses = features[:, :25] @ rng.standard_normal((25, 6)) + rng.standard_normal((N_IMAGES, 6))
    split = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)[0]
    monkeypatch.setattr(gram, "MANY_IMAGES", 20)
    exact = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    layer = layer_coordinates("a", features)
    np.testing.assert_allclose(layer.coordinates @ layer.coordinates.T, exact @ exact.T, rtol=0, atol=1e-9)
    reference = PLSRegression(n_components=10, scale=False, max_iter=500, tol=1e-6)
    reference.fit(features[split.train].astype(np.float64), responses[split.train])
    found = pls_predict(features, responses, split, ScoreSettings(n_components=10))
    np.testing.assert_allclose(found, reference.predict(features[split.test].astype(np.float64)), atol=1e-9)


@pytest.mark.parametrize("case", ["decaying", "few directions", "narrow"])
def test_pls_relies_on_the_leading_directions_of_many_images(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(9)
    n_directions, n_features = {"decaying": (60, 200), "few directions": (12, 200), "narrow": (24, 24)}[case]
    features = rng.standard_normal((N_IMAGES, n_directions)) * np.geomspace(1, 1e-5, n_directions)
    features = features @ rng.standard_normal((n_directions, n_features))
    # Responses depend on all directions alike, also on those that features hardly have.
    directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)[0]
    responses = directions @ rng.standard_normal((directions.shape[1], 6))
    settings = {name: ScoreSettings(mapping=name, n_components=3, n_splits=2) for name in ("pls", "ridge")}
    splits = splits_of(N_IMAGES, settings["pls"])
    coordinates = layer_coordinates("a", features)
    plain = {name: MAPPINGS[name].prepare("a", coordinates, splits, settings[name]) for name in settings}
    monkeypatch.setattr(gram, "MANY_IMAGES", 20)
    gram_matrices, corrected = [], []
    form, correct = gram.gram_matrix, gram.centred_svd
    monkeypatch.setattr(gram, "gram_matrix", lambda block: gram_matrices.append(block.shape) or form(block))
    monkeypatch.setattr(gram, "centred_svd", lambda *given: corrected.append(given) or correct(*given))
    for name, mapping_settings in settings.items():
        found = MAPPINGS[name].prepare("a", coordinates, splits, mapping_settings)
        for split, ours, theirs in zip(splits, found, plain[name], strict=True):
            targets = responses[None, split.train] - responses[split.train].mean(axis=0)
            expected = MAPPINGS[name].predict(targets, theirs, mapping_settings)
            predicted = MAPPINGS[name].predict(targets, ours, mapping_settings)
            np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
            for one, other in zip(invariants(ours), invariants(theirs), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * np.abs(other).max())
        if name == "pls" and case != "narrow":  # one for all splits, and nothing to correct
            assert gram_matrices == [(N_IMAGES, N_IMAGES)] and not corrected
    assert corrected


def make_settings(protocol: str) -> ScoreSettings:
    """Settings of a small protocol."""
    return ScoreSettings(**PROTOCOLS[protocol], **SMALL)


def test_a_constant_wide_layer_has_no_direction() -> None:
    layer = layer_coordinates("a", np.full((N_IMAGES, WIDTH), 0.1, dtype=np.float32))
    split = splits_of(N_IMAGES, ScoreSettings(mapping="pls"))[0]
    assert gram.split_coordinates(layer, split, 5).reason.startswith("constant features")


def on_disk(folder: Path, name: str, values: Array) -> StoredLayer:
    """Write features as a pass would."""
    path = folder / f"{name}.f4"
    path.write_bytes(values.astype("<f4").tobytes())
    return StoredLayer(path, values.shape)


@pytest.fixture(scope="module")
def layers() -> dict[str, Array]:
    """A narrow layer and two wide ones; features recur, and some are silent."""
    rng = np.random.default_rng(2)
    wide = np.maximum(rng.standard_normal((N_IMAGES, WIDTH)), 0).astype(np.float32)
    wide[:, 100:200] = wide[:, -100:]
    wide[:, 8000:8400] = 0.0
    rank = (rng.standard_normal((N_IMAGES, 9)) @ rng.standard_normal((9, WIDTH))).astype(np.float32)
    return {"narrow": np.ascontiguousarray(wide[:, :300]), "wide": wide, "low rank": rank}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_layers_on_disk_score_like_layers_in_memory_to_the_last_bit(
    mapping: Any, layers: dict[str, Array], recording: Callable[..., Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    some, protocol = layers, SMALL
    if mapping in ("lasso", "elasticnet"):  # scikit-learn takes its time
        some = {name: layers[name] for name in ("narrow", "wide")}
        protocol = {"n_splits": 1, "n_halves": 1, "penalty": 2.0}
    animals = []
    for first in (8200, 9000):
        tuning = 10 * layers["wide"][:, first : first + 4]
        noise = rng.standard_normal((6, *tuning.shape)).astype(np.float32)
        animals.append(recording(tuning + noise, specimen=first))
    settings = ScoreSettings(mapping=mapping, n_components=5, **protocol)
    expected = score_features(some, animals, settings)
    assert np.isfinite(np.asarray(expected.columns["score"], dtype=np.float64)).any()
    stored: dict[str, Any] = {name: on_disk(tmp_path, name, values) for name, values in some.items()}
    for n_jobs in (1, 2):
        found = score_features(stored, animals, settings, n_jobs=n_jobs)
        for column, values in expected.columns.items():
            np.testing.assert_array_equal(found.columns[column], values)


def test_layers_are_the_same_whatever_the_layout_of_an_array(layers: dict[str, Array]) -> None:
    for values in layers.values():
        in_rows = layer_coordinates("a", values).coordinates
        assert in_rows.tobytes() == layer_coordinates("a", np.asfortranarray(values)).coordinates.tobytes()


@pytest.mark.parametrize("mapping", ["pls", "cka", "one-to-one", "rsa"])
def test_several_layers_at_a_time_change_nothing(mapping: Any, layers: dict[str, Array]) -> None:
    settings = ScoreSettings(mapping=mapping)
    splits = splits_of(N_IMAGES, settings)
    expected = prepare_layers(MAPPINGS[mapping], layers, splits, settings)
    for n_jobs in (2, -1):
        found = prepare_layers(MAPPINGS[mapping], layers, splits, settings, n_jobs=n_jobs)
        assert list(found) == list(layers)
        assert content_of(found) == content_of(expected)


def test_the_first_layer_that_is_not_finite_tells(layers: dict[str, Array]) -> None:
    wide, narrow = layers["wide"].copy(), layers["narrow"].copy()
    wide[3, -1] = np.nan  # found late, yet before the narrow one by order
    narrow[0, 0] = np.inf
    settings = ScoreSettings()
    splits = splits_of(N_IMAGES, settings)
    for n_jobs in (1, 2):
        with pytest.raises(DataError, match=rf"layer 'wide': feature {WIDTH - 1} of image 3 is nan"):
            prepare_layers(MAPPINGS["pls"], {"wide": wide, "narrow": narrow}, splits, settings, n_jobs=n_jobs)
    with pytest.raises(UsageError, match="n_jobs=0"):
        prepare_layers(MAPPINGS["pls"], layers, splits, settings, n_jobs=0)


def test_new_coordinates_are_saved_and_serve_in_place_of_features(layers: dict[str, Array]) -> None:
    shapes: list[tuple[int, ...]] = []
    saved: dict[str, LayerCoordinates] = {}
    lock = threading.Lock()

    def gram(block: NDArray[np.float64], /) -> NDArray[np.float64]:
        with lock:
            shapes.append(block.shape)
        return gram_matrix(block)

    def save(layer: LayerCoordinates) -> None:
        saved[layer.name] = layer

    mappings: tuple[Any, ...] = ("pls", "ridge", "cka")
    for name in mappings:
        mapping, settings = MAPPINGS[name], ScoreSettings(mapping=name)
        assert mapping.from_coordinates
        splits = splits_of(N_IMAGES, settings)
        made = prepare_layers(mapping, layers, splits, settings, n_jobs=2, gram=gram, save=save)
        assert sorted(shapes) == sorted(2 * [(N_IMAGES, 900), (N_IMAGES, BLOCK_FEATURES)])
        assert saved.keys() == layers.keys()
        again = prepare_layers(mapping, dict(saved), splits, settings, save=lambda layer: saved.clear())
        again = {name: again[name] for name in made}
        assert content_of(again) == content_of(made)
        assert saved
        shapes.clear()
        saved.clear()
    assert not any(MAPPINGS[name].from_coordinates for name in ("rsa", "one-to-one", "lasso", "elasticnet"))
