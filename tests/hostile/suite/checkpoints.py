"""Weight files: safetensors, torch zips, pickles, indices."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.suite.made import DEEP, ESCAPES, HUGE_NUMBER, Json, member, open_clip_model, safetensors, tensor
from tests.hostile.suite.runner import MARKER, Entry

Made = Callable[[Path], object]
OUT = ["--out", "o.safetensors"]


def _safe(name: str, header: object, body: bytes = b"\0" * 4, codes: tuple[int, ...] = (2,), **more: int) -> Entry:
    def make(folder: Path) -> list[str]:
        safetensors(folder / "m.safetensors", header, body, **more)
        return ["weights", "inspect", "m.safetensors"]

    return Entry(f"safetensors {name}", make, codes)


def _torch(name: str, make_value: Callable[[], Any], codes: tuple[int, ...] = (2,), **how: Any) -> Entry:
    def make(folder: Path) -> list[str]:
        import torch

        torch.save(make_value(), folder / "m.pt", **how)
        return ["weights", "convert", "m.pt", *OUT]

    return Entry(f"torch {name}", make, codes)


def _raw(name: str, write: Made, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        write(folder / "m.pt")
        return ["weights", "convert", "m.pt", *OUT]

    return Entry(f"torch {name}", make, codes)


ONE = tensor([1], 0, 4)
_HEADERS: list[tuple[str, object]] = [
    ("of another type", {"a": tensor([1], 0, 4, "F33")}),
    ("of a type in a list", {"a": tensor([1], 0, 4, ["F32"])}),
    ("of a negative shape", {"a": tensor([-1], 0, 4)}),
    ("of a shape in words", {"a": tensor(["1"], 0, 4)}),
    ("of a shape of halves", {"a": tensor([0.5], 0, 4)}),
    ("of a huge shape", {"a": tensor([10**18, 10**18], 0, 4)}),
    ("of a shape of a huge number", {"a": tensor([10**39], 0, 4)}),
    ("of a shape of a thousand dimensions", {"a": tensor([1] * 1000, 0, 4)}),
    ("that overlaps", {"a": ONE, "b": ONE}),
    ("with a gap", {"a": tensor([1], 4, 8)}),
    ("beyond its end", {"a": tensor([100], 0, 400)}),
    ("backwards", {"a": tensor([1], 4, 0)}),
    ("without offsets", {"a": {"dtype": "F32", "shape": [1]}}),
    ("of three offsets", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}),
    ("of a tensor in a list", {"a": [1]}),
    ("in a list", [ONE]),
    ("of metadata in a list", {"__metadata__": ["a"], "a": ONE}),
    ("of metadata nested", {"__metadata__": {"a": {"b": "c"}}, "a": ONE}),
    (
        "twice",
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ),
    ("deep", b'{"a":' + DEEP.encode()),
    ("of a huge number", b'{"a":' + HUGE_NUMBER.encode() + b"}"),
    ("of surrogates", b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    ("cut", b'{"a":{"dtype"'),
    ("not in UTF-8", b"\xff\xfe{}"),
    ("empty", b""),
]
_MANY = 600_000


def _many() -> bytes:
    rows = (f'"t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(_MANY))
    return ("{" + ",".join(rows) + "}").encode()


def _values() -> list[tuple[str, Callable[[], Any], tuple[int, ...]]]:
    import torch

    def stride() -> Any:
        return {"w": torch.zeros(1).expand(20_000, 20_000)}

    def overlapping() -> Any:
        base = torch.zeros(1 << 20)
        return {f"w{i}": base[i:].as_strided((1 << 19,), (1,)) for i in range(2000)}

    def sparse() -> Any:
        return {"w": torch.sparse_coo_tensor([[0]], [1.0], (5,))}

    def compressed() -> Any:
        return {"w": torch.eye(4).to_sparse_csr()}

    def huge_sparse() -> Any:
        return {"w": torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9))}

    def cyclic() -> Any:
        value: Json = {"w": torch.ones(2)}
        value["state_dict"] = value
        return value

    def nested() -> Any:
        value: Any = {"w": torch.ones(2)}
        for _ in range(500):
            value = {"state_dict": value}
        return value

    def named(*names: Any) -> Callable[[], Any]:
        return lambda: {name: torch.ones(2) for name in names}

    return [
        ("of a stride of nought", stride, (2,)),
        ("of many views of one storage", overlapping, (0, 2)),
        ("on no device", lambda: {"w": torch.empty(2, device="meta")}, (2,)),
        ("sparse", sparse, (2,)),
        ("sparse and compressed", compressed, (2,)),
        ("sparse of a billion squared", huge_sparse, (2,)),
        ("quantised", lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, (2,)),
        ("complex", lambda: {"w": torch.ones(2, dtype=torch.complex64)}, (0, 2)),
        ("complex of half", lambda: {"w": torch.ones(2, dtype=torch.complex32)}, (2,)),
        ("of eight bits", lambda: {"w": torch.ones(2).to(torch.float8_e4m3fn)}, (0, 2)),
        ("nested tensors", lambda: {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, (2,)),
        ("within itself", cyclic, (0, 2)),
        ("wrapped five hundred times", nested, (0, 2)),
        ("of no tensors", lambda: {"a": 1, "b": "x"}, (2,)),
        ("of a list", lambda: [torch.ones(2)], (2,)),
        ("of a tensor", lambda: torch.ones(2), (2,)),
        ("named for metadata", named("__metadata__", "w"), (2,)),
        ("named with escapes", named(ESCAPES), (0, 2)),
        ("named by numbers", named(1, 2), (0, 2)),
        ("named by nothing", named(""), (0, 2)),
        ("named at length", named("n" * 10**6), (0, 2)),
        ("of a hundred thousand tensors", lambda: {f"w{i}": torch.zeros(0) for i in range(100_000)}, (0, 2)),
        ("of not a number", lambda: {"w": torch.tensor([float("nan")])}, (0,)),
    ]


def _values_entries() -> list[Entry]:
    # The table names torch's types; `make` runs in a process that has torch, and so does whoever lists the entries.
    return [_torch(name, value, codes) for name, value, codes in _values()]


def _bomb(path: Path, marker: Path) -> object:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(marker)!r}).write_text('ran')",)

    return Bomb()


def _pickle(protocol: int | None) -> Made:
    def write(path: Path) -> None:
        import torch

        value = {"w": torch.ones(2), "x": _bomb(path, path.parent / MARKER)}
        if protocol is None:
            torch.save(value, path)
        else:
            path.write_bytes(pickle.dumps({"x": value["x"]}, protocol))

    return write


def _legacy(path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(2), "x": _bomb(path, path.parent / MARKER)}, path, _use_new_zipfile_serialization=False)


def _legacy_huge(path: Path) -> None:
    # A storage of 2^40 elements, as the old form declares it before its bytes.
    import torch

    torch.save({"w": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<q", 7), struct.pack("<q", 1 << 40)))


def _old_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("sys_info", b"\x80\x02}q\x00."),
            ("pickle", b"\x80\x02}q\x00."),
            ("storages", b"\x80\x02K\x00."),
            ("tensors", b"\x80\x02K\x00."),
        ):
            member(tar, name, content)


def _rezipped(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None], elements: int = 1 << 16) -> None:
    import torch

    plain = path.with_name("plain.pt")
    torch.save({"w": torch.zeros(elements)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        change(source, target)
    plain.unlink()


def _compressed(trick: bool, elements: int) -> Made:
    def write(path: Path) -> None:
        def change(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info), compress_type=zipfile.ZIP_DEFLATED)

        _rezipped(path, change, elements)
        raw = bytearray(path.read_bytes())
        at = 0
        while trick and (at := raw.find(b"PK\x01\x02", at)) >= 0:
            raw[at + 6] = 200  # "version needed": zipfile gives up, torch does not look
            at += 4
        path.write_bytes(raw)

    return write


def _again(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    for info in source.infolist():
        target.writestr(info.filename, source.read(info))
        if info.filename.endswith("/data/0"):
            target.writestr(info.filename, b"\1" * info.file_size)


def _renamed(prefix: str) -> Callable[[zipfile.ZipFile, zipfile.ZipFile], None]:
    def change(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
        for info in source.infolist():
            target.writestr(prefix + info.filename, source.read(info))

    return change


def _larger_claims(path: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(1 << 10)}, path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<II", 4096, 4096), struct.pack("<II", 1 << 31, 1 << 31)))


def _prepended(path: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(4)}, path)
    path.write_bytes(b"#!/bin/sh\n" + b"x" * 1000 + path.read_bytes())


def _pickled(opcodes: bytes) -> Made:
    """A torch zip whose data.pkl is given."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
            target.writestr("m/data.pkl", opcodes)
            target.writestr("m/version", "3\n")
            target.writestr("m/byteorder", "little")
            target.writestr("m/data/0", bytes(64))

    return write


def _storage(elements: int, shape: bytes, kind: bytes = b"FloatStorage") -> bytes:
    """{'w': _rebuild_tensor_v2(storage, 0, shape, (1,), …)} by hand."""
    count = b"\x8a\x08" + struct.pack("<q", elements)
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    rebuilt = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + shape
        + b"K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}X\x01\x00\x00\x00w" + rebuilt + b"s."


def _long(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value) + b"\x85"


_OPCODES: list[tuple[str, bytes]] = [
    ("of a storage of a trillion", _storage(1 << 40, _long(4))),
    ("of a shape of a trillion", _storage(16, _long(1 << 40))),
    ("of a shape below nought", _storage(16, _long(-4))),
    ("of a storage below nought", _storage(-16, _long(4))),
    ("of an evil storage", _storage(16, _long(4), b"EvilStorage")),
    ("deep", b"\x80\x02" + b"(" * 10**6 + b"."),
    ("of lists in lists", b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."),
    ("of a huge string", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."),
    ("of huge bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."),
    ("of a huge array", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x."),
    ("of a huge memo", b"\x80\x02Nr\xff\xff\xff\xff."),
    ("of doubled tuples", b"\x80\x02)" + b"2\x86" * 10_000 + b"."),
    ("of a huge number", b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"."),
    ("that runs os.system", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
    ("that imports by code", b"\x80\x02\x82\x01."),
    ("of bytearray of a trillion", b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."),
    ("of torch.zeros", b"\x80\x02ctorch\nzeros\n" + _long(1 << 40) + b"R."),
    ("of getattr", b"\x80\x02c__builtin__\ngetattr\nctorch\nload\nX\x04\x00\x00\x00evil\x86R."),
    ("empty", b""),
    ("of noise", bytes(range(256)) * 4),
]


def _script(path: Path) -> None:
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x)

    torch.jit.trace(Tiny(), torch.zeros(1, 2)).save(str(path))


def _index(name: str, index: object) -> Entry:
    def make(folder: Path) -> list[str]:
        safetensors(folder / "one.safetensors", {"a": ONE}, b"\0" * 4)
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / "m.safetensors.index.json").write_text(text)
        return ["weights", "inspect", "m.safetensors.index.json"]

    return Entry(f"index {name}", make)


def _is(what: str, make_it: Made, verb: str = "inspect") -> Entry:
    def make(folder: Path) -> list[str]:
        make_it(folder / "m.safetensors")
        return ["weights", verb, "m.safetensors"]

    return Entry(f"safetensors is {what}", make)


def _sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.write((50_000_000_000).to_bytes(8, "little"))
        file.truncate(1 << 40)


def _two(name: str, a: Json, b: Json, words: list[str]) -> Entry:
    def make(folder: Path) -> list[str]:
        for file, header in (("a", a), ("b", b)):
            size = max((value["data_offsets"][1] for value in header.values()), default=0)
            safetensors(folder / f"{file}.safetensors", header, bytes(size))
        return ["weights", *words]

    return Entry(f"arithmetic {name}", make)


def _checkpoint(name: str, write: Made, codes: tuple[int, ...] = (2,)) -> Entry:
    def make(folder: Path) -> list[str]:
        model = open_clip_model(folder / "m")
        (model / "open_clip_model.safetensors").unlink()
        write(model / "open_clip_pytorch_model.bin")
        return ["info", "--model", "m"]

    return Entry(f"model file {name}", make, codes)


def _inspected(name: str) -> Entry:
    def make(folder: Path) -> list[str]:
        safetensors(folder / "m.safetensors", {name: ONE, "__metadata__": {ESCAPES: ESCAPES}}, b"\0" * 4)
        return ["weights", "inspect", "m.safetensors"]

    return Entry("safetensors named with escapes", make, (0, 2))


def _unpickle(folder: Path) -> list[str]:
    _script(folder / "m.pt")
    return ["weights", "convert", "--unpickle", "m.pt", *OUT]


ENTRIES = [
    *(_safe(name, header) for name, header in _HEADERS),
    _safe("that claims more header", {"a": ONE}, length=1 << 62),
    _safe("that claims a header of its rest", {"a": ONE}, length=60),
    _safe(f"of {_MANY:,} tensors", _many(), b"", (0, 2)),
    _safe("of 60 MB of header", b'{"a":"' + b"x" * (60 << 20) + b'"}', b""),
    _safe("of 60 MB of lists", b'{"a":' + b"[" + b"[]," * (20 << 20) + b"[]]}", b""),
    _inspected(ESCAPES),
    _is("empty", lambda p: Path(str(p)).touch()),
    _is("a folder", lambda p: Path(str(p)).mkdir()),
    _is("a pipe", lambda p: os.mkfifo(str(p))),
    _is("a device", lambda p: Path(str(p)).symlink_to("/dev/zero")),
    _is("a link to itself", lambda p: Path(str(p)).symlink_to("m.safetensors")),
    _is("a terabyte of nothing", _sparse_file),
    *_values_entries(),
    _torch("in the old form", lambda: {"w": __import__("torch").ones(2)}, (0, 2), _use_new_zipfile_serialization=False),
    _raw("that runs", _pickle(None)),
    *(_raw(f"bare pickle {p} that runs", _pickle(p)) for p in (0, 2, 4)),
    _raw("in the old form that runs", _legacy),
    _raw("in the old form of a trillion", _legacy_huge),
    _raw("in the oldest form", _old_tar),
    _raw("compressed", _compressed(False, 1 << 26)),
    _raw("compressed with a trick", _compressed(True, 1 << 26)),
    _raw("with a member twice", lambda p: _rezipped(p, _again)),
    _raw("with climbing members", lambda p: _rezipped(p, _renamed("../"))),
    _raw("with absolute members", lambda p: _rezipped(p, _renamed("/"))),
    _raw("that claims more", _larger_claims),
    _raw("behind a script", _prepended, (0, 2)),
    _raw("scripted", _script),
    _raw("empty", lambda p: p.touch()),
    _raw("a folder", lambda p: p.mkdir()),
    _raw("a pipe", lambda p: os.mkfifo(p)),
    _raw("a device", lambda p: p.symlink_to("/dev/zero")),
    _raw("of text", lambda p: p.write_text("hello")),
    _raw("of a picture", lambda p: p.write_bytes(io.BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(99)).getvalue())),
    *(_raw(f"pickle {name}", _pickled(opcodes)) for name, opcodes in _OPCODES),
    *(_checkpoint(f"pickle {name}", _pickled(opcodes)) for name, opcodes in _OPCODES[:3]),
    _checkpoint("that runs", _pickle(None)),
    _checkpoint("compressed with a trick", _compressed(True, 1 << 26)),
    Entry("torch scripted, trusted", _unpickle, (0,)),
    _index("outside its folder", {"weight_map": {"a": "../canary"}}),
    _index("by absolute path", {"weight_map": {"a": "/etc/passwd"}}),
    _index("with a backslash", {"weight_map": {"a": "..\\canary"}}),
    _index("to a device", {"weight_map": {"a": "/dev/zero"}}),
    _index("of numbers", {"weight_map": {"a": 5}}),
    _index("in a list", {"weight_map": ["one.safetensors"]}),
    _index("in a word", {"weight_map": "one.safetensors"}),
    _index("empty", {"weight_map": {}}),
    _index("of more", {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}),
    _index("of a huge number", '{"weight_map": ' + HUGE_NUMBER + "}"),
    _index("deep", '{"weight_map":' + DEEP),
    _index("with a NUL", {"weight_map": {"a": "one\0.safetensors"}}),
    _two(
        "of other shapes",
        {"a": tensor([2], 0, 8)},
        {"a": tensor([1], 0, 4)},
        ["diff", "a.safetensors", "b.safetensors", *OUT],
    ),
    _two("of other names", {"a": ONE}, {"b": ONE}, ["diff", "a.safetensors", "b.safetensors", *OUT]),
    _two(
        "of integers",
        {"a": tensor([1], 0, 4, "I32")},
        {"a": tensor([1], 0, 4, "I32")},
        ["diff", "a.safetensors", "b.safetensors", *OUT],
    ),
    _two(
        "by not a number", {"a": ONE}, {"a": ONE}, ["apply", "a.safetensors", "b.safetensors", "--alpha", "nan", *OUT]
    ),
    _two("by infinity", {"a": ONE}, {"a": ONE}, ["combine", "a.safetensors", "--scale", "inf", *OUT]),
    _two(
        "into its own input's folder", {"a": ONE}, {"a": ONE}, ["diff", "a.safetensors", "b.safetensors", "--out", "."]
    ),
]
