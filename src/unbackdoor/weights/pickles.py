"""Pickles read as data: nothing that a pickle names is imported, called or built.

A pickle is a program for a small stack machine (the standard library's `pickletools` explains every instruction). This
one runs the instructions that put plain values together and answers the rest by a table: what the table makes of a
name is used, what it calls harmless becomes an `Inert`, and any other name ends the reading. So a checkpoint costs
what it holds. `torch.load(weights_only=True)` gives more trust: of a file of 300 bytes it takes an order for 6 GB
(`bytearray(6 << 30)`), and keys nested a million deep end its process.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

_MOST_STEPS = 3_500_000  # a model of 10,000 tensors and its optimiser take 1,000,000
_LONGEST_NAME = 200
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # of Python 2
_MARK = object()
UNREADABLE = "a name that is put together while it runs"


class RefusedError(ValueError):
    """The pickle asks for something that is not in the table."""


class Inert:
    """Stands for an object that is of no use here: it takes anything that is put into it, and keeps nothing."""


class Name:
    """Something that the pickle would import."""

    def __init__(self, text: str) -> None:
        self.text = text


class Table:
    """What a reader makes of names and of persistent ids.

    Args:
        calls: name → what it makes of its arguments.
        harmless: whether a name that is in no call may stand in the file.
        persistent: what an id stands for.
        steps: most instructions that are followed.
    """

    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        harmless: Callable[[str], bool],
        persistent: Callable[[Any], Any],
        steps: int = _MOST_STEPS,
    ) -> None:
        self.calls, self.harmless, self.persistent, self.steps = calls, harmless, persistent, steps


def read_pickle(file: IO[bytes], table: Table) -> Any:
    """The value of one pickle; `file` is left behind its last byte.

    Returns:
        numbers, text, lists, tuples, dicts with scalar keys, `Name`, `Inert`, and what the table's calls make.

    Raises:
        RefusedError: it names what is not in the table.
        ValueError: damage, an instruction that no checkpoint has, or too many of them.
    """
    machine = _Machine(table)
    try:
        for number, (code, argument, _) in enumerate(pickletools.genops(file)):
            step = _STEPS.get(code.name)
            if step is None:
                raise ValueError(f"the instruction {code.name}, which no checkpoint has")
            if number > table.steps:
                raise ValueError(f"more than {table.steps:,} instructions")
            step(machine, argument)
        return machine.pop()
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError("a damaged pickle") from None


def imports_in(file: IO[bytes], most: int, steps: int) -> set[str]:
    """What the instructions of a pickle name that `read_pickle` does not follow to its end, read one by one.

    A name that is put together while the pickle runs stands as `UNREADABLE`.

    Args:
        most: names.
        steps: instructions that are looked at.
    """
    names: set[str] = set()
    try:
        for number, (code, argument, _) in enumerate(pickletools.genops(file)):
            if number > steps or len(names) >= most:
                break
            if code.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".")[:_LONGEST_NAME])
            elif code.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                names.add(UNREADABLE)
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError):  # the end of what can be read
        pass
    return names


class _Machine:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a damaged pickle")
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a damaged pickle")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def put(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError("a damaged pickle")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif not isinstance(target, Inert):
            raise ValueError("a damaged pickle")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a damaged pickle")
        text = f"{_RENAMED.get(module, module)}.{name}"
        if len(text) > _LONGEST_NAME or (text not in self.table.calls and not self.table.harmless(text)):
            raise RefusedError(text)
        self.stack.append(Name(text))

    def call(self, arguments: Any) -> None:
        target = self.pop()
        if not isinstance(arguments, tuple) or not isinstance(target, Name | Inert):
            raise ValueError("a damaged pickle")
        make = self.table.calls.get(target.text) if isinstance(target, Name) else None
        self.stack.append(Inert() if make is None else make(*arguments))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {k: v for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k)}


def _is_key(key: Any) -> bool:
    """Others name no tensor; hashing a deep tuple would exhaust the stack, and an endless number is hashed anew."""
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() <= 64)


def _push(m: _Machine, argument: Any) -> None:
    m.stack.append(argument)


def _last(number: int) -> Callable[[_Machine, Any], None]:
    def step(m: _Machine, _: Any) -> None:
        items = tuple(m.pop() for _ in range(number))
        m.stack.append(items[::-1])

    return step


def _reduce(m: _Machine, _: Any) -> None:
    m.call(m.pop())


def _reduce_with_names(m: _Machine, _: Any) -> None:
    m.pop()
    m.call(m.pop())


def _stack_global(m: _Machine, _: Any) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _append(m: _Machine, _: Any) -> None:
    item = m.pop()
    m.extend([item])


def _set_item(m: _Machine, _: Any) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _frozen_set(m: _Machine, _: Any) -> None:
    m.pop_to_mark()
    m.stack.append(Inert())


def _build(m: _Machine, _: Any) -> None:
    # State of the object below: an OrderedDict's `_metadata`, or something inert's.
    m.pop()
    if not isinstance(m.stack[-1], dict | Inert):
        raise ValueError("state for what takes none")


_LITERALS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_LITERALS, _push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, n: m.put(n)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, n: m.stack.append(m.memo[n])),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "MEMOIZE": lambda m, _: m.put(None),
    "MARK": lambda m, _: m.stack.append(_MARK),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append(Inert()),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "DICT": lambda m, _: m.stack.append(_pairs(m.pop_to_mark())),
    "FROZENSET": _frozen_set,
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "POP": lambda m, _: m.stack.__delitem__(-1),
    "POP_MARK": lambda m, _: m.pop_to_mark().clear(),
    "APPEND": _append,
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GLOBAL": lambda m, text: m.name(*text.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _reduce_with_names,
    "BINPERSID": lambda m, _: m.stack.append(m.table.persistent(m.pop())),
    "BUILD": _build,
}
