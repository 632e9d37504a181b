"""What stands for classes, functions and the objects they would make, while reading a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names; an inert label.

    Attributes
    ----------
    module, name
        As written in the pickle.
    offset
        Where in the pickle.
    """

    module: str
    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """An object that the pickle would have made by calling something.

    Attributes
    ----------
    maker
        The class or function named.
    arguments
        What it would have been called with.
    state
        What the object would have been filled with; None without any.
    offset
        Where in the pickle.
    """

    __slots__ = ("arguments", "maker", "offset", "state")

    def __init__(self, maker: Name, arguments: tuple[Any, ...], offset: int) -> None:
        self.maker = maker
        self.arguments = arguments
        self.state: Any = None
        self.offset = offset
