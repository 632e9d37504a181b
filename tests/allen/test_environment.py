"""The environment for AllenSDK: made once, not without a network, never over something else.

Installing AllenSDK itself takes minutes and PyPI; here a small package made on the spot stands for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mvkit.allen import environment
from mvkit.allen.environment import find_base_python, install_allensdk
from mvkit.errors import FetchError, MissingPackageError
from mvkit.fetch.download import Feedback

pytestmark = [
    pytest.mark.skipif(
        sys.version_info[:2] != environment.PYTHON_VERSION or importlib.util.find_spec("pip") is None,
        reason="needs Python 3.11 with pip",
    ),
    # Said where tests before these have imported distutils, by pip's own modules.
    pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils:UserWarning"),
]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a small package instead of AllenSDK; return the folder for the environment."""
    source = tmp_path / "source"
    source.mkdir()
    metadata = source / "allensdk-2.16.2.dist-info"
    metadata.mkdir()
    # A wheel written by hand: no build tools, no network.
    (source / "allensdk.py").write_text("")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: allensdk\nVersion: 2.16.2\n")
    (metadata / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    (metadata / "RECORD").write_text("")
    wheel = tmp_path / "allensdk-2.16.2-py3-none-any.whl"
    import zipfile

    with zipfile.ZipFile(wheel, "w") as file:
        for path in source.rglob("*"):
            if path.is_file():
                file.write(path, path.relative_to(source).as_posix())
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{wheel} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    monkeypatch.setattr(environment, "LOCKS", (lock,))
    monkeypatch.setattr(environment, "_IMPORT_ALLENSDK", "import allensdk")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "home" / "allensdk"


def test_it_is_made_once(small: Path) -> None:
    messages: list[str] = []
    first = install_allensdk(small, feedback=Feedback(log=messages.append))
    assert (first.status, first.version) == ("installed", "2.16.2")
    assert first.to_json()["python"] == str(small / "bin" / "python")
    assert [message for message in messages if "installing AllenSDK 2.16.2" in message]
    made = (small / "pyvenv.cfg").stat().st_mtime_ns
    assert install_allensdk(small).status == "already there"
    assert (small / "pyvenv.cfg").stat().st_mtime_ns == made
    assert install_allensdk(small, force=True).status == "installed"


def test_an_interrupted_installation_is_begun_again(small: Path) -> None:
    install_allensdk(small)
    (small / environment.STAMP_NAME).unlink()
    (small / "bin" / "python").unlink()
    assert install_allensdk(small).status == "installed"
    assert environment.allensdk_version(small / "bin" / "python") == "2.16.2"


def test_other_constraints_make_it_anew(small: Path) -> None:
    install_allensdk(small)
    stamp = small / environment.STAMP_NAME
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "inputs": "older"}))
    assert install_allensdk(small).status == "installed"


def test_two_at_once_wait_for_each_other(small: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(install_allensdk(small).status)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(found) == ["already there", "installed"]


def test_what_pip_says_is_reported(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (lock,) = environment.LOCKS
    lock.write_text(f"no-such-package-of-mvkit==1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(
        FetchError, match=r"pip could not install AllenSDK: ERROR: .*no-such-package-of-mvkit==1"
    ) as raised:
        install_allensdk(small)
    assert str(raised.value).count("\n") == 1
    assert not environment.is_finished(small)


def test_the_lock_has_the_version_that_is_asked_for() -> None:
    text = "".join(lock.read_text(encoding="utf-8") for lock in environment.LOCKS)
    assert f"\nallensdk=={environment.ALLENSDK_VERSION} " in text


def test_a_file_with_another_digest_is_refused(small: Path) -> None:
    (lock,) = environment.LOCKS
    lock.write_text(lock.read_text()[:-9] + "00000000\n")
    with pytest.raises(FetchError, match=r"ERROR: .*DO NOT MATCH THE HASHES"):
        install_allensdk(small)
    assert not environment.is_finished(small)


def test_an_installation_that_does_not_import_is_none(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_IMPORT_ALLENSDK", "import no_such_module_of_mvkit")
    with pytest.raises(FetchError, match="does not import: ModuleNotFoundError"):
        install_allensdk(small)
    assert not environment.is_finished(small)


@pytest.mark.parametrize("by", ["option", "variable"])
def test_without_a_network_nothing_is_begun(small: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "variable":
        monkeypatch.setenv("MVKIT_OFFLINE", "1")
    with pytest.raises(FetchError, match="the network is forbidden") as raised:
        install_allensdk(small, offline=by == "option")
    assert "--sessions-from DIR" in str(raised.value)
    assert not small.exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FetchError, match="no environment that mvkit made"):
        install_allensdk(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_a_newer_python_looks_for_the_one_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "python3.13"
    newer.write_text("#!/bin/sh\necho 3 13\n")
    newer.chmod(0o755)
    needed = tmp_path / "python3.11"
    needed.write_text("#!/bin/sh\necho 3 11\n")
    needed.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(newer))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_base_python() == needed
    needed.unlink()
    with pytest.raises(MissingPackageError, match=r"needs python3\.11.*\n.*apt-get install python3\.11"):
        find_base_python()


def test_the_command_reports_where_it_is(small: Path) -> None:
    pytest.importorskip("typer", reason="the AllenSDK environment has no command line")
    install_allensdk(small)
    code = (
        "import sys; from mvkit.allen import environment; "
        f"from pathlib import Path; environment.LOCKS = (Path({str(environment.LOCKS[0])!r}),); "
        "from mvkit.cli.main import run; "
        f"sys.exit(run(['fetch', 'allensdk', '--into', {str(small)!r}, '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "already there"
