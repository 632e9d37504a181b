"""The models of a run: loaded, checked, and not the same twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvkit.errors import UsageError
from mvkit.files import plain
from mvkit.models import find_model
from mvkit.pipeline.request import ScoreRequest, check_request, compare_with_table2, load_models
from mvkit.scoring import Scores, ScoreSettings


def test_models_are_loaded_in_the_order_given() -> None:
    models = load_models(["pixels", "gabor"])
    assert list(models) == ["pixels", "gabor"]
    assert [model.name for model in models.values()] == ["pixels", "gabor"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pixels", "gabor", "pixels"], "pixels is given twice"),
        (["alexnet_bn_ir", "alexnet_encoder"], "alexnet_encoder is the same model as alexnet_bn_ir"),
        ([], "no MODEL to score"),
        (["pixels", "gabr"], "did you mean 'gabor'"),
    ],
)
def test_wrong_sets_of_models_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_models(names, weights="random")


def test_a_request_is_checked_before_models_are_loaded() -> None:
    names = ("alexnet_bn_ir", "alexnet_encoder")
    with pytest.raises(UsageError, match="is the same model as alexnet_bn_ir"):
        check_request(ScoreRequest(models=names))
    with pytest.raises(UsageError, match="give two MODELs or more"):
        check_request(ScoreRequest(models=("pixels",), pool_as="one"))
    recipe = check_request(ScoreRequest(models=("pixels", "gabor"), options={"n_splits": 3}))
    assert recipe.n_splits == 3


def test_a_run_and_its_checkpoint_are_one_model(tmp_path: Path) -> None:
    torch.save({"progress": {}}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match="is the same model as"):
        load_models([str(tmp_path), str(tmp_path / "last.pt")])


def test_a_pattern_must_match_in_every_model() -> None:
    with pytest.raises(UsageError, match="gabor: unknown layer 'pixels'"):
        load_models(["pixels", "gabor"], layers=["pixels"])
    with pytest.raises(UsageError, match=r"^unknown layer 'pixls'"):
        load_models(["pixels"], layers=["pixls"])
    assert len(load_models(["pixels", "gabor"], layers=["*"])) == 2


AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")


def scores_like_table_2(
    model: str = "alexnet_bn_ir",
    *,
    dataset: str = "neuropixels",
    provenance: dict[str, object] | None = None,
    source: str | None = None,
    selection: dict[str, object] | None = None,
    areas: tuple[str, ...] = AREAS,
    layers: tuple[str, ...] | None = None,
    preprocessing: dict[str, object] | None = None,
    **settings: object,
) -> Scores:
    """Scores of one unit an area and layer, measured as for the paper's Table 2 but for what is given."""
    row = find_model(model)
    layers = row.architecture.layers if layers is None else layers
    sizes = {"neuropixels": 9_812_345_678, "calcium": 1_904_567_890}
    pairs = [(layer, area) for layer in layers for area in areas]
    context: dict[str, object] = {
        "dataset": dataset,
        "dataset_provenance": {
            "source": "recordings.pkl.xz",
            "source_sha256": "0" * 64,
            "source_bytes": 1_000_000_000,
            "pickle_bytes": sizes.get(dataset),
        }
        if provenance is None
        else provenance,
        "selection": {"name": "code", "applied": True} if selection is None else selection,
        "preprocessing": plain(row.preprocess.as_dict()) | (preprocessing or {}),
        "weights_source": source
        if source is not None
        else row.released.url
        if row.released is not None
        else "random, seed 0",
    }
    columns = {
        "layer": np.array([layer for layer, _ in pairs], dtype=object),
        "area": np.array([area for _, area in pairs], dtype=object),
        "specimen": np.arange(len(pairs)) % len(areas),
        "unit_id": np.zeros(len(pairs), dtype=np.int64),
        # The first layer is the best one everywhere: .40, .41, ... .45, of which the median is .425.
        "score": np.array([0.4 + 0.01 * areas.index(a) - 0.1 * (la != layers[0]) for la, a in pairs]),
        "reason": np.full(len(pairs), "", dtype=object),
    }
    return Scores(columns, tuple(layers), areas, ScoreSettings(**settings), context)


@pytest.mark.parametrize(
    ("model", "weights", "dataset", "value", "row"),
    [
        ("alexnet_bn_ir", "released", "neuropixels", 0.4133, "alexnet_bn_ir"),
        ("alexnet_bn_ir", "released", "calcium", 0.316, "alexnet_bn_ir"),
        ("dual_stream_ir", "random", "neuropixels", 0.3358, "untrained dual stream"),
        ("shi_mousenet_vispor5_ir", "released", "calcium", 0.288, "shi_mousenet_vispor5_ir"),
    ],
)
def test_table_2_is_quoted_where_everything_is_as_in_the_paper(
    model: str, weights: str, dataset: str, value: float, row: str
) -> None:
    found = compare_with_table2(model, weights, scores_like_table_2(model, dataset=dataset))
    assert found is not None
    assert (found.value, found.row, found.dataset, found.is_comparable) == (value, row, dataset, True)
    assert found.here == pytest.approx(0.425)
    assert found.line() == (
        f"the paper's Table 2 has {value:.3f} for {row} on {dataset}; here 0.425, as there over the units of "
        "all areas, best layers chosen on the test images (paper)"
    )
    document = found.to_json()
    assert (document["value"], document["comparable"], document["differences"]) == (value, True, [])


def test_how_results_are_shown_changes_nothing() -> None:
    scores = scores_like_table_2(layer_choice="held-out", ceiling="holdout", n_resamples=100, confidence=0.9)
    found = compare_with_table2("alexnet_bn_ir", "released", scores)
    assert found is not None
    assert found.is_comparable
    # The paper's number belongs to the paper's choice of layers, whichever is the headline.
    assert found.here == pytest.approx(0.425)


MINE = {"source": "allensdk", "reader": "h5py"}
SMALL = {"source": "x.pkl", "source_sha256": "0" * 64, "source_bytes": 3_169_513}
ANEW = {"source_sha256": "0" * 64, "pickle_bytes": 9_812_345_678, "reliabilities": {"n_halves": 100}}


@pytest.mark.parametrize(
    ("weights", "changes", "of", "words"),
    [
        ("released", {"dataset": "simulated"}, "dataset", "the SIMULATED dataset"),
        ("released", {"dataset": "mine"}, "dataset", "dataset mine"),
        (
            "released",
            {"provenance": MINE},
            "dataset",
            "neuropixels recordings not from the published pickle",
        ),
        (
            "released",
            {"provenance": SMALL},
            "dataset",
            "neuropixels recordings not from the published pickle (3.2 MB instead of 9.8 GB)",
        ),
        ("released", {"provenance": ANEW}, "dataset", "reliabilities measured anew"),
        ("random", {"source": "random, seed 0"}, "weights", "weights random"),
        ("nets/mine.pt", {"source": "file mine.pt"}, "weights", "weights mine.pt"),
        (
            "released",
            {"source": "mvkit train, recipe demo"},
            "weights",
            "weights other than the published ones",
        ),
        ("released", {"selection": {"name": "none", "applied": True}}, "selection", "selection none"),
        ("released", {"areas": ("VISp",)}, "areas", "areas VISp only"),
        ("released", {"areas": AREAS[:-1]}, "areas", "without VISam"),
        ("released", {"areas": (*AREAS, "VISli")}, "areas", "areas VISli too"),
        ("released", {"n_splits": 2}, "n_splits", "n_splits 2 instead of 10"),
        ("released", {"n_splits": 1}, "n_splits", "n_splits 1 instead of 10"),
        ("released", {"n_halves": 20}, "n_halves", "n_halves 20 instead of 100"),
        ("released", {"mapping": "ridge"}, "mapping", "mapping ridge instead of pls"),
        ("released", {"split_seed": 1}, "split_seed", "split_seed 1 instead of 0"),
        ("released", {"layers": ("features.3",)}, "layers", "1 of 7 layers"),
        ("released", {"layers": ("features.0", "features.3")}, "layers", "other layers"),
        (
            "released",
            {"preprocessing": {"input_px": 128}},
            "preprocessing",
            "input_px 128 instead of 64",
        ),
    ],
)
def test_one_difference_forbids_to_compare_with_table_2(
    weights: str, changes: dict[str, Any], of: str, words: str
) -> None:
    found = compare_with_table2("alexnet_bn_ir", weights, scores_like_table_2(**changes))
    assert found is not None
    assert [(difference.of, difference.words) for difference in found.differences] == [(of, words)]
    assert found.line() == f"the paper's Table 2 (0.413) is not comparable: {words}"
    assert not found.to_json()["comparable"]


def test_the_line_names_three_differences_and_counts_the_others() -> None:
    scores = scores_like_table_2(
        selection={"name": "none", "applied": True}, areas=("VISp",), n_splits=2, source="random, seed 0"
    )
    found = compare_with_table2("alexnet_bn_ir", "random", scores)
    assert found is not None
    assert found.line() == (
        "the paper's Table 2 (0.413) is not comparable: weights random, selection none, areas VISp only "
        "and 1 more"
    )
    assert found.to_json()["differences"] == [
        {
            "of": "weights",
            "here": "random, seed 0",
            "paper": "https://mouse-vision-ckpts.s3.amazonaws.com/alexnet_bn_ir.pt",
            "words": "weights random",
        },
        {"of": "selection", "here": "none", "paper": "code", "words": "selection none"},
        {"of": "areas", "here": ["VISp"], "paper": list(AREAS), "words": "areas VISp only"},
        {"of": "n_splits", "here": 2, "paper": 10, "words": "n_splits 2 instead of 10"},
    ]


def test_a_row_without_a_value_for_the_dataset_is_not_compared() -> None:
    scores = scores_like_table_2("dual_stream_ir", dataset="calcium")
    found = compare_with_table2("dual_stream_ir", "random", scores)
    assert found is not None
    assert found.line() == "the paper's Table 2 (0.336) is not comparable: dataset calcium"


def test_models_that_table_2_does_not_have_are_not_compared() -> None:
    scores = scores_like_table_2()
    for name in ("runs/demo", "pixels", "torchvision:vgg16", "alexnet_classifier"):
        assert compare_with_table2(name, "random", scores) is None
