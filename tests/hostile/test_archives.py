"""Archives that lie: data shards whose members point elsewhere or claim to be larger than they are, and torch zips."""

from __future__ import annotations

import io
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from unbackdoor import InputError, load_images
from unbackdoor.data.openpairs import open_pairs
from unbackdoor.data.pairs import Wording
from unbackdoor.weights.files import read_checkpoint

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """Half a gigabyte more than now: what is claimed but not there must not be asked for."""
    own = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20), own[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, own)


def jpeg(tone: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (tone, 40, 60)).save(file, "JPEG")
    return file.getvalue()


def member(name: str, data: bytes, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def sample(stem: str) -> Members:
    return [member(f"{stem}.jpg", jpeg()), member(f"{stem}.txt", b"a red square")]


def shard(path: Path, members: Members) -> Path:
    """Headers and data as given, truthful or not."""
    with path.open("wb") as file:
        for info, data in members:
            file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    return path


def long_name(size: int) -> tuple[tarfile.TarInfo, bytes]:
    """GNU's header for a long name that claims to be of `size` bytes."""
    return member("././@LongLink", b"x.jpg\0", type=tarfile.GNUTYPE_LONGNAME, size=size)


def pax(text: bytes, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member("pax", text, type=tarfile.XHDTYPE, **fields)


def sparse(name: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
    """One byte of data in a file of `size` zeros, in the form of pax 0.1."""
    records = [f"GNU.sparse.size={size}", "GNU.sparse.map=0,1"]
    body = b"".join(b"%d %s\n" % (len(r) + 4 if len(r) < 96 else len(r) + 5, r.encode()) for r in records)
    return pax(body)[0], body


OUTSIDE = [
    member("../../outside.jpg", jpeg()),
    member("/etc/outside.jpg", jpeg()),
    member("a/../../b.jpg", jpeg()),
    member("linked.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("linked.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("hard.jpg", b"", type=tarfile.LNKTYPE, linkname="../../secret"),
    member("device.jpg", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    member("pipe.jpg", b"", type=tarfile.FIFOTYPE),
]


def test_members_that_point_elsewhere_write_and_read_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    path = shard(home / "s.tar", [*OUTSIDE, *sample("good")])
    images = load_images(f"wds:{path}", side=8)
    # The three with odd names are pictures inside the shard like any other; links, devices and pipes are none.
    assert len(images) == 4 and (images.captions or ())[-1] == "a red square"
    pairs = open_pairs(f"wds:{path}", side=8, wording=Wording(("{}",)))
    assert len(pairs) == 1
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".offsets") == ["s.tar"]


LYING: list[tuple[str, Callable[[], Members]]] = [
    ("a picture larger than the shard", lambda: [member("big.jpg", jpeg(), size=1 << 33)]),
    ("a caption larger than the shard", lambda: [member("big.txt", b"text", size=1 << 33)]),
    ("the largest size a header holds", lambda: [member("big.jpg", jpeg(), size=(1 << 62) + 1)]),
    ("a long name of gigabytes", lambda: [long_name(1 << 33), *sample("later")]),
    ("extended fields of gigabytes", lambda: [pax(b"20 path=x.jpg\n", size=1 << 33)]),
    ("extended fields that are none", lambda: [pax(b"\xff\xfe nonsense"), *sample("later")]),
    ("a size below zero", lambda: [pax(b"12 size=-9\n"), *sample("later")]),
    ("a size that is no number", lambda: [pax(b"14 size=1e99\n"), *sample("later")]),
    ("a sparse picture of a terabyte", lambda: [sparse("x", 1 << 40), *sample("later")]),
    ("a sparse caption of a terabyte", lambda: [*sample("x")[:1], sparse("x", 1 << 40), *sample("x")[1:]]),
]


@pytest.mark.parametrize("kind", ["images", "pairs"])
@pytest.mark.parametrize(("what", "members"), LYING, ids=[what for what, _ in LYING])
def test_a_lying_member_costs_itself_and_what_follows_at_most(
    what: str, members: Callable[[], Members], kind: str, tmp_path: Path, _little_memory: None
) -> None:
    path = shard(tmp_path / "s.tar", [*sample("first"), *members()])
    try:
        if kind == "images":
            images = load_images(f"wds:{path}", side=8)
            assert 1 <= len(images) <= 3
        else:
            pairs = open_pairs(f"wds:{path}", side=8, wording=Wording(("{}",)))
            batch = pairs.batch(torch.arange(len(pairs)))
            assert 1 <= len(batch.captions) <= 2 and all(len(c) < 100 for c in batch.captions)
    except InputError as error:
        assert "s.tar" in str(error) and "\n" not in str(error)


def test_a_long_caption_is_no_caption(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", [*sample("a"), member("b.jpg", jpeg()), member("b.txt", b"word " * 300_000)])
    assert (load_images(f"wds:{path}", side=8).captions or ()) == ("a red square", "")
    assert len(open_pairs(f"wds:{path}", side=8, wording=Wording(("{}",)))) == 1


def rezipped(source: Path, target: Path, compression: int) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return target


def test_compressed_torch_files_are_refused(tmp_path: Path) -> None:
    """torch stores tensors as they are; deflated, a gigabyte of zeros is a megabyte."""
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    again = rezipped(tmp_path / "plain.pt", tmp_path / "stored.pt", zipfile.ZIP_STORED)
    assert torch.equal(read_checkpoint(again)["w"], torch.zeros(1 << 20))
    small = rezipped(tmp_path / "plain.pt", tmp_path / "deflated.pt", zipfile.ZIP_DEFLATED)
    assert small.stat().st_size < 100_000
    for unpickle in (False, True):
        with pytest.raises(InputError, match=r"deflated\.pt: holds compressed .* save it again with torch.save"):
            read_checkpoint(small, unpickle=unpickle)


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    """Members that overlap make a file stand for many times its size."""
    torch.save({"w": torch.zeros(1 << 16)}, tmp_path / "plain.pt")
    path = tmp_path / "shared.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        data = next(i for i in new.infolist() if i.filename.endswith("data/0"))
        for number in range(1, 50):
            twin = zipfile.ZipInfo(data.filename.replace("data/0", f"data/{number}"))
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(twin, field, getattr(data, field))
            new.filelist.append(twin)
            new.NameToInfo[twin.filename] = twin
        new._didModify = True
    with pytest.raises(InputError, match=r"shared\.pt: not a sound zip archive: '\S+' lies where another member does"):
        read_checkpoint(path)
