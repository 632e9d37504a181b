"""What a scoring run makes of a request, and what it says while it prepares."""

from __future__ import annotations

import pytest

from mvkit.errors import MvkitError, RecipeError, UsageError
from mvkit.pipeline import request as score_request
from mvkit.pipeline import score as score_run
from mvkit.pipeline.request import ScoreRequest
from mvkit.pipeline.score import run_score
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.scoring import ScoreSettings


def test_scoring_recipes_go_by_their_short_names() -> None:
    names = [name for name in packaged_recipes() if name.startswith("score/")]
    assert {"score/paper", "score/honest", "score/quick"} <= set(names)
    for name in names:
        short = ScoreRequest(models=("pixels",), recipe=name.removeprefix("score/"))
        assert score_request.settings_of(short) == load_recipe(ScoreSettings, name)
    with pytest.raises(RecipeError, match="did you mean 'honest'"):
        score_request.settings_of(ScoreRequest(models=("pixels",), recipe="honst"))


def test_what_the_recipes_promise() -> None:
    paper, honest, quick = (
        load_recipe(ScoreSettings, f"score/{name}") for name in ("paper", "honest", "quick")
    )
    assert paper == ScoreSettings()
    assert (quick.n_splits, quick.n_halves) == (2, 20)
    assert quick.model_copy(update={"n_splits": 10, "n_halves": 100}) == paper
    assert (honest.layer_choice, honest.ceiling, honest.estimator) == (
        "held-out",
        "holdout",
        "corrected-mean",
    )
    for name in ("ridge", "one-to-one", "rsa"):
        recipe = f"score/paper_{name.replace('-', '_')}"
        assert load_recipe(ScoreSettings, recipe).mapping == name
    ceiling = load_recipe(ScoreSettings, "score/paper_ceiling")
    assert ceiling == paper.model_copy(update={"ceiling": "holdout"})


def test_options_win_over_recipe_and_overrides() -> None:
    request = ScoreRequest(
        models=("pixels",),
        recipe="honest",
        overrides=("n_halves=7", "mapping=ridge"),
        settings={"mapping": "one-to-one", "layer_choice": None, "n_splits": 3},
    )
    settings = score_request.settings_of(request)
    assert (settings.mapping, settings.n_halves, settings.n_splits) == ("one-to-one", 7, 3)
    assert settings.layer_choice == "held-out"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"mapping": "rige"}}, "unknown mapping 'rige'; did you mean 'ridge'"),
        ({"settings": {"ceiling": "holdot"}}, "did you mean 'holdout'"),
        ({"settings": {"layer_choice": "heldout"}}, "did you mean 'held-out'"),
        ({"overrides": ("halving=bootstap",)}, "did you mean 'bootstrap'"),
        ({"settings": {"source_units": "equal"}}, "--equal-units is about the ceiling"),
        ({"extrapolate": "unit"}, "did you mean 'units'"),
        ({"recipe": "paper_rsa", "settings": {"ceiling": "holdout"}}, "population=animal"),
        ({"settings": {"layer_choice": "held-out", "n_splits": 1}}, "--splits 2"),
        ({"settings": {"layer_choice": "held-out", "mapping": "rsa"}}, "similarity_images=test"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "load_models", lambda *names, **options: pytest.fail("too late"))
    with pytest.raises(MvkitError, match=message) as caught:
        run_score(ScoreRequest(models=("pixels",), **changes), note=lambda text: None)
    assert isinstance(caught.value, UsageError | RecipeError)
