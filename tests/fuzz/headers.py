"""Coverage-guided fuzzing of what reads strangers' headers, indices and specs (atheris; not among the tests' needs).

    pip install atheris && python tests/fuzz/headers.py tests/fuzz/corpus -max_total_time=300

The first byte chooses the reader, the rest is its input. Whatever comes, a reader returns or raises `InputError`; a
file that `read_header` takes, the safetensors library takes too, with the same names, types and shapes.
`tests/fuzz/test_corpus.py` replays the corpus; what a run finds is mended and its input kept there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from unbackdoor.errors import InputError
from unbackdoor.triggers import parse_trigger
from unbackdoor.weights.stored import open_stored, read_header

_ROOM = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # gone at exit
FOLDER = Path(_ROOM.name)


def header(data: bytes) -> None:
    """A safetensors file, against the library."""
    from safetensors import safe_open

    path = FOLDER / "m.safetensors"
    path.write_bytes(data)
    shard = read_header(path)
    with safe_open(str(path), "np") as file:
        assert set(file.keys()) == {entry.name for entry in shard.entries}
        for entry in shard.entries:
            part = file.get_slice(entry.name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (entry.dtype, entry.shape), entry


def index(data: bytes) -> None:
    """A sharded model's index beside one sound file that holds a tensor `a`."""
    content = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (FOLDER / "one.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + b"\0")
    path = FOLDER / "m.safetensors.index.json"
    path.write_bytes(data)
    found = open_stored(path)
    assert set(found.entries) <= {"a"} and all(shard.path.parent == FOLDER for shard in found.shards)


def spec(data: bytes) -> None:
    """A trigger's spec, which may come out of a finding or a result file."""
    parse_trigger(data.decode("utf-8", "replace"))


READERS: tuple[Callable[[bytes], None], ...] = (header, index, spec)


def once(data: bytes) -> str:
    """Feed one input; which reader, and whether it took it."""
    reader = READERS[data[0] % len(READERS)] if data else header
    try:
        reader(data[1:])
    except InputError as error:
        assert "\n" not in str(error), error
        return f"{reader.__name__} refused"
    return f"{reader.__name__} taken"


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, lambda data: once(data) and None)
    atheris.Fuzz()
