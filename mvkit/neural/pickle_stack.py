"""The working memory of the pickle machine: stack, marks, memo; every access is checked."""

from __future__ import annotations

import struct
from typing import Any

from mvkit.errors import DataError
from mvkit.neural import pickle_names
from mvkit.neural.pickle_source import BufferRef, PickleWalker
from mvkit.neural.pickle_values import Name, Record

#: Bytes of small buffers and texts held in memory, in all.
MOST_SMALL_BYTES = 64 * 1024 * 1024
_LONGEST_INTEGER = 32
_LONGEST_NAME = 255
_BYTES_PER_PAIR = 64


class InertStack:
    """What a pickle's instructions work on, without ever importing or calling anything.

    Parameters
    ----------
    path
        The file, for messages.
    walker
        Where operands are read from.
    """

    def __init__(self, path: str, walker: PickleWalker) -> None:
        self.path = path
        self.walker = walker
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.at = 0
        self.small_bytes = 0

    def flaw(self, what: str) -> DataError:
        return DataError(f"{self.path}: refused at byte {self.at}: {what}")

    # Operands

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.walker.take(struct.calcsize(form)))[0]

    def charge(self, amount: int) -> None:
        self.small_bytes += amount
        if self.small_bytes > MOST_SMALL_BYTES:
            raise self.flaw(f"more than {MOST_SMALL_BYTES:,} bytes of texts and small buffers")

    def small(self, data: bytes | BufferRef) -> bytes | BufferRef:
        if isinstance(data, bytes):
            self.charge(len(data))
        return data

    def data(self, form: str) -> None:
        length = self.number(form)
        if length < 0:
            raise self.flaw("a negative length")
        self.push(self.small(self.walker.buffer(length)))

    def text(self, form: str) -> None:
        value: Any = self.small(self.walker.buffer(self.number(form), is_text=True))
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise self.flaw(f"text that is not UTF-8 ({error.reason})") from error
        self.push(value)

    def integer(self, form: str) -> None:
        length = self.number(form)
        if not 0 <= length <= _LONGEST_INTEGER:
            raise self.flaw(f"an integer of {length} bytes")
        self.push(int.from_bytes(self.walker.take(length), "little", signed=True))

    def line(self) -> str:
        try:
            return self.walker.take_line(_LONGEST_NAME).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.flaw("a name that is not UTF-8") from error

    # Stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.flaw("an instruction that needs a value, and there is none")
        return self.stack.pop()

    def top(self) -> Any:
        self.push(self.pop())
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.flaw("an instruction that needs a mark, and there is none")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def group(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    # Containers

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.flaw("items for something that is not a list")
        target.extend(items)

    def fill(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise self.flaw("keys for something that is not a dictionary")
        self.put_pairs(target, items)

    def put_pairs(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise self.flaw("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, bytes):
                key = key.decode("latin-1")  # Python 2 wrote plain text this way
            # Hashing a tuple walks all it holds, which a harmful file makes endless.
            if not isinstance(key, str | int | float | None):
                raise self.flaw("a dictionary key that is neither text nor a number")
            target[key] = value

    # Names and records

    def name(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.flaw("a class name that is not text")
        if (module, name) not in pickle_names.ALLOWED:
            raise self.flaw(
                f"it names {module[:80]}.{name[:80]}, which no published recording needs; nothing was run"
            )
        return Name(module, name, self.at)

    def record(self, maker: Any, arguments: Any) -> None:
        if not isinstance(maker, Name):
            raise self.flaw("a call of something that is not a class or function")
        if not isinstance(arguments, tuple):
            raise self.flaw("a call whose arguments are not a tuple")
        if pickle_names.is_one_of(maker, pickle_names.MAPPING_MAKER):
            self.push(self.mapping(arguments))
        else:
            self.push(Record(maker, arguments, self.at))

    def mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        if not arguments:
            return made
        pairs = arguments[0]
        if len(arguments) > 1 or not isinstance(pairs, list | tuple):
            raise self.flaw("a mapping made from something that is not a list of pairs")
        # One list may be named many times, and each time costs a copy.
        self.charge(len(pairs) * _BYTES_PER_PAIR)
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self.flaw("a mapping made from something that is not a list of pairs")
            self.put_pairs(made, list(pair))
        return made

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Record):
            raise self.flaw("state for something that is not an object")
        if target.state is not None:
            raise self.flaw("an object that is filled twice")
        target.state = state

    # Memo and structure of the stream

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise self.flaw(f"memo {key}, which was never stored")
        self.push(self.memo[key])

    def protocol(self) -> None:
        version = self.number("B")
        if not 2 <= version <= 5:
            raise self.flaw(f"pickle protocol {version}; 2 to 5 are known")

    def frame(self) -> None:
        self.walker.require(self.number("<Q"))

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def inst(self) -> None:
        maker = self.name(self.line(), self.line())
        self.record(maker, tuple(self.pop_to_mark()))

    def obj(self) -> None:
        items = self.pop_to_mark()
        if not items:
            raise self.flaw("an object without a class")
        self.record(items[0], tuple(items[1:]))

    def make(self) -> None:
        arguments = self.pop()
        self.record(self.pop(), arguments)

    def make_with_keywords(self) -> None:
        keywords = self.pop()
        if keywords:
            raise self.flaw("a call with keyword arguments")
        self.make()

    def named_on_stack(self) -> None:
        name = self.pop()
        self.push(self.name(self.pop(), name))

    def to_dict(self) -> None:
        made: dict[Any, Any] = {}
        self.put_pairs(made, self.pop_to_mark())
        self.push(made)

    def set_one(self) -> None:
        value = self.pop()
        self.fill([self.pop(), value])
