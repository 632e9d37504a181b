"""Exit codes, JSON errors and the edges of the command line."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from mvkit.cli import console, main
from mvkit.errors import DataError, RecipeError, UsageError


def app_raising(error: BaseException) -> typer.Typer:
    """A command line whose only command raises."""
    app = typer.Typer()

    @app.command()
    def go(as_json: bool = typer.Option(False, "--json")) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("file x: bad"), 1),
        (UsageError("unknown model 'x'"), 2),
        (RecipeError("r.yaml:1: a: bad"), 2),
        (KeyboardInterrupt(), 130),
        (FileNotFoundError(2, "No such file or directory", "x.h5"), 1),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", app_raising(error))
    assert main.run([]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.strip()


def test_errors_are_one_json_document_with_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", app_raising(DataError("file x: bad")))
    assert main.run(["--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": {"type": "DataError", "message": "file x: bad"}}
    assert printed.err == "error: file x: bad\n"


class UnprintableError(Exception):
    """An exception that fails when it is to be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ZeroDivisionError("bug"), "ZeroDivisionError: bug (a fault of mvkit)\nplease report it on the "),
        (NotImplementedError(), "NotImplementedError (a fault of mvkit)\n"),
        (UnprintableError(), "UnprintableError (a fault of mvkit)\n"),
        (KeyError("\x1b[31mred\nline\x00"), r"KeyError: '\x1b[31mred\nline\x00' (a fault"),
        (ValueError("\x1b[31mred\nline\x00"), r"ValueError: \x1b[31mred line\x00 (a fault"),
        (RuntimeError("x" * 10_000), f"RuntimeError: {'x' * 300}... (a fault"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec can't decode"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exc"),
        (MemoryError(), "memory ran out (MemoryError)\nfewer --jobs, --layers or --areas, or a smaller "),
        (RuntimeError("x: can't allocate memory: you tried"), "memory ran out (RuntimeError: x: can't "),
        (
            FutureWarning("old"),
            "FutureWarning: old\nhere Python takes warnings for errors: run ",
        ),
        (SystemExit("bye"), "SystemExit: bye (a fault of mvkit)\n"),
    ],
)
def test_an_exception_that_nobody_expected_is_one_message(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As if every step were in mvkit.
    monkeypatch.setattr(main, "exception_location", lambda error: "")
    monkeypatch.setattr(main, "app", app_raising(error))
    assert main.run(["--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {text}") and len(printed.err) < 700
    assert json.loads(printed.out) == {
        "error": {"type": type(error).__name__, "message": printed.err.removeprefix("error: ")[:-1]}
    }


def test_its_traceback_is_saved_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mvkit

    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("at https://me:secret@host/x")

    monkeypatch.setenv("MVKIT_SECRET", "secret")
    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(main, "exception_location", lambda error: "")
    arguments = ["score", "x", "--dask", "tcp://me:secret@host:1", f"--home={tmp_path}"]
    assert main.run(arguments) == 1
    (path,) = (tmp_path / "crashes").iterdir()
    assert capsys.readouterr().err == (
        "error: ZeroDivisionError: at https://host/x (a fault of mvkit)\n"
        f"please report it on the Issues page of mvkit's repository, with {path}\n"
    )
    text = path.read_text()
    assert f"mvkit score x --dask tcp://host:1 --home={tmp_path}" in text and "secret" not in text
    assert (
        f"mvkit {mvkit.__version__}, python {platform.python_version()}, numpy 1" in text or "numpy 2" in text
    )
    assert text.rstrip().endswith("ZeroDivisionError: at https://host/x") and "in fail" in text
    # Where the home cannot be written, the temporary folder; where that cannot either, the terminal.
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert main.run(["score", "--home", str(tmp_path / "file")]) == 1
    (path,) = (tmp_path / "temporary").iterdir()
    assert str(path) in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file" / "x"))
    assert main.run(["score", "--home", str(tmp_path / "file")]) == 1
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed and printed.endswith("with the traceback above\n")


def test_a_traceback_is_shown_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MVKIT_DEBUG", "1")
    monkeypatch.setattr(main, "app", app_raising(DataError("file x: bad")))
    assert main.run([]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and printed.endswith("\nerror: file x: bad\n")


def test_an_exception_in_code_that_is_not_mvkits_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "net.py"
    script.write_text("def go(*arguments, **options):\n    raise IndexError('no such layer')\n")
    space: dict[str, Callable[..., object]] = {}
    exec(compile(script.read_text(), str(script), "exec"), space)
    monkeypatch.setattr(main, "app", space["go"])
    assert main.run(["--home", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {script}:2: IndexError: no such layer (in code that is not mvkit's)\n")
    assert "report" not in printed


@pytest.mark.parametrize(
    "words", [["scor"], ["score", "--no-such-option"], ["score"], ["fetch", "neural", "--dataset"]]
)
def test_usage_errors_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words) == 2
    assert capsys.readouterr().err
    assert main.run([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import mvkit

    assert main.run(["--version"]) == 0
    python = platform.python_version()
    assert capsys.readouterr().out == f"mvkit {mvkit.__version__} (Python {python}, {sys.platform})\n"


def test_json_writes_nan_as_null(capsys: pytest.CaptureFixture[str]) -> None:
    from mvkit.cli.console import print_json

    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": None}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": None}}


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mvkit", "nonsense"])
    # As a process of its own, it ends with another handler of Ctrl-C, which later tests must not have.
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as caught:
            main.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 2


NAME = os.fsdecode(b"caf\xe9[/x]:rat:\xc3\xbc")


def _printed(encoding: str, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> str:
    """What a terminal of an encoding gets."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    act()
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", r"caf\xe9[/x]:rat:ü"), ("ascii", r"caf\xe9[/x]:rat:\xfc")]
)
def test_any_name_can_be_printed(encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    table = Table(title=NAME)
    table.add_column("file")
    table.add_row(NAME)
    for act in (lambda: console.print_line(NAME), lambda: console.note(NAME)):
        assert _printed(encoding, monkeypatch, act) == expected + "\n"
    shown = _printed(encoding, monkeypatch, lambda: console.print_renderable(table))
    assert shown.count(expected) == 2
    printed = _printed(encoding, monkeypatch, lambda: console.print_json({NAME: Path(NAME)}))
    assert json.loads(printed) == {r"caf\xe9[/x]:rat:ü": r"caf\xe9[/x]:rat:ü"}


def test_errors_name_files_of_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (DataError(f"{NAME}: bad"), FileNotFoundError(2, "No such file or directory", NAME)):
        monkeypatch.setattr(main, "app", app_raising(error))
        shown = _printed("ascii", monkeypatch, lambda: main.run([]))
        assert shown.startswith(r"error: caf\xe9[/x]:rat:\xfc: ")


def test_after_ctrl_c_any_error_counts_as_its_consequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", app_raising(AttributeError("HDF5 came back in the middle")))
    monkeypatch.setattr(main, "_interrupts", [2])
    assert main.run(["go"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
