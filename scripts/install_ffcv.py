"""Install FFCV, which is built from source, with the smallest set of Debian packages.

Usage: ``.venv/bin/python scripts/install_ffcv.py``; ``scripts/bootstrap.py``
calls it for the extra ``ffcv``. FFCV's build asks pkg-config for all of
OpenCV, but its code uses core and imgproc only. With a pkg-config file and an
``opencv2/opencv.hpp`` that name these two, 169 MB of packages do instead of 352.

Nothing here is fatal: mvkit works without FFCV, on image folders.
Set ``MVKIT_NO_APT=1`` to keep it from installing system packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = "ffcv==1.0.2"
#: FFCV and what it needs beside mvkit's packages, with digests; PyTorch has brought setuptools to build it.
LOCK = ROOT / "locks" / "ffcv.txt"
#: What the build includes and links, and what the wheel of opencv-python loads at run time.
PACKAGES = ("libopencv-imgproc-dev", "libturbojpeg0-dev", "pkg-config", "g++", "libgl1", "libglib2.0-0")
HEADER_ROOTS = (Path("/usr/include/opencv4"), *sorted(Path("/usr/include").glob("*-linux-gnu/opencv4")))
ONLY_CORE_AND_IMGPROC = "#pragma once\n#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n"


def main() -> int:
    """Install FFCV into the environment of the running Python; return an exit code."""
    reason = install(Path(sys.executable))
    if reason:
        say(f"error: FFCV is not installed: {reason}")
    return 1 if reason else 0


def install(python: Path) -> str:
    """Install FFCV for an interpreter; return why not, or an empty string.

    ``python`` is the interpreter of the environment; it may be newer than the one that runs this.
    """
    if works(python):
        return ""
    reason = install_system_packages(python)
    if reason:
        return reason
    # Not inside the checkout: FFCV's setup splits what pkg-config says at blanks.
    with tempfile.TemporaryDirectory(prefix="mvkit-ffcv-") as folder:
        say(f"building {REQUIREMENT} (a minute)")
        search = os.pathsep.join(filter(None, [str(write_shim(Path(folder))), os.getenv("PKG_CONFIG_PATH")]))
        command = [
            str(python),
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--require-hashes", "--no-deps", "--no-build-isolation", "--requirement", str(LOCK)),
        ]
        code = subprocess.run(command, env={**os.environ, "PKG_CONFIG_PATH": search}, check=False).returncode
    if code:
        return "pip could not build it; see its message above"
    return "" if works(python) else "it was built but does not load; run `.venv/bin/python -c 'import ffcv'`"


def works(python: Path) -> bool:
    """Tell whether FFCV loads in that interpreter, with the system libraries it needs."""
    return (
        subprocess.run([str(python), "-c", "import ffcv"], check=False, capture_output=True).returncode == 0
    )


def install_system_packages(python: Path) -> str:
    """Install the Debian packages that are missing; return why that cannot be done, or an empty string."""
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        return "" if has_headers() else f"its build needs OpenCV's and libturbojpeg's headers ({REQUIREMENT})"
    missing = [name for name in (*PACKAGES, *python_headers(python)) if not is_installed(name)]
    if not missing:
        return ""
    wanted = f"apt-get install {' '.join(missing)}"
    if os.getenv("MVKIT_NO_APT", "").strip().lower() not in ("", "0", "false", "no"):
        return f"MVKIT_NO_APT forbids installing system packages; run yourself: {wanted}"
    if os.geteuid() != 0:
        return f"it needs system packages, and only root may install them; run: sudo {wanted}"
    say(f"FFCV needs Debian packages (up to 170 MB); running: {wanted}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    steps = (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing],
    )
    for step in steps:
        # dpkg's own lines would bury what the user asked for; they are shown when something fails.
        done = subprocess.run(step, env=quiet, check=False, capture_output=True, text=True)
        if done.returncode:
            say(f"{done.stdout[-2000:]}{done.stderr[-2000:]}".rstrip())
            return f"'{' '.join(step)}' failed (exit {done.returncode}); with a network, run: {wanted}"
    return ""


def has_headers() -> bool:
    """Tell whether what the build includes is there, on a system without Debian's package manager."""
    return any((root / "opencv2/imgproc.hpp").exists() for root in HEADER_ROOTS)


def python_headers(python: Path) -> list[str]:
    """Return the package with the interpreter's headers, or nothing when they are there."""
    script = "import sys, sysconfig; print(sysconfig.get_path('include'), *sys.version_info[:2])"
    answer = subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True)
    include, major, minor = answer.stdout.rsplit(maxsplit=2)
    return [] if (Path(include) / "Python.h").exists() else [f"python{major}.{minor}-dev"]


def is_installed(package: str) -> bool:
    """Tell whether dpkg knows a package as installed (also under a name that another one provides)."""
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Provides}\n"]
    named = subprocess.run([*command, package], check=False, capture_output=True, text=True)
    if named.returncode == 0 and named.stdout.startswith("installed"):
        return True
    every = subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
    installed = " ".join(line for line in every if line.startswith("installed "))
    provided = set(installed.replace(",", " ").split())
    return package in provided


def write_shim(folder: Path) -> Path:
    """Write the narrow ``opencv4.pc`` and ``opencv2/opencv.hpp``; return the folder for PKG_CONFIG_PATH."""
    header = folder / "include" / "opencv2" / "opencv.hpp"
    header.parent.mkdir(parents=True)
    header.write_text(ONLY_CORE_AND_IMGPROC)
    # This folder comes first, so that its opencv.hpp hides the system's, which includes every module.
    includes = " ".join(f"-I{root}" for root in (folder / "include", *filter(Path.is_dir, HEADER_ROOTS)))
    (folder / "opencv4.pc").write_text(
        "Name: opencv4\nDescription: core and imgproc, all that FFCV uses\nVersion: 4\n"
        "Libs: -lopencv_imgproc -lopencv_core\n"
        f"Cflags: {includes}\n"
    )
    return folder


def say(text: str) -> None:
    """Tell the person watching what happens to their system."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
