"""The recipe of a request: files, options and --set, and what is refused before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from mvkit.cli.score import CeilingKind, MapName, SelectionPreset
from mvkit.errors import MvkitError, RecipeError, UsageError
from mvkit.models.preprocessing import InputOptions
from mvkit.neural import SelectionSettings, selection_with
from mvkit.neural.selection import PRESETS
from mvkit.pipeline import score as score_run
from mvkit.pipeline.request import OPTIONS, Machine, ScoreRecipe, ScoreRequest, UnitSelection, resolve_recipe
from mvkit.pipeline.score import run_score
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.scoring import ScoreSettings


def resolved(**changes: object) -> ScoreRecipe:
    """The recipe of a request."""
    return resolve_recipe(ScoreRequest(models=("pixels",), **changes))  # type: ignore[arg-type]


def test_scoring_recipes_go_by_their_short_names() -> None:
    names = [name for name in packaged_recipes() if name.startswith("score/")]
    assert {"score/paper", "score/honest", "score/quick"} <= set(names)
    for name in names:
        assert resolved(recipe=name.removeprefix("score/")) == load_recipe(ScoreRecipe, name)
        assert resolved(recipe=name).settings == load_recipe(ScoreSettings, name)
    with pytest.raises(RecipeError, match="did you mean 'honest'"):
        resolved(recipe="honst")


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


def test_options_win_over_the_recipe_and_join_overrides() -> None:
    recipe = resolved(
        recipe="honest",
        overrides=("n_halves=7", "selection={min_units: 3}"),
        options={"mapping": "one-to-one", "n_splits": 3, "selection.preset": "paper", "ceiling": None},
    )
    assert (recipe.mapping, recipe.n_halves, recipe.n_splits) == ("one-to-one", 7, 3)
    assert (recipe.layer_choice, recipe.ceiling) == ("held-out", "holdout")
    assert recipe.selection.resolve() == selection_with("paper", min_units=3)


def test_a_file_holds_every_setting_of_a_run(tmp_path: Path) -> None:
    """The protocol, the selection of units, the networks' input, over a base."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: score/honest\n"
        "halving: bootstrap\n"
        "correlation: spearman\n"
        "correction: none\n"
        "parity: true\n"
        "source_units: equal\n"
        "extrapolate: stimuli\n"
        "layer_choice: paper\n"
        "selection:\n"
        "  preset: none\n"
        "  min_reliability: .4\n"
        "  run_p: none\n"
        "  min_units: median\n"
        "  time_window_s: [0.04, 0.1]\n"
        "input: {size_px: 32, mean: .5, std: [.1, .2, .3], grey: true}\n"
        "machine: {batch_size: 8, scratch: /elsewhere}\n"
    )
    recipe = resolved(recipe=str(path))
    assert recipe.settings == load_recipe(ScoreSettings, "score/honest").model_copy(
        update={
            "halving": "bootstrap",
            "correlation": "spearman",
            "correction": "none",
            "parity": True,
            "source_units": "equal",
            "layer_choice": "paper",
        }
    )
    assert recipe.extrapolate == "stimuli"
    assert recipe.selection.resolve() == SelectionSettings(
        min_reliability=0.4,
        min_mean_reliability=0.4,
        min_median_reliability=None,
        run_p=None,
        min_units="median",
        time_window_s=(0.04, 0.1),
    )
    assert recipe.input.options() == InputOptions(32, (0.5,), (0.1, 0.2, 0.3), True)
    assert recipe.machine == Machine(batch_size=8, scratch=Path("/elsewhere"))


def test_one_threshold_is_for_both_kinds_of_recordings_unless_each_has_its_own() -> None:
    both = resolved(overrides=("selection.min_reliability=.2",)).selection.resolve()
    assert both == selection_with("code", min_reliability=0.2, min_mean_reliability=0.2)
    one = resolved(overrides=("selection.min_mean_reliability=.2",)).selection.resolve()
    assert one == selection_with("code", min_mean_reliability=0.2)
    off = resolved(overrides=("selection.min_reliability=none", "selection.min_mean_reliability=.6"))
    assert off.selection.resolve() == selection_with("code", min_reliability=None, min_mean_reliability=0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n_splits: 2\nselection:\n  min_reliabilty: .3\n",
            r":3: selection\.min_reliabilty: unknown key; "
            "did you mean 'min_reliability'",
        ),
        ("selection: {min_units: q4}\n", r":1: selection\.min_units: must be q3, median, none or a whole"),
        ("input:\n  mean: [.5, .5]\n", r":2: input\.mean: must be one number or a list of three"),
        ("input:\n  size_px: 0\n", r":2: input\.size_px: give a whole number, 1 or more"),
        ("extrapolate: unit\n", r":1: extrapolate: .*did you mean 'units'"),
        ("machine: {batchsize: 3}\n", r":1: machine\.batchsize: unknown key; did you mean 'batch_size'"),
        ("machne: {batch_size: 3}\n", r":1: machne: unknown key; did you mean 'machine'"),
        ("confidence: .nan\n", r":1: confidence: .*finite"),
    ],
)
def test_errors_of_a_file_name_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"mine\.yaml{message}") as caught:
        resolved(recipe=str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "override"),
    [
        ("n_splits", 3, "n_splits=4"),
        ("n_halves", 3, " n_halves = 4"),
        ("mapping", "ridge", "mapping=pls"),
        ("ceiling", "holdout", "ceiling=none"),
        ("selection.preset", "paper", "selection.preset=none"),
        ("selection.preset", "paper", "selection={preset: code}"),
        ("input.size_px", 32, "input={size_px: 64}"),
    ],
)
def test_an_option_and_another_value_of_its_key_are_refused(
    option: str, value: object, override: str
) -> None:
    name = OPTIONS[option]
    with pytest.raises(UsageError) as caught:
        resolved(options={option: value}, overrides=(override,))
    assert str(caught.value) == f"{name} {value} contradicts --set {override}: give one of them"


def test_an_option_and_the_same_value_of_its_key_go_together() -> None:
    assert resolved(options={"n_splits": 3}, overrides=("n_splits = 3",)).n_splits == 3


@pytest.mark.parametrize(
    ("mapping", "override", "why"),
    [
        ("ridge", "n_components=3", "it belongs to pls, and the map is ridge"),
        ("rsa", "pls_stopping=converged", "it belongs to pls, and the map is rsa"),
        ("pls", "ridge_alpha=2", "it belongs to ridge, and the map is pls"),
        ("ridge", "ridge_grid=[1, 2]", "it belongs to ridge_alpha=cv"),
        ("lasso", "l1_ratio=.3", "it belongs to elasticnet, and the map is lasso"),
        ("pls", "population=pooled", "it belongs to rsa and cka, and the map is pls"),
        ("cka", "rsa_comparison=cosine", "it belongs to rsa, and the map is cka"),
        ("rsa", "train_fraction=.6", "rsa compares all images at once"),
        ("pls", "source_units=equal", "it is about the ceiling: give --ceiling holdout or pairwise"),
        ("pls", "n_subsamples=3", "it belongs to source_units=equal with a ceiling, and to extrapolate"),
    ],
)
def test_a_key_without_effect_is_refused(mapping: str, override: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(options={"mapping": mapping}, overrides=(override,))
    assert str(caught.value).startswith(f"--set {override} has no effect: {why}")
    assert "\n" not in str(caught.value)


def test_keys_with_an_effect_and_those_of_a_file_are_not_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--splits 3 has no effect: cka compares all images at once"):
        resolved(options={"mapping": "cka", "n_splits": 3})
    assert resolved(options={"mapping": "cka", "n_splits": 3}, overrides=("similarity_images=test",))
    assert resolved(options={"mapping": "ridge"}, overrides=("ridge_alpha=cv", "ridge_grid=[1, 2]"))
    assert resolved(options={"mapping": "ridge"}, recipe="quick").n_components == 25
    assert resolved(options={"ceiling": "holdout"}, overrides=("source_units=equal", "n_subsamples=3"))
    assert resolved(overrides=("extrapolate=units", "n_subsamples=3"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ("mapping=rige",)}, "did you mean 'ridge'"),
        ({"overrides": ("ceiling=holdot",)}, "did you mean 'holdout'"),
        ({"overrides": ("layer_choice=heldout",)}, "did you mean 'held-out'"),
        ({"overrides": ("halving=bootstap",)}, "did you mean 'bootstrap'"),
        ({"overrides": ("extrapolate=unit",)}, "did you mean 'units'"),
        ({"recipe": "paper_rsa", "options": {"ceiling": "holdout"}}, "population=animal"),
        ({"recipe": "paper_rsa", "overrides": ("extrapolate=units",)}, "population=animal"),
        ({"overrides": ("layer_choice=held-out", "n_splits=1")}, "--splits 2"),
        ({"overrides": ("layer_choice=held-out", "mapping=rsa")}, "similarity_images=test"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "load_models", lambda *names, **options: pytest.fail("too late"))
    with pytest.raises(MvkitError, match=message) as caught:
        run_score(ScoreRequest(models=("pixels",), **changes), note=lambda text: None)
    assert isinstance(caught.value, UsageError | RecipeError)


PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")


MEANINGS = yaml.safe_load((Path(__file__).parents[3] / "docs" / "reference" / "recipe_keys.yaml").read_text())


def test_every_key_has_a_meaning_on_the_page_of_recipes() -> None:
    for group in (ScoreRecipe, *(field.annotation for field in ScoreRecipe.model_fields.values())):
        if isinstance(group, type) and issubclass(group, BaseModel):
            assert set(MEANINGS[group.__name__]) == set(group.model_fields), group.__name__


def test_the_recipe_of_the_page_loads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    recipe = resolved(recipe=str(tmp_path / "mine.yaml"))
    assert (recipe.layer_choice, recipe.correlation, recipe.extrapolate) == ("held-out", "spearman", "units")
    assert recipe.selection.resolve().min_units == 10


def test_the_command_line_has_the_choices_of_the_recipe() -> None:
    choices = {"mapping": MapName, "ceiling": CeilingKind}
    for key, names in choices.items():
        assert {str(name) for name in names} == set(get_args(ScoreSettings.model_fields[key].annotation))
    assert {str(name) for name in SelectionPreset} == set(PRESETS)
    assert set(PRESETS) == set(get_args(UnitSelection.model_fields["preset"].annotation))
