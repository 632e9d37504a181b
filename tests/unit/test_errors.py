"""Messages about names that do not exist."""

from __future__ import annotations

import pytest

from mvkit.errors import UsageError, command_line, unknown_name, valid_names, wording


def test_a_dozen_names_are_all_listed() -> None:
    names = [f"name{number:02d}" for number in range(12)]
    message = str(unknown_name("thing", "nam03", names, command="mvkit list things"))
    assert message == f"unknown thing 'nam03'; did you mean 'name03'?\nvalid: {', '.join(names)}"


def test_of_more_names_the_near_ones_are_shown_and_the_command_that_lists_all() -> None:
    names = [*(f"zzz{number:02d}" for number in range(20)), "dual_stream", "single_stream"]
    message = str(unknown_name("model", "dual_streem", names, command="mvkit list models"))
    first, second = message.splitlines()
    assert first == "unknown model 'dual_streem'; did you mean 'dual_stream'?"
    assert second == "near: dual_stream, single_stream; all: mvkit list models"
    assert str(unknown_name("model", "xyz", names, command="mvkit list models")) == (
        "unknown model 'xyz'\nall: mvkit list models"
    )


@pytest.mark.parametrize(("names", "line"), [([], "valid: none"), (["a"], "valid: a")])
def test_few_names(names: list[str], line: str) -> None:
    assert valid_names("b", names) == line


def test_without_a_command_the_number_of_the_others_is_told() -> None:
    assert valid_names("q", [str(number) for number in range(13)]).endswith("10, 11 and 1 more")


def test_messages_are_worded_for_their_reader() -> None:
    assert wording("--weights random", 'weights="random"') == 'weights="random"'
    with command_line():
        assert wording("--weights random", 'weights="random"') == "--weights random"
    assert wording("--weights random", 'weights="random"') == 'weights="random"'


def test_a_command_names_options_and_python_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    from mvkit import load_model
    from mvkit.cli.main import run

    assert run(["score", "gabor", "--input-size", "8"]) == 2
    assert "leave out --input-size" in capsys.readouterr().err
    with pytest.raises(UsageError) as caught:
        load_model("gabor", input_size=8)
    assert "leave out input_size" in str(caught.value)
    assert "--" not in str(caught.value)
