"""A pickle machine that runs nothing.

It follows the instructions of a pickle (protocols 2 to 5; Python's
``pickletools`` documents them) but where Python would import a class it
writes down a :class:`Name`, and where Python would call one it writes down a
:class:`Record`. What comes out is plain data to be read by
:mod:`mvkit.neural.pickle_objects`. Any flaw of the file is a
:class:`DataError`; memory use is bounded whatever the file says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvkit.neural.pickle_source import PickleSource, PickleWalker
from mvkit.neural.pickle_stack import InertStack

#: A published recording takes about 2,000 instructions.
MOST_INSTRUCTIONS = 1_000_000

_REFUSED = {
    "P": "a persistent id (PERSID), which only the program that wrote it can resolve",
    "Q": "a persistent id (BINPERSID), which only the program that wrote it can resolve",
    "\x82": "an extension code (EXT1)",
    "\x83": "an extension code (EXT2)",
    "\x84": "an extension code (EXT4)",
    "\x97": "a buffer kept outside the file (NEXT_BUFFER)",
    "\x98": "a buffer kept outside the file (READONLY_BUFFER)",
}


def load_inert(source: PickleSource) -> Any:
    """Follow a pickle's instructions and return the inert form of its one object.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, tuple, list, dict,
        :class:`BufferRef` (a buffer or text above 64 kB), :class:`Name` or
        :class:`Record`.

    Raises
    ------
    DataError
        When the pickle names anything outside the allow-list, is damaged,
        cut short, followed by more bytes, or too large to be a recording.
    """
    with source.opened() as file, source.damage_reported():
        walker = PickleWalker(source, file)
        stack = InertStack(str(source.path), walker)
        result = _follow(stack)
        walker.require_end()
        source.length = walker.position
        return result


def _follow(stack: InertStack) -> Any:
    walker = stack.walker
    for _ in range(MOST_INSTRUCTIONS):
        stack.at = walker.position
        code = walker.take(1)
        if code == b".":
            return stack.pop()
        step = _STEPS.get(code)
        if step is None:
            known = _REFUSED.get(code.decode("latin-1"))
            raise stack.flaw(known or f"instruction {code!r}, which pickle protocols 2 to 5 do not write")
        step(stack)
    raise stack.flaw(f"more than {MOST_INSTRUCTIONS:,} instructions: not a published recording")


_STEPS: dict[bytes, Callable[[InertStack], None]] = {
    b"\x80": InertStack.protocol,
    b"\x95": InertStack.frame,
    # values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": lambda m: m.integer("B"),
    b"\x8b": lambda m: m.integer("<i"),
    b"X": lambda m: m.text("<I"),
    b"\x8c": lambda m: m.text("B"),
    b"\x8d": lambda m: m.text("<Q"),
    b"U": lambda m: m.data("B"),
    b"T": lambda m: m.data("<i"),
    b"B": lambda m: m.data("<I"),
    b"C": lambda m: m.data("B"),
    b"\x8e": lambda m: m.data("<Q"),
    b"\x96": lambda m: m.data("<Q"),
    # stack
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": InertStack.drop,
    b"1": lambda m: m.pop_to_mark().clear(),
    b"2": lambda m: m.push(m.top()),
    # containers; a set is kept as a list
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.group(1),
    b"\x86": lambda m: m.group(2),
    b"\x87": lambda m: m.group(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_to_mark()),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"d": InertStack.to_dict,
    b"s": InertStack.set_one,
    b"u": lambda m: m.fill(m.pop_to_mark()),
    b"\x8f": lambda m: m.push([]),
    b"\x90": lambda m: m.extend(m.pop_to_mark()),
    b"\x91": lambda m: m.push(m.pop_to_mark()),
    # names and records
    b"c": lambda m: m.push(m.name(m.line(), m.line())),
    b"\x93": InertStack.named_on_stack,
    b"i": InertStack.inst,
    b"o": InertStack.obj,
    b"R": InertStack.make,
    b"\x81": InertStack.make,
    b"\x92": InertStack.make_with_keywords,
    b"b": InertStack.build,
    # memo
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("<I")),
}
