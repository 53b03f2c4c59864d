"""Small changes to sound files: of their bytes, and of what their format holds, so that readers are reached behind
the first check of the format.

A mutator takes the bytes, a generator of random numbers and a pool of other inputs of the same target, and returns
bytes. It may never fail: what it cannot take apart it changes byte by byte.
"""

from __future__ import annotations

import copy
import io
import json
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
LARGEST = 64 << 10  # bytes of an input
TOKENS: tuple[bytes, ...] = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\t", b",", b";", b'"', b"'", b"\\", b"#",
    b"../", b"/dev/zero", b"/etc/passwd", b"~", b"%s", b"{}", b"{0..9999999}", b"[", b"{", b"null", b"true", b"NaN",
    b"-Infinity", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 400, b"\x1b[31m", "\u202e".encode(), "\u2028".encode(),
    b"\\ud800", b"\xed\xa0\x80", b"hf-hub:evil-org/evil", b"http://127.0.0.1:9/", b"@file", b"&a", b"*a", b"<<: *a",
    b"!!python/name:os.system", b"!!binary ", b"!!set ", b"2001-01-01", b".inf", b"0x7fffffffffffffff", b"1:30:30",
    b"? ", b"- ", b"---\n", b"`", b"|",
)  # fmt: skip
_WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 10**4, 10**9, 2**31, 2**63, 2**64, 10**39, -(10**39), 0.0, -0.5, 0.5,
    1e-300, 1e18, 1e308, -1e308, "", " ", "x", "0", "1", "-1", "é", "\ud800", "\u202e", "\x00", "\x1b[31m",
    "a\r\nb", "../../x", "/dev/zero", "hf-hub:evil-org/evil", "@x", "x" * 300, "x" * 70_000, [], {}, [[]], [{}],
    {"": None}, [0] * 5, [None], [1, 2], ["a"], {"a": 1}, list(range(300)), [[[[[[[[]]]]]]]],
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random, pool: Sequence[bytes], tokens: Sequence[bytes] = TOKENS) -> bytes:
    """One to four changes of bytes: flips, tokens, cuts, copies, pieces of another input."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        span = rng.choice((1, 2, 4, 8, 32, 256))
        kind = rng.randrange(9)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1 and found:
            found[at % len(found)] = rng.randrange(256)
        elif kind == 2:
            found[at:at] = rng.choice(tokens)
        elif kind == 3:
            token = rng.choice(tokens)
            found[at : at + len(token)] = token
        elif kind == 4:
            del found[at : at + span]
        elif kind == 5:
            found[at:at] = found[at : at + span] * rng.choice((1, 2, 16))
        elif kind == 6 and pool:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            found[at : at + span] = other[start : start + rng.choice((span, 4 * span))]
        elif kind == 7:
            width, value = (
                rng.choice((1, 2, 4, 8)),
                rng.choice((0, 1, 2**7, 2**15, 2**31, 2**63, 2**64 - 1, len(found))),
            )
            found[at : at + width] = (value % 256**width).to_bytes(width, rng.choice(("little", "big")))
        else:
            del found[at:]
    return bytes(found[:LARGEST])


def mutate_text(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Lines moved, doubled, dropped, exchanged with another input's, or changes of bytes."""
    kind = rng.randrange(8)
    if kind > 4:
        return mutate_bytes(data, rng, pool)
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 0:
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == 1:
        lines[at:at] = [lines[to]] * rng.choice((1, 1, 50))
    elif kind == 2:
        del lines[at]
    elif kind == 3 and pool:
        lines[at] = rng.choice(rng.choice(pool).split(b"\n"))
    else:
        cut = rng.choice((b",", b"\t", b" ", b":", b"="))
        cells = lines[at].split(cut)
        cells[rng.randrange(len(cells))] = rng.choice(TOKENS)
        lines[at] = cut.join(cells)
    return b"\n".join(lines)[:LARGEST]


def mutate_json(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Values, keys and nesting of a JSON document; now and then its bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng, pool)
    try:
        value = json.loads(data)
        other = json.loads(rng.choice(pool)) if pool else value
        changed = mutate_value(value, rng, other)
        text = json.dumps(changed, ensure_ascii=rng.random() < 0.8)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng, pool)
    if rng.random() < 0.06:
        text = _spoiled(text, rng)
    return text.encode("utf-8", "surrogatepass")[:LARGEST]


def mutate_yaml(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Values of a YAML document, its lines, or its bytes."""
    import yaml

    if rng.random() < 0.3:
        return mutate_text(data, rng, pool)
    try:
        value = yaml.safe_load(data)
        changed = mutate_value(value, rng, yaml.safe_load(rng.choice(pool)) if pool else value)
        if rng.random() < 0.15:
            changed = _with_odd_key(changed, rng)
        text: str = yaml.safe_dump(changed, allow_unicode=True)
    except Exception:  # a document that the library itself cannot read or write
        return mutate_text(data, rng, pool)
    return text.encode("utf-8", "replace")[:LARGEST]


def mutate_lines(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """One line of a file of JSON lines, or their order."""
    lines = data.split(b"\n")
    if rng.random() < 0.3:
        return mutate_text(data, rng, pool)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng, [line for other in pool[:3] for line in other.split(b"\n") if line])
    return b"\n".join(lines)[:LARGEST]


def mutate_safetensors(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """The header as JSON, its length written anew; or the bytes."""
    header, body = split_safetensors(data)
    if not header or rng.random() < 0.2:
        return mutate_bytes(data, rng, pool)
    headers = [other for other, _ in map(split_safetensors, pool[:50]) if other]
    changed = mutate_json(header, rng, headers)
    if rng.random() < 0.1:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + bytes(rng.choice((1, 8, 64)))
    return (len(changed).to_bytes(8, "little") + changed + body)[:LARGEST]


def split_safetensors(data: bytes) -> tuple[bytes, bytes]:
    """Header and body."""
    size = int.from_bytes(data[:8], "little")
    return data[8 : 8 + size], data[8 + size :] if size < len(data) else b""


def mutate_tar(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Members of a tar: names, contents, kinds, order; or the bytes."""
    members = _members(data)
    if not members or rng.random() < 0.3:
        return mutate_bytes(data, rng, pool)
    at, kind = rng.randrange(len(members)), rng.randrange(7)
    info, content = members[at]
    if kind == 0:
        content = mutate_bytes(content, rng, [c for _, c in members])
    elif kind == 1:
        content = mutate_json(content, rng, [c for _, c in members]) if content[:1] in b"[{" else rng.choice(TOKENS)
    elif kind == 2:
        stem, dot, ending = info.name.partition(".")
        odd = rng.choice(TOKENS).decode("latin-1").replace("\0", "")
        info.name = rng.choice(
            (f"{odd}{dot}{ending}", f"{stem}.{odd}", f"../{info.name}", f"._{info.name}", odd or "x", stem)
        )
    elif kind == 3:
        info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
        info.linkname = rng.choice(("/etc/passwd", "x", members[0][0].name))
    elif kind == 4:
        info.pax_headers = {
            rng.choice(("path", "size", "GNU.sparse.size", "mtime")): rng.choice(("x", "-1", "9" * 30, "a/b.png"))
        }
    elif kind == 5:
        del members[at]
    else:
        members.insert(rng.randrange(len(members) + 1), copy.deepcopy(rng.choice(members)))
    if kind < 5:
        members[at] = (info, content)
    try:
        return _tar(members, rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))[:LARGEST]
    except (ValueError, OSError):
        return mutate_bytes(data, rng, pool)


def mutate_zip(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Members of a zip archive: names, contents, order; or the bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # whatever zipfile makes of damage
        members = []
    if not members or rng.random() < 0.25:
        return mutate_bytes(data, rng, pool)
    at, kind = rng.randrange(len(members)), rng.randrange(8)
    name, content = members[at]
    if kind < 4:  # the pickle above all
        at = next((i for i, (n, _) in enumerate(members) if n.endswith(".pkl")), at)
        name, content = members[at]
        members[at] = (name, mutate_bytes(content, rng, [content], PICKLE_TOKENS))
    elif kind == 4:
        members[at] = (name, content[: len(content) // 2] if rng.random() < 0.5 else content * 2)
    elif kind == 5:
        members[at] = (
            rng.choice(("x", "../x", f"{name}/", name.upper(), f"archive/{name}", "archive/constants.pkl")),
            content,
        )
    elif kind == 6:
        del members[at]
    else:
        members.append((name, content))
    out = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED) as archive,
    ):
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()[:LARGEST]


_OPCODES = (
    b"(.0123FGIJKLMNPQRSTUVXabcdeghijlopqrstu]})"
    b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
)
PICKLE_TOKENS: tuple[bytes, ...] = (
    *(bytes([op]) for op in _OPCODES), b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nSize\n", b"cbuiltins\ngetattr\n", b"X\x01\x00\x00\x00a", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"I1000000000\n", b"q\x00", b"h\x00",
    b"h\xff", b"r\xff\xff\xff\x7f", b"(((((((((((((((((", b"]" * 50, b"\x85" * 200, b"t", b"R", b"Q", b"s", b"u",
)  # fmt: skip


def mutate_pickle(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """A row of pickles, byte by byte, with whole opcodes."""
    return mutate_bytes(data, rng, pool, PICKLE_TOKENS)


def mutate_parquet(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Columns, types and metadata of a Parquet file; or the bytes, its end above all."""
    if rng.random() < 0.4:
        cut = max(0, len(data) - 1500) if rng.random() < 0.7 else 0
        return data[:cut] + mutate_bytes(data[cut:], rng, pool)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(data))
        at, kind = rng.randrange(table.num_columns), rng.randrange(5)
        name = table.column_names[at]
        if kind == 0:
            names = list(table.column_names)
            names[at] = rng.choice(
                ("image", "label", "img", "fine_label", "caption", "text", "", "\x1b[31m", "x" * 300, names[0])
            )
            table = table.rename_columns(names)
        elif kind == 1:
            rows = rng.choice(
                (
                    [None],
                    [1],
                    [-(2**63)],
                    [2.5, float("nan")],
                    ["a", ""],
                    [b"\xff"],
                    [["a"], []],
                    [{"bytes": b"x", "path": None}],
                    [{"bytes": None, "path": "/dev/zero"}],
                    [{"path": "../x.png"}],
                    [[1, 2], [3]],
                    [True],
                    [10**18],
                    ["\x1b[31m"],
                    [{"a": {"b": [1]}}],
                )
            )
            table = table.set_column(at, name, pa.array([rows[i % len(rows)] for i in range(table.num_rows)]))
        elif kind == 2:
            table = table.remove_column(at) if table.num_columns > 1 else table.slice(0, 0)
        elif kind == 3:
            notes = dict(table.schema.metadata or {})
            old = notes.get(
                b"huggingface", b'{"info": {"features": {"label": {"names": ["a"], "_type": "ClassLabel"}}}}'
            )
            table = table.replace_schema_metadata({**notes, b"huggingface": mutate_json(old, rng, [old])})
        else:
            table = (
                pa.concat_tables([table] * rng.choice((2, 5)))
                if rng.random() < 0.5
                else table.slice(0, rng.randrange(3))
            )
        out = io.BytesIO()
        pq.write_table(table, out, compression=rng.choice(("none", "snappy", "zstd")))
        return out.getvalue()[:LARGEST]
    except Exception:  # a table that the library itself does not read or write
        return mutate_bytes(data, rng, pool)


def mutate_value(value: Any, rng: random.Random, other: Any) -> Any:
    """One to three changes in a nested value; `other` lends pieces."""
    top = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        slots = list(_slots(top))
        holder, key = rng.choice(slots)
        _change(holder, key, rng, slots, other)
        if not top:
            top = [None]
    return top[0]


def _slots(top: list[Any]) -> list[tuple[Any, Any]]:
    """Every place that holds a value, at most 2,000."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [top]
    while waiting and len(found) < 2000:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(min(len(holder), 200)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def _change(holder: Any, key: Any, rng: random.Random, slots: list[tuple[Any, Any]], other: Any) -> None:
    value, kind = holder[key], rng.randrange(11)
    if kind == 0:
        holder[key] = copy.deepcopy(rng.choice(_WORDS))
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        if isinstance(holder, dict):
            holder[rng.choice((f"{key}x", "", "evil", "__class__", "\x1b[31m", "é" * 100, "_name_or_path"))] = (
                copy.deepcopy(value)
            )
        else:
            holder.extend([copy.deepcopy(value)] * rng.choice((1, 2, 500)))
    elif kind == 3:
        there, place = rng.choice(slots)
        if _has(there, place) and _has(holder, key):
            mine, its = copy.deepcopy(holder[key]), copy.deepcopy(there[place])
            holder[key], there[place] = its, mine
    elif kind == 4:
        holder[key] = [value] if rng.random() < 0.5 else {"a": value}
    elif kind == 5:
        holder[key] = rng.choice((str(value)[:200], [value] * 3, bool(value), 1 if value else 0.0))
    elif kind in (6, 7) and isinstance(value, int | float) and not isinstance(value, bool):
        value = value % 10**60 if isinstance(value, int) else value  # longer ones have no float, and in the end no text
        holder[key] = rng.choice(
            (value + 1, value - 1, -value, value * 2, value * 1000, value // 2 if value else 1, float(value))
        )
    elif kind in (6, 7) and isinstance(value, str):
        text = mutate_bytes(value.encode("utf-8", "surrogatepass"), rng, ())
        holder[key] = text.decode("utf-8", "replace")[:5000]
    elif kind == 8:
        nested: Any = value
        for _ in range(rng.choice((3, 60, 70, 300))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        holder[key] = nested
    elif kind == 9:  # the value of this key elsewhere
        there, place = rng.choice(_slots([other]))
        holder[key] = copy.deepcopy(there[place])
    else:
        if isinstance(holder, dict) and isinstance(other, dict) and other:
            name = rng.choice(list(other))
            holder[name] = copy.deepcopy(other[name])
        else:
            holder[key] = rng.choice(_WORDS[:30])


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _with_odd_key(value: Any, rng: random.Random) -> Any:
    import datetime

    odd = rng.choice((None, 1, 1.5, True, b"x", datetime.date(2001, 1, 1), (1, 2), datetime.datetime(2001, 1, 1), {1}))
    holders = [holder for holder, _ in _slots([value]) if isinstance(holder, dict)]
    if not holders:
        return {odd: value} if not isinstance(odd, set) else odd
    holder = rng.choice(holders)
    if isinstance(odd, set) or rng.random() < 0.5:
        holder[rng.choice(list(holder))] = odd
    else:
        holder[odd] = 1
    return value


def _spoiled(text: str, rng: random.Random) -> str:
    """What no JSON library would write."""
    kind = rng.randrange(6)
    at = rng.randrange(len(text) + 1)
    if kind == 0:
        return text.replace(": ", ": " + rng.choice(("[" * 70, "[" * 20_000, '{"a":' * 5000)), 1)
    if kind == 1:
        return text.replace("{", '{"a": 1, "a": 2, ', 1)
    if kind == 2:
        return (
            text[:at]
            + rng.choice(("NaN", "Infinity", "-Infinity", "9" * 5000, "1e999", "\\ud800", "\\u0000"))
            + text[at:]
        )
    if kind == 3:
        return "\ufeff" + text
    if kind == 4:
        return text + text
    return text[:at]


def _members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for info in tar:
                file = tar.extractfile(info) if info.isfile() else None
                found.append((info, b"" if file is None else file.read(1 << 20)))
    except Exception:  # whatever tarfile makes of damage
        return []
    return found


def _tar(members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            info.size = len(content) if info.isfile() else 0
            tar.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return out.getvalue()
