"""Reading recipes: strict YAML, bases, overrides, and messages that name key, file and line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mvkit.errors import RecipeError
from mvkit.recipes import (
    KeyedError,
    find_recipe,
    load_recipe,
    packaged_recipes,
    parse_scalar,
    parse_yaml,
    read_yaml,
)


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


def problems(folder: Path, text: str, *overrides: str, name: str = "r") -> list[str]:
    """Lines of the error that a recipe gives, without the folder."""
    path = folder / f"{name}.yaml"
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
        ("main:\n  radius: 2\n", "r.yaml:1: main.name: missing; valid: circle, square"),
        (
            "main:\n  name: circle\n  kind: oher\n",
            "r.yaml:3: main.kind: give square or other, got 'oher'; did you mean 'other'?",
        ),
        (
            "layers:\n- corner: [0, 1.5]\n",
            "r.yaml:2: layers[0].corner[1]: give a whole number, got 1.5",
        ),
        ("width: '3'\n", "r.yaml:1: width: give a whole number, or null, got '3'"),
        ("final: no\n", "r.yaml:1: final: give true or false, got 'no'"),
        ("width: true\n", "r.yaml:1: width: give a whole number, or null, got true"),
        ("frames: [{shape: 1}]\n", "r.yaml:1: frames[0].shape: unknown key; did you mean 'shapes'?"),
        (
            "frames: []\n",
            "r.yaml:1: frames: give a list of items, 1 or more, got []",
        ),
        (
            f"width: {list(range(100))}\n",
            f"r.yaml:1: width: give a whole number, or null, got {str(list(range(100)))[:77]}...",
        ),
        ("titel: x\n", "r.yaml:1: titel: unknown key; did you mean 'title'?"),
    ],
)
def test_messages(text: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text) == [message]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "width: 2\n".encode("utf-16"),
            "r.yaml: UTF-16; a recipe is text in UTF-8: save it so in your editor",
        ),
        (
            "width: 2\ntitle: café\n".encode("latin-1"),
            "r.yaml:2: not UTF-8; a recipe is text in UTF-8: save it so in your editor",
        ),
        (
            b"width: 2\nheight: \0\n",
            "r.yaml:2: the character U+0000; a recipe is text in UTF-8: save it so in",
        ),
        (b"main:\n\tname: circle\n", "r.yaml:2: not valid YAML: a tab; YAML is indented with spaces"),
        (
            b"width: 2\n---\nwidth: 3\n",
            "r.yaml:2: not valid YAML: expected a single document in the stream, ",
        ),
        (b"final: !!bool maybe\n", "r.yaml:1: final: cannot read 'maybe'"),
        (b"width: !!int 1_000\n", "r.yaml:1: width: cannot read '1_000'"),
        (
            b"width: " + b"9" * 5000,
            f"r.yaml:1: width: cannot read '{'9' * 76}..., a number of 5,000 characters",
        ),
        (b'title: "\\ud800"\n', r"r.yaml:1: title: '\ud800': half a character"),
        (b'"a\\nb": 1\n', r"r.yaml:1: a\nb: unknown key; "),
        (b"width: .inf\n", "r.yaml:1: width: give a whole number, or null, got inf"),
        (b"- a\n", "r.yaml: a recipe is a mapping of keys to values (key: value); this is a list"),
        (b"width:2\n", "r.yaml: a recipe is a mapping of keys to values (key: value); this is a text"),
        (b"# x\n" * 30_000, "r.yaml: longer than 100,000 characters, which no recipe is"),
        (b"a: &a {<<: *a}\n", "r.yaml:1: <<: not in YAML 1.2; "),
        (
            b"a: !!python/name:os.system\n",
            "r.yaml:1: a: not valid YAML for a recipe: a value of !!python/name",
        ),
    ],
)
def test_files_of_other_editors_and_programs(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(Drawing, str(tmp_path / "r.yaml"))
    (line,) = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert line.startswith(message)


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfwidth: 2\r\ntitle: x\r\n")
    drawing = load_recipe(Drawing, str(tmp_path / "r.yaml"))
    assert (drawing.width, drawing.title) == (2, "x")


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    lines = problems(tmp_path, "".join(f"key{index}: 1\n" for index in range(50)))
    assert len(lines) == 21 and lines[-1] == "... and 30 more problems"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a folder, not a file"),
        (os.mkfifo, "a pipe, not a file"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    ],
)
def test_what_is_no_file_is_named(make: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    make(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match=f"r.yaml' is {kind}"):
        load_recipe(Drawing, str(tmp_path / "r.yaml"))


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
        ("width=1.5", "--set width=1.5: give a whole number, or null, got 1.5"),
        (
            "layers[0].shapes[0].radius=big",
            "--set layers[0].shapes[0].radius=big: give a number, got 'big'",
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
    assert found == ["--set extra.side=3: extra.name: missing; valid: circle, square"]


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
        ("width=[1", "--set width=[1: the value is not complete"),
        ("title=a\nwidth: 2", "more than one value"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, match: str, tmp_path: Path) -> None:
    assert any(
        match.replace("\\", "") in line for line in problems(tmp_path, "layers: [{}]\ntitle: a\n", override)
    )


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
        line.startswith("--set train.epochs=1.5: give a whole number") and "got 1.5" in line for line in lines
    )
    assert any(line.startswith(f"{source}:1: name:") for line in lines)


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", "name.x=3"])
def test_overrides_that_make_no_sense(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(Outer, recipe(tmp_path, "name: a\n"), [override])


def write(folder: Path, **recipes: str) -> None:
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)


BASE = """title: base
main: {name: circle, radius: 2, kind: square}
extra: {name: square, side: 3}
layers:
- corner: [1, 2]
- corner: [3, 4]
width: 5
"""


def test_a_recipe_is_laid_over_its_base(tmp_path: Path) -> None:
    own = "base: base.yaml\nmain: {radius: 7}\nextra: {name: circle, radius: 1}\nlayers: [{}]\nwidth: null\n"
    write(tmp_path, base=BASE, own=own)
    assert load_recipe(Drawing, str(tmp_path / "own.yaml"), ["main.kind=other"]) == Drawing(
        title="base",
        # Groups key by key, also for --set ...
        main=Circle(radius=7.0, kind="other"),
        # ... but one of another kind, lists and values as a whole.
        extra=Circle(radius=1.0),
        layers=(Layer(),),
        width=None,
    )


def test_a_base_may_have_a_base_and_lie_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", middle="base: ../base.yaml\nmain: {radius: 7}\n")
    write(tmp_path, base=BASE, own="width: 6\nbase: ./deep/middle.yaml\n")
    drawing = load_recipe(Drawing, str(tmp_path / "own.yaml"))
    assert (drawing.title, drawing.width, drawing.main) == ("base", 6, Circle(radius=7.0, kind="square"))


FAULTY = "title: good\nmain: {name: circle, radus: 1}\nlayers:\n- {shapes: []}\n"


@pytest.mark.parametrize(
    ("base", "own", "overrides", "messages"),
    [
        (
            FAULTY,
            "base: base.yaml\ntitel: x\n",
            (),
            [
                "base.yaml:2: main.radus: unknown key; did you mean 'radius'?",
                "own.yaml:2: titel: unknown key; did you mean 'title'?",
            ],
        ),
        (
            FAULTY,
            "base: base.yaml\nmain: {name: square}\ntitle: bad\n",
            (),
            ["own.yaml:3: title: is bad", "base.yaml:4: layers[0].shapes: are bad too"],
        ),
        (
            FAULTY,
            "base: base.yaml\nmain:\n  radius: big\n",
            (),
            [
                "own.yaml:3: main.radius: give a number, got 'big'",
                "base.yaml:2: main.radus: unknown key; did you mean 'radius'?",
            ],
        ),
        # What was replaced as a whole has no line of the base any more.
        (
            BASE,
            "base: base.yaml\nlayers:\n- {corner: [0]}\n",
            ("main={name: square, radius: 1}",),
            [
                "--set main={name: square, radius: 1}: main.radius: unknown key; valid: name, side",
                "own.yaml:3: layers[0].corner[1]: missing: give a whole number",
            ],
        ),
        # Missing in a group that both have.
        (
            "main: {radius: 1}\n",
            "base: base.yaml\n\nmain: {radius: 2}\n",
            (),
            ["own.yaml:3: main.name: missing; valid: circle, square"],
        ),
    ],
)
def test_errors_name_the_file_that_gave_the_key(
    base: str, own: str, overrides: tuple[str, ...], messages: list[str], tmp_path: Path
) -> None:
    write(tmp_path, base=base)
    assert problems(tmp_path, own, *overrides, name="own") == messages


NEITHER = "is neither a file (relative to own.yaml) nor a packaged recipe"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            "width: 1\nbase: own.yaml\n",
            "own.yaml:2: base: 'own.yaml' leads back to a recipe of which it is the base",
        ),
        (
            "base: round.yaml\n",
            "round.yaml:1: base: './own.yaml' leads back to a recipe of which it is the base",
        ),
        (
            "base: [a.yaml, b.yaml]\n",
            "own.yaml:1: base: names one recipe, a file or a packaged one, got ['a.yaml', 'b.yaml']",
        ),
        ("base:\n", "own.yaml:1: base: names one recipe, a file or a packaged one, got null"),
        ("base: bse/ir.yaml\n", f"own.yaml:1: base: 'bse/ir.yaml' {NEITHER}; did you mean 'base/ir'?"),
        (f"base: {'x' * 300}\n", f"own.yaml:1: base: '{'x' * 76}... {NEITHER}"),
        ("base: .\n", f"own.yaml:1: base: '.' {NEITHER}"),
        ("base: broken.yaml\n", "broken.yaml:2: width: given twice (first on line 1)"),
        ("bas: broken.yaml\n", "own.yaml:1: bas: unknown key; did you mean 'base'?"),
    ],
)
def test_bases_that_are_none(own: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, round="base: ./own.yaml\n", broken="width: 1\nwidth: 2\n")
    assert problems(tmp_path, own, name="own")[0] == message


def test_a_base_is_named_in_a_file_only(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "title: x\n", "base=base/ir")
    assert line == "--set base=base/ir: a recipe's base is named in its file only"


class Named(_Strict):
    """A recipe that needs a name."""

    name: str


def test_a_recipe_is_called_like_its_file_unless_it_or_its_base_says(tmp_path: Path) -> None:
    write(tmp_path, mine="base: other.yaml\n", other="{}", theirs="name: x\n", last="base: theirs.yaml\n")
    for file, name in {"mine": "mine", "theirs": "x", "last": "x"}.items():
        assert load_recipe(Named, str(tmp_path / f"{file}.yaml")).name == name


def test_packaged_names_and_suggestions() -> None:
    assert find_recipe("score/paper").is_file()
    assert "score/quick" in packaged_recipes()
    with pytest.raises(RecipeError, match="did you mean 'score/paper'"):
        find_recipe("score/papr")
    assert not [name for name in packaged_recipes() if name.startswith("base/")]
    with pytest.raises(RecipeError, match=r"^recipe 'x+\.\.\. is neither a file nor a packaged recipe\n"):
        find_recipe("x" * 300)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-2", 0.03),
        ("1e6", 1e6),
        ("-.5", -0.5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("'3'", "3"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_lines_of_keys() -> None:
    document, lines = parse_yaml("a: 1\nb:\n  c: 2\n  d: [3]\n", "x.yaml")
    assert document == {"a": 1, "b": {"c": 2, "d": [3]}}
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4, ("b", "d", "0"): 4}


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"x.yaml:3: a: given twice \(first on line 1\)"):
        parse_yaml("a: 1\nb: 2\na: 3\n", "x.yaml")


@pytest.mark.parametrize(
    "text", ["- 1\n- 2\n", "just text", "a: [1", "!!python/object/apply:os.system ['true']", ""]
)
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml"):
        parse_yaml(text, "x.yaml")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "x.yaml:1: more than 10,000 values; are there aliases of aliases?"),
        ("b: 1\na: &a [*a]\n", "x.yaml:2: a[0][0]: is nested too deeply, or an alias of itself"),
        ("a: &a {b: *a}\n", "x.yaml:1: a.b.b: is nested too deeply, or an alias of itself"),
        (f"a: {'[' * 3000}{']' * 3000}\n", "x.yaml: lists or groups are nested too deeply"),
        (
            f"a: 1\nb: {'9' * 5000}\n",
            f"x.yaml:2: b: cannot read '{'9' * 76}..., a number of 5,000 characters",
        ),
        ("a: !!int three\n", "x.yaml:1: a: cannot read 'three'"),
        (
            "a: &b {c: 1}\nd:\n  <<: *b\n",
            "x.yaml:3: <<: not in YAML 1.2; `base: FILE` takes over a recipe's keys",
        ),
        ("[1, 2]: 3\n", "x.yaml:1: not valid YAML for a recipe: a key must be a word"),
        (
            "a:\n  b: !!python/object/apply:os.system ['true']\n",
            "x.yaml:2: a.b: not valid YAML for a recipe: a value of !!python/object/apply:os.system",
        ),
        (
            "a: \x07\n",
            "x.yaml:1: the character U+0007; a recipe is text in UTF-8: save it so in your editor",
        ),
    ],
    ids=range(10),
)
def test_what_yaml_allows_and_a_recipe_does_not(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value) == message


def test_an_alias_is_its_value() -> None:
    document, lines = parse_yaml("a: &a\n  b: [1]\nc: *a\n", "x.yaml")
    assert document == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert lines[("c", "b")] == 2


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        read_yaml(tmp_path / "bad.yaml")
