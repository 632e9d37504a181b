"""Home, and paths that begin with ~, on machines that have no home directory."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from mvkit.errors import UsageError
from mvkit.paths import expand, home_dir, locate_dataset


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A user whom the system does not know, without HOME."""

    def unknown(user: object) -> Any:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "MVKIT_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("home", [None, "", "relative", "~"])
def test_without_a_home_directory(nameless: pytest.MonkeyPatch, home: str | None) -> None:
    if home is not None:
        nameless.setenv("HOME", home)
    with pytest.raises(UsageError) as caught:
        home_dir()
    assert "no home directory is known" in str(caught.value)
    assert "--home DIR, or set MVKIT_HOME" in str(caught.value)
    with pytest.raises(UsageError, match=r"~/x: no such file or folder \(no home directory is known"):
        expand("~/x")
    assert home_dir(Path("/h")) == Path("/h")
    nameless.setenv("XDG_DATA_HOME", "/data")
    assert home_dir() == Path("/data/mvkit")
    nameless.setenv("MVKIT_HOME", "/m")
    assert home_dir() == Path("/m")


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_variable_of_no_use(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MVKIT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", home)
    known = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert expand("~/x") == known / "x"
    assert home_dir().is_relative_to(known)
    monkeypatch.setenv("HOME", "/me")
    assert home_dir().is_relative_to("/me")


def test_paths_that_a_shell_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.chdir(tmp_path)
    given = ["a/~/b", "/x", "~", "~/a b", "~root/x", ""]
    root = pwd.getpwnam("root").pw_dir
    assert [str(expand(path)) for path in given] == ["a/~/b", "/x", "/me", "/me/a b", f"{root}/x", "."]
    with pytest.raises(UsageError) as caught:
        expand("~nosuch/x.h5")
    assert str(caught.value) == (
        "~nosuch/x.h5: no such file or folder (there is no user 'nosuch')\n"
        f"if its name does begin with ~: {tmp_path}/~nosuch/x.h5"
    )
    # Editors and offices leave such files.
    (tmp_path / "~nosuch.h5").touch()
    assert expand("~nosuch.h5") == Path("~nosuch.h5")


def test_every_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.h5").touch()
    assert locate_dataset("~/a.h5") == tmp_path / "a.h5"
    monkeypatch.setenv("MVKIT_HOME", "~/h")
    assert home_dir() == tmp_path / "h"
    assert home_dir(Path("~/k")) == tmp_path / "k"
    monkeypatch.setenv("MVKIT_HOME", "~nosuch/h")
    with pytest.raises(UsageError, match="~nosuch/h: no such file or folder"):
        home_dir()
