"""`mvkit.score` from Python: what it accepts, and that every way gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError, UsageError
from mvkit.neural import Recording, SelectionSettings
from mvkit.pipeline.request import choose_recordings, compare_with_table2, open_default
from mvkit.scoring import ScoreSettings
from mvkit.scoring.settings import merge_settings

N_IMAGES = 30
QUICK = {"n_splits": 2, "n_halves": 3, "n_components": 3, "n_jobs": 1}


@pytest.fixture(scope="module")
def dataset() -> mvkit.NeuralDataset:
    """Two areas of linear units on random images, in memory."""
    rng = np.random.default_rng(3)
    stimuli = rng.integers(0, 256, (N_IMAGES, 64, 64), dtype=np.uint8)
    pixels = stimuli.reshape(N_IMAGES, -1) / 255.0
    recordings = []
    for specimen, area in ((1, "VISp"), (2, "VISl")):
        tuning = pixels @ rng.normal(size=(4096, 5))
        noise = rng.normal(scale=2.0, size=(8, N_IMAGES, 5))
        responses = (tuning + noise).astype(np.float32)
        recordings.append(Recording(area=area, specimen=specimen, unit_ids=np.arange(5), responses=responses))
    return mvkit.NeuralDataset(
        name="toy",
        stimuli=stimuli,
        frame_ids=np.arange(N_IMAGES),
        units_of_measure="spikes/s",
        recordings=tuple(recordings),
        skipped={"VISam": "no specimen passes"},
    )


def scores_of(result: mvkit.Scores) -> np.ndarray:
    return result.table()["score"].to_numpy()


def test_model_name_module_features_and_arrays_agree(dataset: mvkit.NeuralDataset) -> None:
    model = mvkit.load_model("pixels")
    features = mvkit.extract(model, dataset)
    arrays = {layer: np.array(values) for layer, values in features.items()}
    first = scores_of(mvkit.score("pixels", dataset, **QUICK))
    assert np.isfinite(first).any()
    for source in (model, features, arrays):
        np.testing.assert_array_equal(scores_of(mvkit.score(source, dataset, **QUICK)), first)


def test_areas_and_layers_are_chosen(dataset: mvkit.NeuralDataset) -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(N_IMAGES, 20)) for name in ("a.1", "a.2", "b")}
    result = mvkit.score(features, dataset, ["a.*"], ["VISl"], **QUICK)
    assert result.layers == ("a.1", "a.2")
    assert set(result.table()["area"]) == {"VISl"}
    full = mvkit.score(features, dataset, **QUICK).table()
    part = full[(full["area"] == "VISl") & (full["layer"] != "b")]["score"].to_numpy()
    np.testing.assert_array_equal(scores_of(result), part)


def test_published_layers_are_those_of_the_models_list(dataset: mvkit.NeuralDataset) -> None:
    model = mvkit.load_model("single_stream_encoder", weights="random")
    model.published_layers = ("ventral",)
    result = mvkit.score(model, dataset, layers="published", **QUICK)
    assert result.layers == ("ventral",)
    named = mvkit.score(model, dataset, layers="ventral", **QUICK)
    np.testing.assert_array_equal(scores_of(result), scores_of(named))
    # Features that are called so are still to be had.
    arrays = {"published": np.random.default_rng(0).normal(size=(N_IMAGES, 20))}
    assert mvkit.score(arrays, dataset, layers="published", **QUICK).layers == ("published",)


def test_untrained_scores_by_the_papers_way_stand_beside_table_2() -> None:
    rng = np.random.default_rng(5)
    areas = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")
    recorded = mvkit.NeuralDataset(
        name="neuropixels",
        stimuli=rng.integers(0, 256, (N_IMAGES, 256, 256), dtype=np.uint8),
        frame_ids=np.arange(N_IMAGES),
        units_of_measure="spikes/s",
        recordings=tuple(
            Recording(
                area=area,
                specimen=number,
                unit_ids=np.arange(2),
                responses=rng.normal(rng.normal(size=(1, N_IMAGES, 2)), 0.3, (4, N_IMAGES, 2)).astype("f4"),
            )
            for number, area in enumerate(areas)
        ),
        provenance={"source_sha256": "0" * 64, "pickle_bytes": 9_800_000_000},
        selection={"name": "code", "applied": True},
    )
    scores = mvkit.score(
        mvkit.load_model("single_stream_encoder", weights="random"), recorded, n_components=3, n_jobs=1
    )
    found = compare_with_table2("single_stream_encoder", "random", scores)
    assert found is not None
    assert [difference.words for difference in found.differences] == ["n_components 3 instead of 25"]
    assert (found.row, found.value) == ("untrained single stream", 0.3276)
    assert found.here == scores.best_layers().set_index("area")["median"]["all"]
    assert scores.context["weights_source"] == "random, seed 0"


def test_convolutional_features_are_flattened(dataset: mvkit.NeuralDataset) -> None:
    maps = np.random.default_rng(0).normal(size=(N_IMAGES, 2, 3, 3))
    flat = {"conv": maps.reshape(N_IMAGES, -1)}
    np.testing.assert_array_equal(
        scores_of(mvkit.score({"conv": maps}, dataset, **QUICK)),
        scores_of(mvkit.score(flat, dataset, **QUICK)),
    )


def test_the_context_says_what_was_scored(dataset: mvkit.NeuralDataset) -> None:
    context = mvkit.score("pixels", dataset, **QUICK).context
    assert context["model"] == "pixels"
    assert context["dataset"] == "toy"
    assert context["skipped_areas"] == {"VISam": "no specimen passes"}
    assert set(context["versions"]) >= {"mvkit", "numpy", "torch"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"x": np.zeros((7, 3))},), DataError, "30 images"),
        (({"x": np.zeros((N_IMAGES, 3))}, "y"), UsageError, "'y'"),
        (({"x": np.zeros((N_IMAGES, 3))}, "published"), UsageError, "score the model"),
        (("pixels", None, ["VISq"]), UsageError, "unknown area"),
        (("pixels", None, "VISam"), DataError, "no specimen passes"),
        (("pixls",), UsageError, "did you mean 'pixels'"),
        ((3,), UsageError, "cannot score a int"),
    ],
)
def test_wrong_arguments_are_refused(
    dataset: mvkit.NeuralDataset, arguments: tuple, error: type[Exception], message: str
) -> None:
    source, *rest = arguments
    with pytest.raises(error, match=message):
        mvkit.score(source, dataset, *rest, **QUICK)


def test_a_dataset_in_which_nothing_passes_says_why(dataset: mvkit.NeuralDataset) -> None:
    empty = mvkit.NeuralDataset(
        name="toy",
        stimuli=dataset.stimuli,
        frame_ids=dataset.frame_ids,
        units_of_measure="spikes/s",
        recordings=(),
        skipped={"VISp": "no unit is reliable"},
    )
    with pytest.raises(DataError, match="VISp: no unit is reliable"):
        choose_recordings(empty, None)


def test_settings_from_keywords() -> None:
    base = ScoreSettings(n_halves=7)
    assert merge_settings(None, {}) == ScoreSettings()
    assert merge_settings(None, {"splits": 3, "halves": 4}) == ScoreSettings(n_splits=3, n_halves=4)
    assert merge_settings(base, {"n_splits": 3}) == ScoreSettings(n_splits=3, n_halves=7)
    with pytest.raises(UsageError, match="did you mean 'n_splits'"):
        merge_settings(None, {"n_split": 3})
    with pytest.raises(UsageError, match="n_splits"):
        merge_settings(None, {"n_splits": 0})
    with pytest.raises(UsageError, match="ScoreSettings"):
        merge_settings({"n_splits": 3}, {})


def test_the_default_dataset_is_the_recordings_once_fetched(tmp_path: Path) -> None:
    remarks: list[str] = []
    selection = SelectionSettings()
    opened = open_default(None, selection=selection, home=tmp_path, remark=remarks.append)
    assert opened.name == "simulated"
    (remark,) = remarks
    assert "mvkit fetch neural --dataset neuropixels" in remark
    (tmp_path / "neural").mkdir()
    (tmp_path / "neural" / "neuropixels.h5").write_bytes(b"x")
    with pytest.raises(DataError, match=r"neuropixels\.h5"):
        open_default(None, selection=selection, home=tmp_path, remark=lambda text: pytest.fail(text))


def test_a_mapping_is_chosen_by_keyword(dataset: mvkit.NeuralDataset) -> None:
    ridge = mvkit.score("pixels", dataset, mapping="ridge", **QUICK)
    assert ridge.settings.mapping == "ridge"
    over = mvkit.score(
        "pixels",
        dataset,
        mapping="ridge",
        settings=ScoreSettings(n_components=3),
        n_jobs=1,
        splits=2,
        halves=3,
    )
    np.testing.assert_array_equal(scores_of(over), scores_of(ridge))
    assert not np.array_equal(scores_of(ridge), scores_of(mvkit.score("pixels", dataset, **QUICK)))
    with pytest.raises(UsageError, match="did you mean 'ridge'"):
        mvkit.score("pixels", dataset, mapping="rige", **QUICK)
