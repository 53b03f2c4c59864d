"""What `torch.save` writes, read without torch's own unpickler: names, types and shapes first, then the bytes.

The file's pickle is read as data (`weights.pickles`), the archive around it strictly (`weights.zips`). A tensor is
then a place in the file, and no memory is taken before its size has been compared with the bytes that are there. Both
forms are read: the zip archive, which torch writes since 1.6, and the row of pickles before it. Of the formats' own
description see `torch/serialization.py` and `torch/_utils.py`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.weights.pickles import Inert, Name, RefusedError, Table, imports_in, read_pickle
from unbackdoor.weights.zips import Member, is_zip, read_members

LARGEST_PICKLE = 64 << 20  # bytes; 10,000 tensors and their optimiser take 10 MB
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how the older form begins
_MOST_TIMES = 4  # tensors may share bytes, as tied weights do: so many times the file in all
_SPARE = 1 << 20  # bytes; small tensors may be spread (`expand`)
_MOST_DIMENSIONS = 32
_MOST_NAMES, _MOST_PICKLES, _MOST_STEPS = 1000, 5, 500_000  # of a look at what a file asks for
_TYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
        "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
    )
    if hasattr(torch, name)
}  # fmt: skip
PLAIN_TYPES = frozenset(_TYPES.values())
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64,
    "QUInt8Storage": torch.quint8, "QInt8Storage": torch.qint8, "QInt32Storage": torch.qint32,
    "UntypedStorage": None,
}  # fmt: skip
_STORAGE = re.compile(r"torch\.(cuda\.|storage\.)?(\w*Storage)")
# Where training code keeps settings and counters; nothing of it is looked at.
_HARMLESS = re.compile(
    r"builtins\.(set|frozenset|bytearray|bytes|complex|list|tuple|object|int|float|str|bool|slice|range)"
    r"|collections\.(Counter|deque|abc\.\w+)|argparse\.Namespace|types\.SimpleNamespace|_codecs\.encode"
    r"|copyreg\._reconstructor|datetime\.(datetime|date|timedelta|timezone)|decimal\.Decimal|fractions\.Fraction"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path|typing\.(Any|Union|Optional|List|Dict)|uuid\.UUID"
    r"|numpy\.(_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)|dtype|ndarray|dtypes\.\w+"
    r"|(bool_|float|int|uint)\d*)"
    r"|omegaconf\.[\w.]+|easydict\.EasyDict|(\w+\.)*AttributeDict"
    r"|torch\.(Size|device|Tensor|torch_version\.TorchVersion|serialization\._get_layout|random\.\w+|Generator)"
    r"|torch\.(quint8|qint8|qint32|per_(tensor|channel)_\w+|strided|sparse_\w+|preserve_format|contiguous_format)"
    r"|torch\.(complex\d*|u?int\d+|float\d\w*|bfloat16|bool|half|double|long)"
    r"|torch\.nn\.(parameter\.)?(Parameter|Buffer)"
)
# Tensors that are no plain numbers in memory: an error only if somebody asks for one of them.
_ODD = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "without numbers (meta)",
    "torch._utils._rebuild_wrapper_subclass": "of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device",
}


class NeedsCodeError(ValueError):
    """The file is more than plain tensors, or is no torch file: to open it would be to run it."""


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype | None  # None: it counts bytes
    elements: int

    @property
    def bytes(self) -> int:
        return self.elements * (1 if self.dtype is None else self.dtype.itemsize)


@dataclass(frozen=True)
class Placed:
    """A tensor that lies in the file: `storage` names its bytes, `offset` and `stride` count elements."""

    storage: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its elements, written out one by one."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """First byte of its storage that it does not reach."""
        if not all(self.shape):
            return 0
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


@dataclass(frozen=True)
class Odd:
    """A tensor that is no plain numbers in memory; `kind` ends the sentence "it is …"."""

    kind: str


@dataclass
class TorchFile:
    """An opened file.

    Args:
        content: what was saved, with `Placed` and `Odd` for its tensors.
        places: storage → first byte and size in the file.
    """

    path: Path
    content: Any
    places: dict[str, tuple[int, int]]

    def tensors(self, entries: Mapping[str, Placed | Odd]) -> dict[str, Tensor]:
        """Read tensors; those that share bytes in the file share them in memory.

        Raises:
            InputError: a tensor that is none in the file, or that is larger than what the file holds.
        """
        placed = self.checked(entries)
        storages: dict[str, Any] = {}
        with self.path.open("rb") as file:
            for key in dict.fromkeys(t.storage for t in placed.values()):
                storages[key] = self._storage(file, *self.places[key])
        return {
            name: torch.empty(0, dtype=t.dtype).set_(storages[t.storage], t.offset, t.shape, t.stride)
            if all(t.shape)
            else torch.empty(t.shape, dtype=t.dtype)
            for name, t in placed.items()
        }

    def checked(self, entries: Mapping[str, Placed | Odd]) -> dict[str, Placed]:
        """The same tensors, each of them plain and with its bytes in the file, and not many times the file in all.

        Raises:
            InputError: they are not.
        """
        placed = {name: self._checked(name, t) for name, t in entries.items()}
        total, there = sum(t.bytes for t in placed.values()), self.path.stat().st_size
        if total > _MOST_TIMES * there + _SPARE:
            raise InputError(
                f"{self.path}: its tensors would take {total:,} bytes, and the file has {there:,}; it is damaged or "
                "hostile"
            )
        return placed

    def _checked(self, name: str, tensor: Placed | Odd) -> Placed:
        if isinstance(tensor, Odd):
            raise InputError(f"{self.path}: tensor {name} is {tensor.kind}; save it as a plain one")
        if tensor.storage not in self.places:
            raise InputError(f"{self.path}: the bytes of tensor {name} are missing; fetch the file again")
        if tensor.end > self.places[tensor.storage][1]:
            raise InputError(f"{self.path}: tensor {name} reaches beyond its bytes; the file is damaged or hostile")
        return tensor

    def _storage(self, file: IO[bytes], start: int, size: int) -> torch.UntypedStorage:
        buffer = torch.empty(size, dtype=torch.uint8)
        file.seek(start)
        if size and file.readinto(buffer.numpy()) != size:  # type: ignore[attr-defined]
            raise InputError(f"{self.path}: ends before its tensors do; it changed while it was read")
        return buffer.untyped_storage()


def open_torch(path: Path) -> TorchFile:
    """What a file holds, and where; no tensor is read.

    Raises:
        NeedsCodeError: to open it would be to run it, or it is no torch file; the reason is the text.
        InputError: an archive that says more than one thing, or stands for more bytes than it has.
        OSError: it cannot be read.
    """
    return _open_zip(path) if is_zip(path) else _open_legacy(path)


def check_archive(path: Path) -> dict[str, Member]:
    """The members of a zip archive that torch may open: tensors and pickles as they are, nothing that swells.

    Raises:
        InputError: not a sound archive, compressed tensors, more than 64 MB of other compressed members.
    """
    members = read_members(path)
    packed = {name: m for name, m in members.items() if m.compressed}
    if any(not re.search(r"/(code|extra)/", name) for name in packed):  # a program's text is compressed
        raise InputError(f"{path}: holds compressed members, which torch never writes; save it again with torch.save")
    if sum(m.whole for m in packed.values()) > LARGEST_PICKLE:
        raise InputError(f"{path}: its members claim more bytes than it has; fetch it again")
    return members


def names_in(path: Path) -> list[str]:
    """What the file's pickles would import if they were run, sorted, at most 1,000; nothing of it is imported.

    Raises:
        InputError: as `check_archive`.
    """
    if is_zip(path):
        pickled = next((m for name, m in check_archive(path).items() if name.endswith("/data.pkl")), None)
    else:
        pickled = Member(0, LARGEST_PICKLE, LARGEST_PICKLE, False)
    with path.open("rb") as file:
        stream = io.BytesIO(_member(file, pickled))
    names: set[str] = set()

    def note(name: str) -> bool:
        names.add(name)
        return len(names) < _MOST_NAMES

    table = Table({}, note, lambda _: Inert(), _MOST_STEPS)
    begin = 0
    try:
        for _ in range(_MOST_PICKLES):
            begin = stream.tell()
            read_pickle(stream, table)
    except ValueError:  # the end, or damage: what came before it counts, and what could still be reached behind it
        stream.seek(begin)
        names.update(imports_in(stream, _MOST_NAMES, _MOST_STEPS))
    return sorted(names)[:_MOST_NAMES]


def is_program(path: Path) -> bool:
    """Whether it is a TorchScript archive."""
    return is_zip(path) and any(name.endswith("/constants.pkl") for name in check_archive(path))


def _open_zip(path: Path) -> TorchFile:
    members = check_archive(path)
    if any(name.endswith("/constants.pkl") for name in members):
        raise NeedsCodeError("it is a TorchScript archive, which is a program")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1 or members[pickles[0]].size > LARGEST_PICKLE:
        raise NeedsCodeError("an archive without the one pickle that torch writes")
    root = pickles[0].removesuffix("data.pkl")
    with path.open("rb") as file:
        if _member(file, members.get(f"{root}byteorder")) not in (b"", b"little"):
            raise InputError(f"{path}: was written on a big-endian machine; save it again on another")
        pickled = _member(file, members[pickles[0]])
    storages: dict[str, _Storage] = {}
    content = _unpickled(io.BytesIO(pickled), lambda pid: _noted(storages, _persistent(pid)))
    places = {key: (m.start, m.size) for key in storages if (m := members.get(f"{root}data/{key}")) is not None}
    for key, (_, size) in places.items():
        if size != storages[key].bytes:
            raise InputError(f"{path}: claims {storages[key].bytes:,} bytes for what has {size:,}; fetch it again")
    return TorchFile(path, content, places)


def _member(file: IO[bytes], member: Member | None) -> bytes:
    if member is None:
        return b""
    file.seek(member.start)
    return file.read(min(member.size, LARGEST_PICKLE))


def _open_legacy(path: Path) -> TorchFile:
    """Magic number, version, the machine, what was saved, keys of storages, each a pickle; then the storages."""
    with path.open("rb") as file:
        begin = file.read(LARGEST_PICKLE)
        if begin[257:262] == b"ustar":
            raise NeedsCodeError("it has the form that torch wrote before 0.2")
        pickles = io.BytesIO(begin)
        if _unpickled(pickles, None) != _MAGIC or _unpickled(pickles, None) != _PROTOCOL:
            raise NeedsCodeError("it is no file of torch.save")
        machine = _unpickled(pickles, None)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise InputError(f"{path}: was written on a big-endian machine; save it again on another")
        storages: dict[str, _Storage] = {}
        content = _unpickled(pickles, lambda pid: _noted(storages, _persistent(pid)))
        keys = _unpickled(pickles, None)
        if not isinstance(keys, list) or not all(map(_is_key, keys)) or sorted(map(str, keys)) != sorted(storages):
            raise NeedsCodeError("its list of storages is damaged")
        return TorchFile(path, content, _row(file, pickles.tell(), [storages[str(k)] for k in keys]))


def _noted(storages: dict[str, _Storage], storage: _Storage) -> _Storage:
    if storages.setdefault(storage.key, storage) != storage:
        raise ValueError("a storage of two types")
    return storage


def _row(file: IO[bytes], at: int, storages: list[_Storage]) -> dict[str, tuple[int, int]]:
    """Places of storages that follow one another, each after its number of elements."""
    whole, places = file.seek(0, io.SEEK_END), {}
    for storage in storages:
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != storage.elements or at + 8 + storage.bytes > whole:
            raise NeedsCodeError("it ends before its tensors do")
        places[storage.key] = (at + 8, storage.bytes)
        at += 8 + storage.bytes
    return places


def _unpickled(file: IO[bytes], persistent: Callable[[Any], Any] | None) -> Any:
    try:
        return read_pickle(file, Table(_CALLS, _is_harmless, persistent or _no_persistent))
    except RefusedError as error:
        raise NeedsCodeError(f"it asks for {first_line(error)}") from None
    except ValueError as error:
        raise NeedsCodeError(first_line(error)) from None


def _is_harmless(name: str) -> bool:
    return name in _ODD or _storage_type(name) in _STORAGES or bool(_HARMLESS.fullmatch(name))


def _storage_type(name: str) -> str:
    match = _STORAGE.fullmatch(name)
    return match[2] if match else ""


def _no_persistent(_: Any) -> Any:
    raise ValueError("tensors where none belong")


def _persistent(pid: Any) -> _Storage:
    """('storage', type, key, device, number of elements[, None])."""
    kind, storage, key, _, elements, *view = pid
    name = _storage_type(storage.text) if isinstance(storage, Name) else ""
    if kind != "storage" or name not in _STORAGES or any(part is not None for part in view):
        raise ValueError("a storage of an unknown kind")
    if not _is_key(key) or not _is_count(elements):
        raise ValueError("a storage without a key or a size")
    return _Storage(str(key), _STORAGES[name], elements)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_key(value: Any) -> bool:
    return isinstance(value, str) or _is_count(value)


def _placed(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> Placed | Odd:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without its storage")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_count, numbers)):
        raise ValueError("a tensor of an impossible shape")
    if math.prod(n for n in shape if n) >= 2**62:
        raise ValueError("a tensor of an impossible size")
    if dtype not in PLAIN_TYPES:
        return Odd("of a type without weight arithmetic")
    return Placed(storage.key, dtype, offset, shape, stride)


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Placed | Odd:
    """`_rebuild_tensor` and, with requires_grad, hooks and metadata, `_rebuild_tensor_v2`."""
    if len(more) > 2 and more[2]:
        return Odd("a conjugate or negative view")
    return _placed(storage, getattr(storage, "dtype", None), offset, shape, stride)


def _rebuild_typed(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Placed | Odd:
    """`_rebuild_tensor_v3`: types that have no storage of their own; after requires_grad and hooks comes the type."""
    dtype, metadata = more[2], more[3:]
    name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else ""
    if metadata and metadata[0]:
        return Odd("a conjugate or negative view")
    return _placed(storage, _TYPES.get(name), offset, shape, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def _rebuild_from_type(call: Any, kind: Any, arguments: Any, _state: Any = None) -> Any:
    """A tensor with attributes, which are left behind, or one of a class of its own."""
    if not isinstance(call, Name) or not isinstance(kind, Name) or not isinstance(arguments, tuple):
        raise ValueError("a tensor without its class")
    if kind.text not in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        return Odd("of a class of its own")
    return _CALLS[call.text](*arguments) if call.text in _CALLS else Inert()


def _odd(kind: str) -> Callable[..., Odd]:
    return lambda *_: Odd(kind)


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """An OrderedDict or its like, which older pickles fill by a list of pairs."""
    pairs = next((g for g in arguments if isinstance(g, list)), [])
    return {k: v for k, v in (p for p in pairs if len(p) == 2) if isinstance(k, str)}


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.dict": _mapping,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **{name: _odd(kind) for name, kind in _ODD.items()},
}
