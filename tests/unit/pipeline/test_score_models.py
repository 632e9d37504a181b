"""The models of a run: loaded, checked, and not the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.models import find_model
from mvkit.models.released import paper_value
from mvkit.score_models import load_models, value_in_paper
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


def test_a_run_and_its_checkpoint_are_one_model(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match="is the same model as"):
        load_models([str(tmp_path), str(tmp_path / "last.pt")])


def test_a_pattern_must_match_in_every_model() -> None:
    with pytest.raises(UsageError, match="gabor: unknown layer 'pixels'"):
        load_models(["pixels", "gabor"], layers=["pixels"])
    with pytest.raises(UsageError, match=r"^unknown layer 'pixls'"):
        load_models(["pixels"], layers=["pixls"])
    assert len(load_models(["pixels", "gabor"], layers=["*"])) == 2


@pytest.mark.parametrize(
    ("dataset", "mapping", "same"),
    [("neuropixels", "pls", True), ("neuropixels", "ridge", False), ("simulated", "pls", False)],
)
def test_the_papers_value_belongs_to_its_recordings_and_map(dataset: str, mapping: str, same: bool) -> None:
    settings = ScoreSettings(mapping=mapping)
    scores = Scores({"score": np.empty(0)}, (), (), settings, {"dataset": dataset})
    expected = paper_value(find_model("alexnet_bn_ir"), "released")
    assert expected is not None
    assert value_in_paper("alexnet_bn_ir", "released", scores) == (expected if same else None)
    assert value_in_paper("runs/demo", "released", scores) is None
