"""Pictures that ask for the machine, or are not what they are called."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.hostile.suite.made import picture
from tests.hostile.suite.runner import MARKER, Entry


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], color: int = 2) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(_chunk(*c) for c in chunks) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    out = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*out, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def _gif_frames() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    frames = [Image.new("P", (64, 64), i % 256) for i in range(2000)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def _gif_screen() -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x02\x01\x00\x00;"
    )


def _tiff(width: int, height: int, compression: int = 1) -> bytes:
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (278, 4, 1, height),
        (279, 4, 1, 100),
    ]
    body = b"II*\0" + struct.pack("<I", 200) + b"\0" * 192
    return body + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + b"\0" * 4


def _tiff_loop() -> bytes:
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", 1)
        + struct.pack("<HHII", 256, 4, 1, 9)
        + struct.pack("<I", 8)
    )


def _bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def _jpeg(width: int, height: int) -> bytes:
    raw = bytearray(picture(16, "JPEG"))
    at = raw.find(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def _postscript() -> bytes:
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(" + MARKER.encode() + b") (w) file closefile\nshowpage\n"
    )


_PICTURES: list[tuple[str, Callable[[], bytes]]] = [
    ("png of 50,000 by 50,000", lambda: _png(50_000, 50_000, (b"IDAT", _zeros(1 << 28)))),
    ("png of 13,000 by 13,000", lambda: _png(13_000, 13_000, (b"IDAT", _zeros(13_000 * 39_001)))),
    ("png of a long strip", lambda: _png(1_000_000, 100, (b"IDAT", _zeros(100 * 3_000_001)))),
    ("png of a tall strip", lambda: _png(1, 2_000_000, (b"IDAT", _zeros(4 * 2_000_000)))),
    ("png of nothing", lambda: _png(0, 0, (b"IDAT", zlib.compress(b"")))),
    (
        "png of a text bomb",
        lambda: _png(16, 16, (b"zTXt", b"a\0\0" + _zeros(1 << 30)), (b"IDAT", zlib.compress(bytes(16 * 49)))),
    ),
    (
        "png of a profile bomb",
        lambda: _png(16, 16, (b"iCCP", b"a\0\0" + _zeros(1 << 30)), (b"IDAT", zlib.compress(bytes(16 * 49)))),
    ),
    (
        "png of an international bomb",
        lambda: _png(16, 16, (b"iTXt", b"a\0\1\0\0\0" + _zeros(1 << 30)), (b"IDAT", zlib.compress(bytes(16 * 49)))),
    ),
    (
        "png of many texts",
        lambda: _png(16, 16, *[(b"tEXt", b"a\0" + b"x" * 1000)] * 50_000, (b"IDAT", zlib.compress(bytes(16 * 49)))),
    ),
    ("png without end", lambda: picture()[:60]),
    ("png with escapes", lambda: _png(16, 16, (b"tEXt", b"Title\0\x1b[31m"), (b"IDAT", zlib.compress(bytes(16 * 49))))),
    ("gif of 2,000 frames", _gif_frames),
    ("gif of 65,535 by 65,535", _gif_screen),
    ("tiff of a million by a million", lambda: _tiff(10**6, 10**6)),
    ("tiff of 40,000 by 40,000", lambda: _tiff(40_000, 40_000, 5)),
    ("tiff of a loop", _tiff_loop),
    ("bmp of a million by a million", lambda: _bmp(10**6, 10**6)),
    ("bmp upside down", lambda: _bmp(2**31 - 1, -(2**31) + 1)),
    ("ppm of a million by a million", lambda: b"P6 1000000 1000000 255\n"),
    ("ppm of a huge number", lambda: b"P6 " + b"9" * 10_000 + b" 1 255\n"),
    ("jpeg of 65,500 by 65,500", lambda: _jpeg(65_500, 65_500)),
    ("jpeg cut", lambda: picture(16, "JPEG")[:200]),
    ("PostScript", _postscript),
    ("svg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/"/></svg>'),
    ("ico of many", lambda: b"\0\0\1\0\xff\xff" + bytes(16) * 65535),
    ("fits", lambda: b"SIMPLE  =                    T" + b" " * 2850),
    ("zeros", lambda: bytes(1 << 20)),
    ("nothing", lambda: b""),
]


def _entry(name: str, content: Callable[[], bytes]) -> Entry:
    def make(folder: Path) -> list[str]:
        (folder / "ok.png").write_bytes(picture())
        (folder / "odd.png").write_bytes(content())
        (folder / "t.csv").write_text("image,label\nok.png,0\nodd.png,1\n")
        (folder / "names.txt").write_text("cat\ndog\n")
        return ["evaluate", "--model", "embedded", "--data", "csv:t.csv", "--classes", "names.txt"]

    return Entry(f"picture {name}", make, (0,))


ENTRIES = [_entry(name, content) for name, content in _PICTURES]
