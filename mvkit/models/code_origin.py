"""Where code comes from: an installed package, mvkit itself, or a file of the user's own."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

_MVKIT = Path(__file__).resolve().parent.parent
#: The parts of mvkit that features are computed by.
_OWN_PARTS = ("models", "features", "filters")
_PATHS = sysconfig.get_paths()
_INSTALLED_PARTS = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Origin:
    """Where a piece of code comes from.

    Attributes
    ----------
    kind
        Of Python itself, an installed package, mvkit, a file of the user's, or nowhere (a notebook).
    name
        Top-level name of a package.
    file
        The user's file.
    """

    kind: Literal["python", "package", "mvkit", "file", "nowhere"]
    name: str = ""
    file: Path | None = None


def origin_of_globals(namespace: Mapping[str, Any]) -> Origin:
    """Return where a module comes from, given its namespace (``function.__globals__``, ``vars(module)``)."""
    name = str(namespace.get("__name__", ""))
    top = name.partition(".")[0]
    place = namespace.get("__file__")
    if not isinstance(place, str):
        return Origin("python") if top in sys.stdlib_module_names and top != "__main__" else Origin("nowhere")
    file = Path(place).resolve()
    if file.is_relative_to(_MVKIT):
        return Origin("mvkit")
    if any(part in _INSTALLED_PARTS for part in file.parts) or _lies_in(file, "purelib", "platlib"):
        return Origin("package", top)
    if _lies_in(file, "stdlib", "platstdlib"):
        return Origin("python")
    return Origin("file", file=file) if file.is_file() else Origin("nowhere")


def origin_of_class(kind: type) -> Origin:
    """Return where a class comes from."""
    # Not by its module's name first: a user's modules are forgotten once a network is made, and another
    # module may have the same name by now.
    for value in vars(kind).values():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType) and function.__module__ == kind.__module__:
            return origin_of_globals(function.__globals__)
    module = sys.modules.get(kind.__module__)
    if module is None or getattr(module, kind.__qualname__.partition(".")[0], None) is None:
        return Origin("nowhere")
    return origin_of_globals(vars(module))


def package_version(top: str) -> str | None:
    """Return "NAME VERSION" of the distribution that a top-level package belongs to, if that is known."""
    try:
        return f"{top} {version(top)}"
    except PackageNotFoundError:
        pass
    names = sorted(set(_distributions().get(top, ())))
    return " ".join(f"{name} {version(name)}" for name in names) or None


def own_sources() -> str:
    """Return the sha256 (hex) over mvkit's sources that features are computed by."""
    state = hashlib.sha256()
    for part in _OWN_PARTS:
        for path in sorted((_MVKIT / part).rglob("*.py")):
            state.update(path.relative_to(_MVKIT).as_posix().encode() + b"\0")
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def source_digests(file: Path) -> dict[Path, str]:
    """Return the sha256 of a user's source file and of those it imports, directly or not, that are local.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    found: dict[Path, str] = {}
    waiting = [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        content = path.read_bytes()
        found[path] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".py":
            waiting += _imported(path, content)
    return found


def _imported(path: Path, content: bytes) -> Iterator[Path]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        # It was changed since it was imported; what it says now is in the digest.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _local_files(path, alias.name, 0)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                yield from _local_files(path, f"{module}.{alias.name}".lstrip("."), node.level)


def _local_files(importer: Path, dotted: str, level: int) -> Iterator[Path]:
    """Find the user's files that an import may bring in; the last part may be a name inside a module."""
    parts = dotted.split(".")
    if level:
        yield from _along(importer.parents[level - 1], parts)
        return
    # From its own folder, and from the root of the package that it is part of.
    root = importer.parent
    folders = [root]
    while (root / "__init__.py").is_file() and root.parent != root:
        root = root.parent
        folders.append(root)
    for folder in folders:
        yield from _along(folder, parts)
    for count in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:count]))
        if module is not None:
            origin = origin_of_globals(vars(module))
            if origin.file is not None:
                yield origin.file


def _along(folder: Path, parts: list[str]) -> Iterator[Path]:
    place = folder
    for part in parts:
        for file in (place / f"{part}.py", place / part / "__init__.py"):
            if file.is_file():
                origin = origin_of_globals({"__name__": part, "__file__": str(file)})
                if origin.file is not None:
                    yield origin.file
        place /= part
        if not place.is_dir():
            return


def module_namespace(module: ModuleType) -> dict[str, Any]:
    """Return a module's own names, without those that Python gives it."""
    return {name: value for name, value in vars(module).items() if not name.startswith("__")}


def _lies_in(file: Path, *kinds: str) -> bool:
    return any(file.is_relative_to(Path(_PATHS[kind]).resolve()) for kind in kinds)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
