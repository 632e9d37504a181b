"""Rules of the repository: ranks of packages, recipes, versions, and clean sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mvkit"

#: Packages (and modules beside them) in the order in which data flows: each imports from earlier ones only.
PACKAGES = (
    *(
        "errors",
        "files",
        "paths",
        "display",
        "machine",
        "jit",
        "rng",
        "recipes",
        "cache",
        "gabor",
        "pickle_reader",
    ),
    *("neural", "images", "models", "features", "distributed", "objectives", "training", "scoring"),
    *("fetch", "allen", "report", "pipeline", "brainscore", "cli", "__main__"),
)
RANK = {name: rank for rank, name in enumerate(PACKAGES)}

#: What a package must never import, whatever its rank.
FORBIDDEN = {
    "neural": {"torch", "torchvision", "mvkit.models"},
    "images": {"mvkit.distributed"},
    "models": {"mvkit.neural", "mvkit.images"},
    "objectives": {"mvkit.neural"},
    "training": {"mvkit.neural"},
    "scoring": {"torch", "torchvision", "mvkit.models", "mvkit.features"},
    "report": {"torch", "mvkit.models", "mvkit.features"},
    "recipes": {"torch"},
    "fetch": {"torch", "h5py", "numpy"},
    "cache": {"torch", "h5py", "mvkit.recipes"},
}

#: Files that are exempt: fits on a GPU, imported where they are made and nowhere else.
NEED_TORCH = {PACKAGE / "scoring" / "pls_torch.py"}

#: Libraries that make `mvkit --help` slow; the command line imports them inside commands.
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "h5py",
    "h5netcdf",
    "xarray",
    "scipy",
    "sklearn",
    "numba",
    "joblib",
    "ffcv",
    "pydantic",
}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    """Name of the package, or of the module beside packages, that a source file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(tree: ast.AST) -> set[str]:
    """Absolute names that a module imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def parse(path: Path) -> ast.Module:
    """Syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_from_earlier_ones_only(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":
        return
    assert package in RANK, f"{path}: '{package}' is not listed in PACKAGES"
    for name in imports_of(parse(path)):
        parts = name.split(".")
        if parts[0] == "mvkit" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[package], f"{path}: {package} imports the later {parts[1]}"
        for forbidden in FORBIDDEN.get(package, set()) - ({"torch"} if path in NEED_TORCH else set()):
            assert name != forbidden and not name.startswith(forbidden + "."), (
                f"{path}: {package} imports {name}"
            )


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_imports_nothing_heavy_at_module_level(path: Path) -> None:
    tree = parse(path)
    for node in tree.body:
        names = imports_of(node)
        assert not {name.split(".")[0] for name in names} & HEAVY, f"{path}:{node.lineno}"


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from mvkit.cli.main import run; run(['--help']); "
        f"heavy = {sorted(HEAVY)!r}; print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("fetch", "prep", "train", "extract", "score"):
        assert command in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_files_are_clean(path: Path) -> None:
    assert path.name not in ("utils.py", "helpers.py", "misc.py")
    for node in ast.walk(parse(path)):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}: validate with an error, not assert"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: print in the library"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_have_docstrings(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), f"{path}: no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name} has no docstring"


def test_no_absolute_paths_in_tracked_text() -> None:
    for path in [*SOURCES, *(ROOT / "recipes").rglob("*.yaml"), ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"[\"' ](/home/|/work/|/data/|/mnt/|/Users/)", text), path


#: An installation by name: `mvkit` is another project on PyPI, and mvkit-neuro is not there yet.
WRONG_INSTALLATION = re.compile(
    r"(pip3?|pipx|uv|uv tool|uv pip)\s+(install|add)\b[^\n`;]*\s[\"']?mvkit(?![\w./])", re.I
)


def test_no_text_names_an_installation_of_another_project() -> None:
    wrong = (
        "pip install mvkit",
        'pip install "mvkit[dask]"',
        "uv pip install -U mvkit-neuro",
        "pip3 install mvkit;",
    )
    right = (
        "pip install dask",
        "pip install '.[dask]'",
        "pip install ./mvkit",
        "pip install dist/mvkit_neuro.whl",
    )
    assert all(WRONG_INSTALLATION.search(text) for text in wrong)
    assert not any(WRONG_INSTALLATION.search(text) for text in right)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    suffixes = {
        ".py",
        ".md",
        ".yaml",
        ".yml",
        ".toml",
        ".cff",
        ".ipynb",
        ".sh",
        ".txt",
        ".sbatch",
        ".html",
        "",
    }
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in suffixes and path.is_file() and path != Path(__file__):
            found = WRONG_INSTALLATION.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{name}: {found[0]}"


def test_every_recipe_loads() -> None:
    from mvkit.pipeline.request import ScoreRecipe
    from mvkit.recipes import load_recipe, packaged_recipes

    recipes = {name: path for name, path in packaged_recipes().items() if name.startswith("score/")}
    assert "score/paper" in recipes
    for name in recipes:
        load_recipe(ScoreRecipe, name)
    assert load_recipe(ScoreRecipe, "score/paper") == ScoreRecipe(), "the defaults are the paper's protocol"


def test_changelog_names_the_version() -> None:
    import mvkit

    assert f"## {mvkit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_cover_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=\[ ]", item)[0].lower() for item in wanted}
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert names <= pinned, f"not pinned in constraints.txt: {sorted(names - pinned)}"


def test_locks_are_of_this_pyproject() -> None:
    # Tells which requirements changed without `make lock`, and packages without version or digest.
    command = [sys.executable, str(ROOT / "scripts" / "lock.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "the locks agree with pyproject.toml\n", done.stdout + done.stderr


def test_pip_is_told_to_check_digests_wherever_a_lock_is_installed() -> None:
    for name in ("scripts/bootstrap.py", "scripts/install_ffcv.py", "mvkit/allen/environment.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert '"--require-hashes", "--no-deps", "--no-build-isolation"' in text, name


def test_actions_of_the_workflow_are_commits() -> None:
    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", workflow)
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action), f"{action}: a tag can be moved"


def test_what_outsiders_use_agrees() -> None:
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    prefix = "Programming Language :: Python :: "
    assert [one.removeprefix(prefix) for one in project["classifiers"] if one.startswith(prefix)] == tested
    assert project["requires-python"] == f">={tested[0]}"
    systems = [one for one in project["classifiers"] if one.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"], "only what is tested"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert f"\nruff=={hooks['repos'][0]['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
    for path in sorted((ROOT / ".github").rglob("*.yml")):
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_commands_of_the_pages_for_contributors_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    for name in ("CONTRIBUTING.md", "README.md", ".github/pull_request_template.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M))
        assert named <= targets, f"{name}: {named - targets}"
    assert set(re.findall(r"run: make ([a-z-]+)", workflow)) <= targets
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:mvkit|tests|recipes|scripts)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?<![\w/-])(tests/[\w./]+\.py)", text):
        assert (ROOT / path).is_file(), path


#: Functions of os that macOS lacks.
LINUX_ONLY = re.compile(
    r"\bos\.(sched_getaffinity|posix_fallocate|posix_fadvise|memfd_create|copy_file_range|splice|eventfd|setns"
    r"|unshare|getxattr|setxattr|sched_setaffinity|pidfd_open|fdatasync)\b"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_macos_lacks_is_asked_for_before_it_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in LINUX_ONLY.findall(text):
        assert f'hasattr(os, "{name}")' in text, f"{path}: os.{name}"


def test_one_module_imports_allensdk() -> None:
    importing = [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if any(name.split(".")[0] == "allensdk" for name in imports_of(parse(path)))
    ]
    assert importing == ["allen/sdk.py"]
