"""The little of Thrift's compact protocol for Parquet's page headers: numbers and structs; the rest is passed over.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEEPEST = 16
Struct = dict[int, "int | Struct"]


class Reader:
    """Reads from bytes that may end too early.

    Attributes:
        at: where the next value begins.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw, self.at = raw, 0

    def struct(self, depth: int = 0) -> Struct:
        """Fields by their ids; those that are neither numbers nor structs are left out.

        Raises:
            EOFError: the bytes end within it.
            ValueError: it is none.
        """
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        found: Struct = {}
        field = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else self._zigzag()
            if kind in (_I16, _I32, _I64):
                found[field] = self._zigzag()
            elif kind == _STRUCT:
                found[field] = self.struct(depth + 1)
            else:
                self._skip(kind, depth, in_list=False)
        return found

    def _skip(self, kind: int, depth: int, *, in_list: bool) -> None:
        if kind in (_TRUE, _FALSE):
            self.at += in_list  # as a field its value is its kind
        elif kind == _BYTE:
            self.at += 1
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            size = self._varint()
            self.at += size
        elif kind == _STRUCT:
            self.struct(depth + 1)
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            for _ in range(count):
                self._skip(head & 15, depth + 1, in_list=True)
                self._check()
        else:
            raise ValueError(f"a value of kind {kind}")
        self._check()

    def _check(self) -> None:
        if self.at > len(self._raw):
            raise EOFError("cut off")

    def _byte(self) -> int:
        self.at += 1
        self._check()
        return self._raw[self.at - 1]

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
