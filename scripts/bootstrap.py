"""Set up ``.venv`` in the checkout with nothing but Python 3.11 or newer.

Usage: ``python3.11 scripts/bootstrap.py [dev] [ffcv]``. A second run returns at
once when nothing it depends on has changed. Every package is one of ``locks/``,
and pip refuses a file whose digest is not there. On Debian, Python comes without
``ensurepip`` unless python3-venv is installed; pip is then taken from PyPI as a
wheel and checked against the same digests. ``ffcv`` is built from source (see
install_ffcv.py); where that is impossible, the rest is installed and the reason
is said.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import install_ffcv

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "mvkit-installed.json"
LOCKS = ROOT / "locks"
INPUTS = (*sorted(LOCKS.glob("*.txt")), ROOT / "pyproject.toml", ROOT / "scripts/install_ffcv.py")
EXTRAS = ("dev", "ffcv")
PIP_INDEX = "https://pypi.org/simple/pip/"


def main(extras: list[str]) -> int:
    """Create or update the environment; return an exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this script runs before pip can check
        return fail(
            f"mvkit needs Python 3.11 or newer; this is {sys.version.split()[0]}.\n"
            "Install python3.11 (Debian/Ubuntu: apt-get install python3.11 python3.11-venv)."
        )
    if unknown := sorted(set(extras) - set(EXTRAS)):
        return fail(f"{', '.join(unknown)}: no such extra; valid: {', '.join(EXTRAS)}")
    # A second `make` waits here instead of installing into the same folder.
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = {"inputs": digest_of_inputs(), "python": sys.version.split()[0]}
        installed = read_stamp()
        have = set(installed.pop("extras", []))
        lacking = installed.pop("lacking", "")
        if installed == wanted and have >= set(extras):
            if lacking and "ffcv" in extras:
                print(without_ffcv(lacking), file=sys.stderr)
            return 0
        # pip is what the last step of creating an environment leaves behind.
        whole = (VENV / "bin" / "pip").exists() and installed.get("python", wanted["python"]) == wanted[
            "python"
        ]
        if not whole:
            code = create_environment()
            if code:
                return code
        every = sorted(have | set(extras)) if installed == wanted else sorted(extras)
        code = install(every)
        if code:
            return code
        lacking = install_ffcv.install(VENV / "bin" / "python") if "ffcv" in every else ""
        if lacking:
            print(without_ffcv(lacking), file=sys.stderr)
        STAMP.write_text(json.dumps({**wanted, "extras": every, "lacking": lacking}))
    return 0


def install(extras: list[str]) -> int:
    """Install the checkout and what it needs from PyPI, all but FFCV."""
    print("installing mvkit into .venv (torch is large: several minutes the first time)", file=sys.stderr)
    locked = ["run.txt", "dev.txt"] if "dev" in extras else ["run.txt"]
    # Each finds what it needs in the locks, and builds with what the first step has installed.
    options = ["--require-hashes", "--no-deps", "--no-build-isolation"]
    steps = (
        [*options, "--requirement", str(LOCKS / "build.txt")],
        [*options, *(word for name in locked for word in ("--requirement", str(LOCKS / name)))],
        ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
    )
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in steps:
        if subprocess.run([*pip, *step], check=False).returncode:
            return fail("pip could not install mvkit; see its message above and run the same command again.")
    return 0


def without_ffcv(reason: str) -> str:
    """Say what goes without FFCV, and how to try again."""
    return (
        f"note: going on without FFCV: {reason}\n"
        "      Training reads image folders instead (same views, slower). "
        "To try again: .venv/bin/python scripts/install_ffcv.py"
    )


def create_environment() -> int:
    """Make ``.venv`` with pip in it, however this Python was packaged."""
    if importlib.util.find_spec("venv") is None:
        return fail(
            "this Python has no venv module; apt-get install python3-venv, then run the same command."
        )
    with_pip = importlib.util.find_spec("ensurepip") is not None
    options = ["--clear"] if with_pip else ["--clear", "--without-pip"]
    if subprocess.run([sys.executable, "-m", "venv", *options, str(VENV)], check=False).returncode:
        return fail(f"could not create {VENV}")
    return 0 if with_pip else install_pip_from_wheel()


def install_pip_from_wheel() -> int:
    """Fetch pip's wheel from PyPI, check its digest, and let it install itself."""
    version, digests = locked_pip()
    name = f"pip-{version}-py3-none-any.whl"
    try:
        # The index is https, and what any address serves is checked against the lock below.
        with urllib.request.urlopen(PIP_INDEX, timeout=60) as answer:  # nosec B310
            page, links = answer.url, re.findall(r'href="([^"#]+)', answer.read().decode())
        # A mirror of PyPI may give addresses relative to its own page.
        address = next(urllib.parse.urljoin(page, link) for link in links if link.endswith(f"/{name}"))
        with urllib.request.urlopen(address, timeout=120) as answer:  # nosec B310
            content = answer.read()
    except (OSError, ValueError, StopIteration) as error:
        return fail(
            f"this Python has no ensurepip, and {name} could not be fetched from PyPI ({error}).\n"
            "Run: apt-get install python3-venv, then the same command again."
        )
    if hashlib.sha256(content).hexdigest() not in digests:
        return fail(f"{name} from PyPI has another digest than locks/build.txt says.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        command = [str(VENV / "bin" / "python"), f"{path}/pip", "install", "--quiet", "--no-index", str(path)]
        return subprocess.run(command, check=False).returncode


def locked_pip() -> tuple[str, list[str]]:
    """Return the version of pip in the lock, and the digests of its files."""
    text = (LOCKS / "build.txt").read_text()
    entry = re.search(r"^pip==(\S+)((?:[^\n]*\\\n)+[^\n]*)", text, re.M)
    if entry is None:
        raise SystemExit("error: locks/build.txt has no pip; run `make lock`")
    return entry[1], re.findall(r"sha256:([0-9a-f]{64})", entry[2])


def digest_of_inputs() -> str:
    """Hash the files that decide what is installed."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()


def read_stamp() -> dict:
    """Return what the last finished run installed, or nothing."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def fail(message: str) -> int:
    """Say why and what to do."""
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
