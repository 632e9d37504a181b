"""Build the wheel, install it from wheels alone into a fresh environment, and use it outside the checkout.

Usage: ``python scripts/check_wheel.py [FOLDER]``, with any Python that mvkit supports. Nothing may need a
compiler: packages come as wheels only, and CC and CXX name a program that fails. FOLDER (default: a temporary
one) keeps wheel and environment. Needs PyPI, and about 6 GB of disk for PyTorch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What a user runs first, and what must stand in its output.
COMMANDS = {
    "--version": "mvkit ",
    "--help": "score",
    "list recipes": "dual_stream_ir",
    "list models": "alexnet_bn_ir",
    "cite alexnet_bn_ir neuropixels": "@article{nayebi2023mouse",
    "score gabor pixels --dataset simulated --areas VISp --splits 1 --halves 2": "VISp",
}


def main(arguments: list[str]) -> int:
    """Build, install and run; return an exit code."""
    if len(arguments) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        folder = Path(arguments[0]).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return check(folder)
    with tempfile.TemporaryDirectory(prefix="mvkit-wheel-") as temporary:
        return check(Path(temporary))


def check(folder: Path) -> int:
    """Check the wheel in a folder; return 0 if all went well."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MVKIT"))
    }
    environment |= {"CC": "false", "CXX": "false", "MVKIT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    wheel = build(folder / "dist", environment)
    check_contents(wheel)
    print(f"installing {wheel.name} from wheels alone (torch is large: several minutes)", flush=True)
    venv.create(folder / "venv", with_pip=True, clear=True)
    bin_folder = folder / "venv" / "bin"
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")]
    run([*pip, *constraints, str(wheel)], folder, environment)
    for words, expected in COMMANDS.items():
        printed = run([str(bin_folder / "mvkit"), *words.split()], folder, environment)
        if expected not in printed:
            raise SystemExit(f"mvkit {words}: '{expected}' is not in what it prints:\n{printed}")
        print(f"ok: mvkit {words}", flush=True)
    where = run(
        [str(bin_folder / "python"), "-c", "import mvkit; print(mvkit.__file__)"], folder, environment
    )
    if not Path(where.strip()).is_relative_to(folder):
        raise SystemExit(f"mvkit was imported from {where.strip()}, not from the wheel")
    print(json.dumps({"wheel": wheel.name, "bytes": wheel.stat().st_size, "python": sys.version.split()[0]}))
    return 0


def build(folder: Path, environment: dict[str, str]) -> Path:
    """Build the wheel, which must be one for every system."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    run([*command, str(ROOT)], ROOT, environment)
    (wheel,) = folder.glob("mvkit_neuro-*.whl")
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit(f"{wheel.name}: not for every system")
    return wheel


def check_contents(wheel: Path) -> None:
    """Check that recipes and other files that are no modules are in the wheel, and tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {f"mvkit/packaged_recipes/{path.relative_to(ROOT / 'recipes')}" for path in _files("recipes")}
    wanted |= {str(path.relative_to(ROOT)) for path in _files("mvkit")}
    if missing := sorted(wanted - names):
        raise SystemExit(f"{wheel.name}: not in the wheel: {', '.join(missing)}")
    if extra := sorted(name for name in names if name.startswith(("tests/", "benchmarks/", "scripts/"))):
        raise SystemExit(f"{wheel.name}: should not be in the wheel: {', '.join(extra)}")


def _files(folder: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command and return its output; end the script if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
