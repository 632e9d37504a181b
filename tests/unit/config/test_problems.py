"""Messages about recipes with unions and lists: clean keys, lines, suggestions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mvkit.config.problems import KeyedError
from mvkit.config.recipes import load_recipe
from mvkit.errors import RecipeError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Circle(_Strict):
    """A member of a union."""

    name: Literal["circle"] = "circle"
    radius: float = 1.0
    # A word that is another member's name: only the discriminator decides.
    kind: Literal["square", "other"] = "other"


class Square(_Strict):
    """Another member."""

    name: Literal["square"] = "square"
    side: float = 1.0


Shape = Annotated[Circle | Square, Field(discriminator="name")]


class Layer(_Strict):
    """A group in a list."""

    shapes: tuple[Shape, ...] = ()
    corner: tuple[int, int] = (0, 0)


class Drawing(_Strict):
    """A recipe with everything nested in everything."""

    title: str = ""
    final: bool = True
    main: Shape = Circle()
    extra: Shape | None = None
    layers: tuple[Layer, ...] = ()
    frames: Annotated[tuple[Layer, ...], Field(min_length=1)] = (Layer(),)
    width: int | None = None
    limit: int | str = 3

    @model_validator(mode="after")
    def _check(self) -> Drawing:
        if self.title == "bad":
            raise KeyedError([("title", "is bad"), ("layers[0].shapes", "are bad too")])
        return self


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """Lines of the error that a recipe gives, without the folder."""
    path = folder / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(Drawing, str(path), overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "main:\n  name: circle\n  radus: 2\n",
            "r.yaml:3: main.radus: unknown key; did you mean 'radius'?",
        ),
        (
            "extra:\n  name: square\n  sid: 2\n",
            "r.yaml:3: extra.sid: unknown key; did you mean 'side'?",
        ),
        (
            "layers:\n- corner: [0, 1]\n- shapes:\n  - {name: square}\n  - name: circle\n    radiu: 1\n",
            "r.yaml:6: layers[1].shapes[1].radiu: unknown key; did you mean 'radius'?",
        ),
        (
            "main:\n  name: sqare\n",
            "r.yaml:2: main.name: unknown name 'sqare'; did you mean 'square'?; valid: circle, square",
        ),
        (
            "layers:\n- shapes:\n  - name: cirle\n",
            "r.yaml:3: layers[0].shapes[0].name: unknown name 'cirle'; did you mean 'circle'?; "
            "valid: circle, square",
        ),
        ("main:\n  radius: 2\n", "r.yaml:1: main.name: Field required; valid: circle, square"),
        (
            "main:\n  name: circle\n  kind: oher\n",
            "r.yaml:3: main.kind: Input should be 'square' or 'other', got 'oher'; did you mean 'other'?",
        ),
        (
            "layers:\n- corner: [0, 1.5]\n",
            "r.yaml:2: layers[0].corner[1]: Input should be a valid integer, got 1.5",
        ),
        ("width: '3'\n", "r.yaml:1: width: Input should be a valid integer, got '3'"),
        ("final: no\n", "r.yaml:1: final: Input should be a valid boolean, got 'no'"),
        ("width: true\n", "r.yaml:1: width: Input should be a valid integer, got True"),
        ("frames: [{shape: 1}]\n", "r.yaml:1: frames[0].shape: unknown key; did you mean 'shapes'?"),
        (
            "frames: []\n",
            "r.yaml:1: frames: Tuple should have at least 1 item after validation, not 0, got []",
        ),
        (
            f"width: {list(range(100))}\n",
            f"r.yaml:1: width: Input should be a valid integer, got {str(list(range(100)))[:77]}...",
        ),
        ("titel: x\n", "r.yaml:1: titel: unknown key; did you mean 'title'?"),
    ],
)
def test_messages(text: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text) == [message]


def test_members_of_a_plain_union_are_no_keys(tmp_path: Path) -> None:
    assert {line.split(": ")[1] for line in problems(tmp_path, "limit: 1.5\n")} == {"limit"}


def test_validators_that_name_keys(tmp_path: Path) -> None:
    assert problems(tmp_path, "layers:\n- shapes: []\ntitle: bad\n") == [
        "r.yaml:3: title: is bad",
        "r.yaml:2: layers[0].shapes: are bad too",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("width=1.5", "--set width=1.5: width: Input should be a valid integer, got 1.5"),
        (
            "layers[0].shapes[0].radius=big",
            "--set layers[0].shapes[0].radius=big: layers[0].shapes[0].radius: "
            "Input should be a valid number, got 'big'",
        ),
        (
            "main={name: square, sidd: 3}",
            "--set main={name: square, sidd: 3}: main.sidd: unknown key; did you mean 'side'?",
        ),
    ],
)
def test_overrides_are_named(override: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, "layers:\n- shapes:\n  - name: circle\n", override) == [message]


def test_an_override_beneath_a_key_is_its_place(tmp_path: Path) -> None:
    found = problems(tmp_path, "title: bad\n", "layers=[{}]", "layers[0].shapes=[]")
    assert found[1] == "--set layers[0].shapes=[]: layers[0].shapes: are bad too"
    found = problems(tmp_path, "title: good\n", "extra.side=3")
    assert found == ["--set extra.side=3: extra.name: Field required; valid: circle, square"]


def test_overrides_reach_into_lists_and_make_groups(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("layers:\n- shapes:\n  - name: circle\nextra:\n")
    drawing = load_recipe(
        Drawing,
        str(path),
        ["layers[0].shapes[0].radius=4", "layers.0.corner=[1, 2]", "extra.name=square", "extra.side=2"],
    )
    assert drawing.layers == (Layer(shapes=(Circle(radius=4.0),), corner=(1, 2)),)
    assert drawing.extra == Square(side=2.0)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("layers[1].corner=[1, 2]", r"'layers' is a list of 1 items; write layers\[0\]"),
        ("layers.first.corner=1", "'layers' is a list of 1 items"),
        ("title.x=1", "'title' is a value, not a group"),
        ("title[0].x=1", "'title' is a value, not a group"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, match: str, tmp_path: Path) -> None:
    assert any(
        match.replace("\\", "") in line for line in problems(tmp_path, "layers: [{}]\ntitle: a\n", override)
    )
