"""Names of models from elsewhere, and what they point to; free of torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvkit.errors import UsageError

Kind = Literal["torchvision", "timm", "module", "file"]

_IDENTIFIER = r"[^\W\d]\w*"
_DOTTED = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_IN_FILE = re.compile(rf"(?P<place>.+\.py):(?P<inside>{_DOTTED})", re.DOTALL)
_IN_MODULE = re.compile(rf"(?P<place>{_DOTTED}):(?P<inside>{_DOTTED})")
_LIBRARY = re.compile(r"(?P<place>torchvision|timm):(?P<inside>.+)", re.DOTALL)
_EXPORTED_SUFFIX = ".pt2"


@dataclass(frozen=True)
class ForeignName:
    """A model that is not one of mvkit's.

    Attributes
    ----------
    kind
        Where it comes from.
    place
        The library, module or file.
    inside
        The model's name there, or the function that makes it.
    """

    kind: Kind
    place: str
    inside: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place).expanduser()

    @property
    def shown(self) -> str:
        """The name that results carry: as given, but of a file without its folder."""
        place = self.path.name if self.kind == "file" else self.place
        return f"{place}:{self.inside}"

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for two names of the same model."""
        place = str(self.path.resolve()) if self.kind == "file" else self.place
        return (self.kind, place, self.inside)


def parse_foreign(name: str | os.PathLike[str]) -> ForeignName | None:
    """Return what a name points to, or None if it is not that of a model from elsewhere.

    ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``, ``path/to/file.py:factory``.

    Raises
    ------
    UsageError
        If it is a Python file without the function that makes the model, or an exported program.
    """
    text = os.fspath(name)
    library = _LIBRARY.fullmatch(text)
    if library:
        return ForeignName("timm" if library["place"] == "timm" else "torchvision", **library.groupdict())
    if text.endswith(".py"):
        raise UsageError(f"{text}: say which function of the file makes the model: {text}:FUNCTION")
    in_file = _IN_FILE.fullmatch(text)
    if in_file:
        return ForeignName("file", **in_file.groupdict())
    if text.endswith(_EXPORTED_SUFFIX):
        raise UsageError(
            f"{text}: mvkit does not open exported programs itself\nname a function of your own that does, "
            "FILE.py:FUNCTION: def FUNCTION(): return torch.export.unflatten(torch.export.load(...))"
        )
    in_module = _IN_MODULE.fullmatch(text)
    return ForeignName("module", **in_module.groupdict()) if in_module else None
