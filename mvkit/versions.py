"""Versions of the software that numbers depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

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
