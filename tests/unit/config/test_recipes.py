"""Recipes: all problems at once, overrides, packaged names, digests."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from mvkit.config.recipes import digest, find_recipe, load_recipe, packaged_recipes
from mvkit.errors import RecipeError


class Inner(BaseModel):
    """A nested group."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = 0.07
    epochs: int = 200


class Outer(BaseModel):
    """A toy recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = "x"
    train: Inner = Inner()


def recipe(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    return str(path)


def test_values_and_overrides(tmp_path: Path) -> None:
    source = recipe(tmp_path, "name: a\ntrain:\n  temperature: 3e-2\n")
    loaded = load_recipe(Outer, source, ["train.epochs=7"])
    assert loaded == Outer(name="a", train=Inner(temperature=0.03, epochs=7))


def test_every_problem_is_reported_with_its_place(tmp_path: Path) -> None:
    source = recipe(tmp_path, "name: [1]\ntrain:\n  temperatur: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Outer, source, ["train.epochs=1.5"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert f"{source}:3: train.temperatur: unknown key; did you mean 'temperature'?" in lines
    assert any(
        line.startswith("--set train.epochs=1.5: train.epochs:") and "got 1.5" in line for line in lines
    )
    assert any(line.startswith(f"{source}:1: name:") for line in lines)


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", "name.x=3"])
def test_overrides_that_make_no_sense(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(Outer, recipe(tmp_path, "name: a\n"), [override])


def test_packaged_names_and_suggestions() -> None:
    assert find_recipe("score/paper").is_file()
    assert "score/quick" in packaged_recipes()
    with pytest.raises(RecipeError, match="did you mean 'score/paper'"):
        find_recipe("score/papr")


def test_digest_depends_on_values_only(tmp_path: Path) -> None:
    same = load_recipe(Outer, recipe(tmp_path, "train: {epochs: 200}\nname: x\n"))
    assert digest(same) == digest(Outer())
    assert digest(Outer(name="y")) != digest(Outer())
