"""Files of `torch.save` that lie: archives that say two things, and pickles that ask for more than is there.

`torch.load(weights_only=True)` is fooled by some: it takes an order for gigabytes (`bytearray`), and dies of a
key nested a million deep. Ours reads each in one line, quickly, and within half a gigabyte more than torch itself has.
"""

from __future__ import annotations

import io
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from unbackdoor import InputError
from unbackdoor.weights.files import read_checkpoint, read_shapes
from unbackdoor.weights.zips import read_members

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")
Members = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    own = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20), own[1]))
    began = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, own)
    assert time.monotonic() - began < 30


def plain() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(16.0), "v": torch.ones(3)}, buffer)
    return buffer.getvalue()


def patched(signature: bytes, at: int, value: bytes, which: int = 0) -> bytes:
    """The plain file with some bytes of the n-th header of a kind replaced."""
    raw, place = bytearray(plain()), -1
    for _ in range(which + 1):
        place = raw.index(signature, place + 1)
    raw[place + at : place + at + len(value)] = value
    return bytes(raw)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def rezipped(change: Callable[[zipfile.ZipFile, Members], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain())) as old, zipfile.ZipFile(buffer, "w") as new:
        change(new, [(info.filename, old.read(info)) for info in old.infolist()])
    return buffer.getvalue()


def selected(choose: Callable[[Members], Members]) -> bytes:
    def change(new: zipfile.ZipFile, members: Members) -> None:
        for name, data in choose(members):
            new.writestr(name, data)

    return rezipped(change)


def renamed(prefix: str) -> bytes:
    return selected(lambda members: [(prefix + name, data) for name, data in members])


def deflated(only: str) -> bytes:
    def change(new: zipfile.ZipFile, members: Members) -> None:
        for name, data in members:
            how = zipfile.ZIP_DEFLATED if only in name else zipfile.ZIP_STORED
            new.writestr(name, data, compress_type=how)

    return rezipped(change)


def tricked() -> bytes:
    """ "Version needed to extract 20.0": Python's zipfile gives up, torch does not look."""
    raw, at = bytearray(deflated("")), 0
    while (at := raw.find(CENTRAL, at)) >= 0:
        raw[at + 6] = 200
        at += 4
    return bytes(raw)


def two_directories() -> bytes:
    """A second archive behind the first: readers that search for an end from the front see another than we do."""
    return plain() + plain()


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "compressed": lambda: deflated(""),
    "a compressed pickle": lambda: deflated("data.pkl"),
    "a compressed tensor": lambda: deflated("data/0"),
    "compressed, with a version that zipfile refuses": tricked,
    "a member twice": lambda: selected(lambda members: [*members, members[0]]),
    "two archives": two_directories,
    "bytes before": lambda: b"#!/bin/sh\n" + plain(),
    "bytes behind": lambda: plain() + b"\0",
    "climbing": lambda: renamed("../"),
    "climbing later": lambda: renamed("a/../../"),
    "absolute": lambda: renamed("/"),
    "backslashes": lambda: renamed("..\\"),
    "encrypted": lambda: patched(CENTRAL, 8, b"\x01\x00"),
    "another way of packing": lambda: patched(CENTRAL, 10, b"\x0c\x00"),
    "a larger size": lambda: patched(CENTRAL, 20, struct.pack("<LL", 1 << 30, 1 << 30)),
    "two sizes": lambda: patched(CENTRAL, 24, struct.pack("<L", 1 << 30)),
    "a size without its field": lambda: patched(CENTRAL, 20, b"\xff" * 8),
    "a place that is none": lambda: patched(CENTRAL, 42, struct.pack("<L", 1)),
    "a place beyond the end": lambda: patched(CENTRAL, 42, struct.pack("<L", 1 << 31)),
    "the place of another": lambda: patched(CENTRAL, 42, struct.pack("<L", 0), which=1),
    "another name inside": lambda: patched(LOCAL, 30, b"evil"),
    "more members than it has": lambda: patched(END, 8, struct.pack("<HH", 999, 999)),
    "fewer members than it has": lambda: patched(END, 8, struct.pack("<HH", 1, 1)),
    "another disk": lambda: patched(END, 4, b"\x01\x00"),
    "a comment that is not there": lambda: patched(END, 20, b"\x10\x00"),
    "a larger directory": lambda: patched(END, 12, struct.pack("<L", 1 << 30)),
    "a directory elsewhere": lambda: patched(END, 16, struct.pack("<L", 7)),
    "an end alone": lambda: plain()[-22:],
    "a beginning alone": lambda: plain()[:100],
    "a magic number alone": lambda: LOCAL,
    "no end": lambda: plain()[:-1],
}


@pytest.mark.parametrize("unpickle", [False, True])
@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_says_two_things_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[], bytes], unpickle: bool
) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(make())
    with pytest.raises(InputError) as error:
        read_checkpoint(path, unpickle=unpickle)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_archives_of_other_writers_are_read(tmp_path: Path) -> None:
    """Sizes behind the data, sizes in 64 bits, a name in UTF-8."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file, file.open("ü/1", "w", force_zip64=True) as member:
        member.write(b"abc")
    found = read_members(tmp_path / "a.zip")["ü/1"]
    assert (tmp_path / "a.zip").read_bytes()[found.start : found.start + found.size] == b"abc"


def zipped(pickled: bytes, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in (
            ("data.pkl", pickled),
            ("version", b"3\n"),
            ("byteorder", b"little"),
            ("data/0", bytes(size)),
        ):
            file.writestr(f"m/{name}", data)
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(elements: int, kind: str = "torch\nFloatStorage", key: bytes = text("0")) -> bytes:
    return b"(" + text("storage") + f"c{kind}\n".encode() + key + text("cpu") + number(elements) + b"tQ"


REBUILD, HOOKS = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n)R"


def rebuilt(where: bytes, offset: int, shape: bytes, stride: bytes) -> bytes:
    return REBUILD + b"(" + where + number(offset) + shape + stride + b"\x89" + HOOKS + b"tR"


def state(tensor: bytes) -> bytes:
    return zipped(b"\x80\x02}" + text("w") + tensor + b"s.")


def tensor(
    elements: int = 16, offset: int = 0, shape: tuple[int, ...] = (16,), stride: tuple[int, ...] = (1,)
) -> bytes:
    return state(rebuilt(storage(elements), offset, numbers(*shape), numbers(*stride)))


def test_the_honest_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(tensor())
    assert torch.equal(read_checkpoint(tmp_path / "m.pt")["w"], torch.zeros(16))
    assert read_shapes(tmp_path / "m.pt") == {"w": (16,)}


def laughs() -> bytes:
    """Mappings that hold the next one nine times, thirty deep; then the state dict."""
    out = b"\x80\x02}q\x00" + text("w") + rebuilt(storage(16), 0, numbers(16), numbers(1)) + b"s"
    for i in range(1, 30):
        out += b"}(" + b"".join(text(f"k{j}") + b"h" + bytes([i - 1]) for j in range(9)) + b"uq" + bytes([i])
    return zipped(out + b".")


def within_itself() -> bytes:
    return zipped(b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s.")


def order(function: str, size: int) -> bytes:
    return zipped(b"\x80\x02}" + text("w") + f"c{function}\n".encode() + number(size) + b"\x85Rs.")


def many_names(count: int) -> bytes:
    """One tensor of 4 MB under many names."""
    one = rebuilt(storage(1 << 20), 0, numbers(1 << 20), numbers(1))
    body = b"\x80\x02}q\x00" + text("w0") + one + b"q\x01s("
    return zipped(body + b"".join(text(f"n{i}") + b"h\x01" for i in range(count)) + b"u.", 4 << 20)


def old(change: Callable[[bytes], bytes]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(7.0)}, buffer, _use_new_zipfile_serialization=False)
    return change(buffer.getvalue())


def old_keys(keys: bytes) -> bytes:
    """The older form with another list of storages."""
    return old(lambda raw: raw[: raw.rindex(b"\x80\x02]")] + b"\x80\x02" + keys + b"." + bytes(64))


SEVEN = struct.pack("<q", 7)
from_type = b"ctorch._tensor\n_rebuild_from_type_v2\n"
PICKLES: dict[str, Callable[[], bytes]] = {
    "a stride of nought": lambda: tensor(shape=(1 << 15, 1 << 15), stride=(0, 0)),
    "a stride below nought": lambda: tensor(offset=15, stride=(-1,)),
    "a shape beyond the storage": lambda: tensor(shape=(17,)),
    "a shape of a trillion": lambda: tensor(shape=(1 << 40,)),
    "a shape below nought": lambda: tensor(shape=(-16,)),
    "a shape of 2^70": lambda: tensor(shape=(1 << 70,)),
    "a shape whose product overflows": lambda: tensor(shape=(1 << 33, 1 << 33), stride=(0, 0)),
    "an empty shape whose product overflows": lambda: tensor(shape=(1 << 40, 1 << 40, 0), stride=(1, 1, 1)),
    "a stride beyond the storage": lambda: tensor(shape=(2,), stride=(16,)),
    "an offset beyond the storage": lambda: tensor(offset=1, shape=(16,)),
    "an offset below nought": lambda: tensor(offset=-4, shape=(4,)),
    "more strides than sizes": lambda: tensor(stride=(1, 1)),
    "a thousand dimensions": lambda: tensor(shape=(1,) * 1000, stride=(1,) * 1000),
    "a storage of a trillion": lambda: tensor(elements=1 << 40),
    "a storage below nought": lambda: tensor(elements=-16),
    "a smaller storage": lambda: tensor(elements=4, shape=(4,)),
    "a storage that is not there": lambda: state(rebuilt(storage(16, key=text("9")), 0, numbers(4), numbers(1))),
    "a storage of a climbing key": lambda: state(
        rebuilt(storage(2, key=text("../version")), 0, numbers(1), numbers(1))
    ),
    "a storage of no key": lambda: state(rebuilt(storage(16, key=b"N"), 0, numbers(4), numbers(1))),
    "a storage of another module": lambda: state(
        rebuilt(storage(16, "evil\nFloatStorage"), 0, numbers(4), numbers(1))
    ),
    "a storage of two types": lambda: state(
        rebuilt(storage(16), 0, numbers(1), numbers(1))
        + b"0"
        + rebuilt(storage(8, "torch\nLongStorage"), 0, numbers(1), numbers(1))
    ),
    "no storage": lambda: state(rebuilt(b"N", 0, numbers(4), numbers(1))),
    "too few arguments": lambda: state(REBUILD + b"(" + storage(16) + b"tR"),
    "many names for one tensor": lambda: many_names(1000),
    "an order for bytes": lambda: order("builtins\nbytearray", 6 << 30),
    "an order of Python 2": lambda: order("__builtin__\nbytearray", 6 << 30),
    "an order for a list": lambda: order("builtins\nrange", 6 << 30),
    "an order for zeros": lambda: order("torch\nzeros", 1 << 40),
    "an order for a storage": lambda: order("torch\nFloatStorage", 1 << 40),
    "an order for an untyped storage": lambda: order("torch.storage\nUntypedStorage", 1 << 40),
    "an order for an array": lambda: order("numpy\nndarray", 1 << 40),
    "a key nested deeply": lambda: zipped(b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns."),
    "a set of what is nested deeply": lambda: zipped(b"\x80\x04\x8f(N" + b"\x85" * 300_000 + b"\x90."),
    "a list nested deeply": lambda: zipped(b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."),
    "mappings nested a hundred thousand deep": lambda: zipped(
        b"\x80\x02" + (b"}" + text("state_dict")) * 100_000 + b"}" + b"s" * 100_000 + b"."
    ),
    "marks without end": lambda: zipped(b"\x80\x02" + b"(" * 300_000 + b"."),
    "mappings that hold one another": laughs,
    "a mapping within itself": within_itself,
    "a memo of four billion": lambda: zipped(b"\x80\x02}r\xff\xff\xff\xff."),
    "a memo that is not there": lambda: zipped(b"\x80\x02j\xff\xff\xff\xff."),
    "text of a terabyte": lambda: zipped(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."),
    "bytes of a terabyte": lambda: zipped(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."),
    "a buffer of a terabyte": lambda: zipped(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x."),
    "a frame of a terabyte": lambda: zipped(b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N."),
    "a number of two billion digits": lambda: zipped(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01."),
    "a number of a million digits": lambda: zipped(b"\x80\x02L" + b"9" * 1_000_000 + b"L\n."),
    "steps and no end": lambda: zipped(b"\x80\x02" + b"N0" * 400_000),
    "a buffer from outside": lambda: zipped(b"\x80\x05\x97."),
    "an extension": lambda: zipped(b"\x80\x02\x82\x01."),
    "a persistent id in text": lambda: zipped(b"\x80\x02Pstorage\n."),
    "a persistent id that is a number": lambda: zipped(b"\x80\x02K\x01Q."),
    "an instance": lambda: zipped(b"(ios\nsystem\n."),
    "an object": lambda: zipped(b"(cos\nsystem\no."),
    "a call of a number": lambda: zipped(b"\x80\x02K\x01)R."),
    "a call without a tuple": lambda: zipped(b"\x80\x02" + REBUILD + b"K\x01R."),
    "a class that is text": lambda: zipped(b"\x80\x04K\x01K\x02\x93."),
    "state for a tensor": lambda: state(rebuilt(storage(16), 0, numbers(4), numbers(1)) + b"}b"),
    "attributes within attributes": lambda: state(
        (from_type + b"(" + from_type + b"ctorch\nTensor\n") * 2000 + b")" + b"NtR" * 2000
    ),
    "a tensor of another type of types": lambda: state(
        REBUILD.replace(b"v2", b"v3") + b"(" + storage(16) + number(0) + numbers(4) + numbers(1) + b"\x89NNtR"
    ),
    "nothing": lambda: zipped(b""),
    "an end alone": lambda: zipped(b"."),
    "two pickles": lambda: selected(lambda members: [*members, ("b/data.pkl", b"N.")]),
    "no pickle": lambda: selected(lambda members: [(name, data) for name, data in members if "pkl" not in name]),
    "the older form, a storage of a trillion": lambda: old(lambda raw: raw.replace(SEVEN, struct.pack("<q", 1 << 40))),
    "the older form, a storage below nought": lambda: old(lambda raw: raw.replace(SEVEN, struct.pack("<q", -7))),
    "the older form, cut": lambda: old(lambda raw: raw[:-5]),
    "the older form, without storages": lambda: old(lambda raw: raw[: raw.rindex(SEVEN)]),
    "the older form, of no storages": lambda: old_keys(b"]"),
    "the older form, of storages in text": lambda: old_keys(text("0")),
    "the older form, of deep storages": lambda: old_keys(b"]" * 100_000 + b"a" * 99_999),
    "the older form, of endless storages": lambda: old_keys(
        b"]\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b"a"
    ),
    "the older form, of another machine": lambda: old(
        lambda raw: raw.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    ),
    "the older form, magic alone": lambda: old(lambda raw: raw[:20]),
}  # fmt: skip


@pytest.mark.parametrize("make", PICKLES.values(), ids=PICKLES)
def test_a_pickle_costs_what_is_there(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(make())
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    with pytest.raises(InputError):
        read_shapes(path)
