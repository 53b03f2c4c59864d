"""The little of Thrift's compact protocol that Parquet's footer and page headers are written in.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEEPEST = 16
_MOST_VALUES = 4_000_000
Struct = dict[int, Any]


class Reader:
    """Reads from bytes that may end too early, or lie.

    Attributes:
        at: where the next value begins.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw, self.at, self._budget = raw, 0, _MOST_VALUES

    def struct(self, depth: int = 0) -> Struct:
        """Fields by their ids: whole numbers, bytes, lists and structs; floating-point numbers are left out.

        Raises:
            EOFError: the bytes end within it.
            ValueError: it is none, or holds more values than any sound one.
        """
        fields: Struct = {}
        field = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else self._zigzag()
            # As a field, a truth value is its kind.
            fields[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._budget -= 1
        if depth > _DEEPEST or self._budget < 0:
            raise ValueError("nested too deep, or too long")
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            self._bytes(8)
            return None
        raise ValueError(f"a value of kind {kind}")

    def _bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self._raw):
            raise EOFError("cut off")
        return self._raw[self.at - size : self.at]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number without end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
