"""What a request is answered with: a page of ours, a file of the folder, or a refusal. Nothing is run or written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote

from unbackdoor.view.pages import STYLE, STYLE_ADDRESS, Filter, folder_page, index_page
from unbackdoor.view.places import inside, parts_of
from unbackdoor.view.rows import REPORT, Runs

MOST_FILES = 1000  # of a folder's page
_LONGEST_ADDRESS, _LONGEST_FIELD = 4096, 200
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_LOCKED = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
# A report brings its style and its scripts within, and asks for nothing. Its origin is its own: it reads no other page.
_REPORT_POLICY = (
    f"sandbox allow-scripts allow-downloads; {_LOCKED}; form-action 'none'; img-src data: blob:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
_FILE_POLICY = f"sandbox; {_LOCKED}; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
_PAGE_POLICY = f"{_LOCKED}; form-action 'self'; style-src 'self'; img-src data:"
_HTML, _TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
_TYPES = {
    ".html": _HTML, ".json": "application/json", ".sarif": "application/json", ".png": "image/png",
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml",
    **dict.fromkeys((".txt", ".md", ".csv", ".tex", ".yaml", ".yml", ".jsonl", ".log", ".xml"), _TEXT),
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Args:
        status: of HTTP.
        kind: content type.
        content: what is sent, or the file that holds it.
        policy: Content-Security-Policy.
        headers: further ones.
    """

    status: int
    kind: str
    content: bytes | Path
    policy: str
    headers: dict[str, str] = field(default_factory=dict)


def answer_to(runs: Runs, target: str, hosts: list[str]) -> Answer:
    """The answer to a GET or a HEAD.

    Args:
        target: what stands in the request's first line.
        hosts: values of its Host headers. A page of somebody else's that has its name lead to this machine sends its
            own name (DNS rebinding), and is refused.
    """
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        return refusal(403, "This server answers to localhost and 127.0.0.1 alone.")
    address, _, query = target.partition("?")
    if len(target) > _LONGEST_ADDRESS:
        return refusal(414, "The address is too long.")
    if address == STYLE_ADDRESS:
        return Answer(200, "text/css; charset=utf-8", STYLE.encode(), _PAGE_POLICY)
    parts = parts_of(address)
    if parts is None:
        return refusal(404, "There is no such file here.")
    if not parts and "files=1" not in query.split("&"):
        return _index(runs, query)
    path = inside(runs.root, parts)
    if path is not None and path.is_dir():
        if not address.endswith("/"):
            there = "".join(f"/{quote(os.fsencode(part))}" for part in parts) + "/"
            return Answer(301, _TEXT, b"", _LOCKED, {"Location": there})
        return _folder(runs, path, "/".join(parts))
    if path is None or not path.is_file() or address.endswith("/"):
        return refusal(404, "There is no such file here.")
    return _file(path)


def refusal(status: int, why: str, **headers: str) -> Answer:
    """An answer that says why there is none, in a line of ours."""
    return Answer(status, _TEXT, f"{why}\n".encode(), _LOCKED, headers)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine; the port may be another's, as behind `ssh -L`."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    return name.lower() in _HOSTS and (not port or (port.isascii() and port.isdigit() and len(port) <= 5))


def _index(runs: Runs, query: str) -> Answer:
    try:
        fields = parse_qs(query, max_num_fields=20, encoding="utf-8", errors="replace")
    except ValueError:
        return refusal(400, "The address holds too many fields.")
    wanted = Filter(
        **{name: fields[name][0].strip()[:_LONGEST_FIELD] for name in ("model", "trigger", "verdict") if name in fields}
    )
    rows, whole = runs.rows()
    return Answer(200, _HTML, index_page(runs.root.name, rows, wanted, whole).encode(), _PAGE_POLICY)


def _folder(runs: Runs, folder: Path, place: str) -> Answer:
    entries: list[tuple[str, int | None]] = []
    whole = True
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if len(entries) == MOST_FILES:
                    whole = False
                    break
                real = inside(runs.root, [*folder.relative_to(runs.root).parts, entry.name])
                if not entry.name.startswith(".") and real is not None and (real.is_dir() or real.is_file()):
                    entries.append((entry.name, None if real.is_dir() else real.stat().st_size))
    except OSError:
        return refusal(404, "This folder cannot be read.")
    page = folder_page(runs.root.name, place, sorted(entries), whole)
    return Answer(200, _HTML, page.encode(errors="replace"), _PAGE_POLICY)


def _file(path: Path) -> Answer:
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        return Answer(200, "application/octet-stream", path, _FILE_POLICY, {"Content-Disposition": "attachment"})
    return Answer(200, kind, path, _REPORT_POLICY if path.name == REPORT else _FILE_POLICY)
