"""Versions of the software that numbers depend on."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mvkit


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of mvkit, Python and some packages; "not installed" where one is missing."""
    found = {"mvkit": mvkit.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def sources_digest(*parts: str) -> str:
    """Return the sha256 (hex) over mvkit's sources in some of its packages, so that edited code counts.

    Parameters
    ----------
    parts
        Packages or files of ``mvkit``, such as "features" or "draws.py".
    """
    root = Path(__file__).parent
    state = hashlib.sha256()
    for part in parts:
        place = root / part
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            state.update(path.relative_to(root).as_posix().encode() + b"\0")
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()
