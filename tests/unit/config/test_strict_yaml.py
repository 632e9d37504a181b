"""YAML 1.2 scalars, duplicate keys and line numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvkit.config.strict_yaml import parse_scalar, parse_yaml, read_yaml
from mvkit.errors import RecipeError


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


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        read_yaml(tmp_path / "bad.yaml")
