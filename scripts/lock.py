"""Write the locks: every package that CI and ``make`` install, with the digests of its files.

Usage: ``.venv/bin/python scripts/lock.py [--upgrade | --check]``; ``make lock`` calls it. Versions stay as
they are unless pyproject.toml asks for others; ``--upgrade`` takes the newest. ``--check`` needs no network:
it says which lock was made of other requirements than pyproject.toml has now.

``constraints.txt`` has the versions of everything, without digests, for ``pip install -c constraints.txt .``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
ALLEN, ALLEN_BUILD = (ROOT / "mvkit" / "allen" / f"{name}.txt" for name in ("allen-lock", "allen-build-lock"))
VERSIONS = ROOT / "constraints.txt"

#: What is resolved for: CI's system and Pythons. The digests are those of the files for every system.
SYSTEM = "implementation_name == 'cpython' and platform_machine == 'x86_64' and sys_platform == 'linux'"
PYTHON_MARKER = re.compile(r"python_full_version [<>=]+ '[\d.]+'")
#: FFCV tells what it needs only where its build has found OpenCV.
FFCV_METADATA = """
[[tool.uv.dependency-metadata]]
name = "ffcv"
version = "1.0.2"
requires-dist = [
  "assertpy", "fastargs", "numba", "opencv-python", "psutil", "pytorch_pfn_extras", "terminaltables", "tqdm"
]
"""


@dataclass(frozen=True)
class Lock:
    """A file with digests: what it is for, where, and what is asked for.

    ``base`` is another lock that is installed before it, whose packages it leaves out. ``is_lowest`` takes
    the lowest versions that pyproject.toml allows. ``without`` are packages that it leaves out although
    others ask for them.
    """

    path: Path
    requirements: tuple[str, ...]
    about: str
    base: Path | None = None
    is_allen: bool = False
    is_lowest: bool = False
    is_brainscore: bool = False
    without: tuple[str, ...] = ()

    @property
    def is_apart(self) -> bool:
        """Whether it is for Python 3.11 only and its versions are not those of CI."""
        return self.is_allen or self.is_lowest or self.is_brainscore

    @property
    def digest(self) -> str:
        """Digest of what is asked for."""
        asked = [sorted(self.requirements), SYSTEM, *self.without]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def locks() -> list[Lock]:
    """Return every lock, in the order in which they are made."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run, extras = document["project"]["dependencies"], document["project"]["optional-dependencies"]
    groups = document["dependency-groups"]
    allen = (*extras["allen"], "wheel")
    allen_build = tuple(one for one in allen if one.startswith(("setuptools", "wheel")))
    optional = (one for extra in ("dask", "tensorboard", "timm") for one in extras[extra])
    lowest = (*run, *optional, *groups["floors-tests"])
    tests = (*allen, *groups["allen-tests"])
    brainscore = (*run, *extras["brainscore"], *groups["brainscore-benchmark"])
    unused = ("jupyter", "torch", "torchvision")  # 5 GB, of which its scores use nothing
    return [
        Lock(LOCKS / "build.txt", tuple(groups["build"]), "what packages are built and installed with"),
        Lock(LOCKS / "run.txt", tuple(run), "what mvkit needs to run"),
        Lock(LOCKS / "ffcv.txt", (*run, *extras["ffcv"]), "FFCV, beside run.txt", LOCKS / "run.txt"),
        Lock(LOCKS / "dev.txt", (*run, *extras["dev"]), "tests, checks: beside run.txt", LOCKS / "run.txt"),
        Lock(LOCKS / "floors.txt", lowest, "the lowest versions, on Python 3.11", is_lowest=True),
        Lock(
            LOCKS / "brainscore.txt",
            brainscore,
            "Brain-Score, for `make bench`, on Python 3.11",
            is_brainscore=True,
            without=unused,
        ),
        Lock(ALLEN, allen, "AllenSDK, on Python 3.11", is_allen=True),
        Lock(ALLEN_BUILD, allen_build, "what AllenSDK is built with", is_allen=True),
        Lock(LOCKS / "allen-tests.txt", tests, "what tests need beside AllenSDK", ALLEN, is_allen=True),
    ]


def main(arguments: list[str]) -> int:
    """Write or check the locks; return an exit code."""
    if arguments == ["--check"]:
        faults = check()
        print("\n".join(faults) or "the locks agree with pyproject.toml")
        return 1 if faults else 0
    if arguments not in ([], ["--upgrade"]):
        print(__doc__, file=sys.stderr)
        return 2
    every = locks()
    current = [lock for lock in every if not lock.is_apart]
    asked = sorted({one for lock in current for one in lock.requirements})
    versions = resolve(asked, VERSIONS, "3.14", *arguments)
    header = "# Versions that CI tests. `make lock` writes them; pyproject.toml has the ranges.\n"
    VERSIONS.write_text(header + versions, encoding="utf-8")
    for lock in every:
        lock.path.parent.mkdir(exist_ok=True)
        versions_of = ALLEN if lock.is_allen else VERSIONS
        same = ["--constraint", str(versions_of)] if versions_of != lock.path else []
        if lock.is_lowest:
            same = ["--resolution", "lowest-direct"]
        elif lock.is_brainscore:
            same = []
        before = "3.12" if lock.is_apart else "3.14"
        options = ["--generate-hashes", *same, *arguments]
        text = resolve(lock.requirements, lock.path, before, *options, without=lock.without)
        have = pinned(lock.base.read_text(encoding="utf-8")) if lock.base else {}
        entries = [entry for name, entry in pinned(text).items() if name not in have]
        header = f"# {lock.about[0].upper()}{lock.about[1:]}. `make lock` writes it; made of {lock.digest}.\n"
        lock.path.write_text(header + "".join(entries), encoding="utf-8")
        print(f"{lock.path.relative_to(ROOT)}: {len(entries)} packages")
    return 0


def resolve(
    requirements: Iterable[str], path: Path, before: str, *options: str, without: Iterable[str] = ()
) -> str:
    """Let uv choose versions, those in ``path`` if it can, for Pythons from 3.11 to one ``before``."""
    with tempfile.TemporaryDirectory() as folder:
        # uv reads these settings from the current folder, and the versions from the file that it writes.
        python = f"python_full_version < '{before}'"
        settings = f"[tool.uv]\nenvironments = [{json.dumps(f'{python} and {SYSTEM}')}]\n{FFCV_METADATA}"
        (Path(folder) / "pyproject.toml").write_text(settings, encoding="utf-8")
        # A package that an override asks for on no system is left out.
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text(
            "".join(f"{one} ; sys_platform == 'none'\n" for one in without), encoding="utf-8"
        )
        output = Path(folder) / "lock.txt"
        if path.exists():
            shutil.copy(path, output)
        command = [
            *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal"),
            *(
                "--fork-strategy",
                "fewest",
                "--python-version",
                "3.11",
                "--default-index",
                "https://pypi.org/simple",
            ),
            *("--no-annotate", "--no-header", "--override", str(overrides)),
            *("--output-file", str(output), *options, "-"),
        ]
        subprocess.run(command, input="\n".join(requirements), text=True, check=True, cwd=folder)
        # What holds for the whole file is not repeated in every line: only Python's version differs.
        return re.sub(
            r" ; ([^\\\n]*?)(?= \\|\n)",
            lambda found: "" if python in found[1] else f" ; {' and '.join(PYTHON_MARKER.findall(found[1]))}",
            output.read_text(encoding="utf-8"),
        )


def pinned(text: str) -> dict[str, str]:
    """Return a lock's entries by name and version: the lines of each, digests included."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    entries = re.split(r"\n(?=\S)", lines)
    return {re.split(r"[ ;\\]", entry)[0]: f"{entry}\n" for entry in entries if entry}


def check() -> list[str]:
    """Return a line for every lock that does not hold what it should."""
    faults = []
    versions = pinned(VERSIONS.read_text(encoding="utf-8"))
    for lock in locks():
        name = lock.path.relative_to(ROOT)
        text = lock.path.read_text(encoding="utf-8") if lock.path.exists() else ""
        if f"made of {lock.digest}." not in text:
            faults.append(f"{name}: made of other requirements than pyproject.toml has; run `make lock`")
            continue
        packages = pinned(text)
        bare = [one for one, entry in packages.items() if "==" not in one or "--hash=sha256:" not in entry]
        other = [] if lock.is_apart else [one for one in packages if one not in versions]
        faults += [f"{name}: {one}: no version or no digest" for one in bare]
        faults += [f"{name}: {one}: constraints.txt has another version; run `make lock`" for one in other]
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
