"""`view`: what it serves of a folder, what it refuses, and what it makes of files of strangers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.view import rows as listing
from unbackdoor.view.rows import Runs, verdict_of
from unbackdoor.view.server import Server

EVIL = '<script>alert("x")</script>'


def write_run(folder: Path, result: Any, *, started: str = "2026-11-30T08:00:00Z", name: str = "result.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = result if isinstance(result, str) else json.dumps(result)
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"verb": "x", "started": started}), encoding="utf-8")
    return folder


def cure(**more: Any) -> dict[str, Any]:
    rates = {"after": {"asr": 0.0}, "tolerance": 0.01, "nothing_to_remove": False}
    return {"verb": "unlearn", "model_reference": "suspect-a", "trigger": "badnets:size=6", **rates, **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs of every kind, and things outside and inside that must not be served."""
    outside = tmp_path_factory.mktemp("view")
    (outside / "secret.txt").write_text(json.dumps(cure(model_reference="secret")), encoding="utf-8")
    root = outside / "runs"
    run = write_run(root / "cures" / "a b", cure(), started="2026-11-30T09:00:00Z")
    (run / "report.html").write_text("<!doctype html><script>1</script>", encoding="utf-8")
    (run / "other.html").write_text("<p>x", encoding="utf-8")
    (run / "plot.svg").write_text("<svg/>", encoding="utf-8")
    (run / "model.bin").write_bytes(b"\x80\x02" * 3_000_000)
    (run / ".work").mkdir()
    (run / ".work" / "secret.txt").write_text("secret", encoding="utf-8")
    write_run(run / ".work" / "inner", cure())
    finding = {"verb": "scan", "model_reference": "suspect-b", "backdoored": True, "trigger": {"spec": "blended"}}
    write_run(root / "scan", finding, name="finding.json", started="2026-11-29T00:00:00Z")
    write_run(root / "clean", {**finding, "backdoored": False}, started="2026-11-28T00:00:00Z")
    write_run(root / "evil", {"verb": EVIL, "model": f'"{EVIL}\x1b[31m', "trigger": EVIL, "verdict": EVIL})
    write_run(root / "torn", '{"verb": "unl')
    write_run(root / "deep", "[" * 100_000)
    write_run(root / "endless", '{"verb": 1' + "0" * 100 + "}")
    write_run(root / "list", "[]", started="never")
    (root / "unfinished").mkdir()
    (root / "unfinished" / "result.json").write_text("{}", encoding="utf-8")
    os.symlink(outside / "secret.txt", root / "link.txt")
    os.symlink(outside, root / "link")
    os.symlink(run / ".work", root / "work-link")
    os.symlink(run / "plot.svg", root / "inner.svg")
    os.symlink("loop", root / "loop")
    linked = write_run(root / "linked", "{}")
    (linked / "result.json").unlink()
    os.symlink(outside / "secret.txt", linked / "result.json")
    os.mkfifo(root / "pipe.txt")
    return root


@dataclass
class Client:
    server: Server

    def send(self, address: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request whose target is the bytes that are given, without any cleaning."""
        connection = http.client.HTTPConnection(*self.server.server_address[:2], timeout=20)
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        connection.putrequest(method, address, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"Host": "localhost"} | headers).items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[Client]:
    with Server(place, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


RUN = "/cures/a%20b"
REFUSED = [
    "/..",
    "/../secret.txt",
    "/cures/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E%2Fsecret.txt",
    "/..%2fsecret.txt",
    "/%252e%252e/secret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/./scan/finding.json",
    "//secret.txt",
    "/scan//finding.json",
    "//etc/passwd",
    "/%2fetc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "http://localhost/scan/finding.json",
    "*",
    "/scan/finding.json%00",
    "/scan/finding.json/",
    "/scan%00/",
    "/c:/secret.txt",
    "/.view/other.css",
    f"{RUN}/.work/secret.txt",
    f"{RUN}/%2ework/secret.txt",
    f"{RUN}/.work/",
    "/link.txt",
    "/link/",
    "/link/secret.txt",
    "/work-link/",
    "/work-link/secret.txt",
    "/loop",
    "/linked/result.json",
    "/pipe.txt",
    "/nothing",
    "/scan/nothing.json",
    "/" + "a" * 300,
    "/%ff%fe",
    "/%",
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_served(client: Client, address: str) -> None:
    response, content = client.send(address)
    assert response.status == 404 and b"secret" not in content
    assert response.headers["Content-Type"].startswith("text/plain")


def test_what_python_itself_refuses_is_in_our_words(client: Client) -> None:
    assert client.send("/" + "a" * 5000)[0].status == 414
    response, content = client.send("/" + "a" * 70_000)
    assert response.status == 414 and len(content) < 100 and response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "MOVE", "<b>"])
def test_it_is_read_alone(client: Client, place: Path, method: str) -> None:
    before = sorted(place.rglob("*"))
    response, content = client.send("/scan/finding.json", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert b"<" not in content and sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9", 200),
        ("127.0.0.1:8765", 200),
        ("[::1]:8765", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8765", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost:80:80", 403),
        ("localhost:x", 403),
        ("127.0.0.1@evil.example", 403),
        ("", 403),
    ],
)
def test_a_page_whose_name_leads_here_is_refused(client: Client, host: str, status: int) -> None:
    for address in ("/", "/scan/finding.json", "/.view/style.css"):
        assert client.send(address, Host=host)[0].status == status


def test_two_hosts_are_none(client: Client) -> None:
    connection = http.client.HTTPConnection(*client.server.server_address[:2], timeout=20)
    connection.putrequest("GET", "/")  # with a host of its own
    connection.putheader("Host", "evil.example")
    connection.endheaders()
    assert connection.getresponse().status == 403
    connection.close()


HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("address", "kind", "policy"),
    [
        ("/", HTML, ["default-src 'none'", "style-src 'self'", "form-action 'self'"]),
        (f"{RUN}/", HTML, ["default-src 'none'", "style-src 'self'"]),
        ("/.view/style.css", "text/css; charset=utf-8", ["default-src 'none'"]),
        (f"{RUN}/report.html", HTML, ["sandbox allow-scripts", "script-src 'unsafe-inline'", "default-src 'none'"]),
        (f"{RUN}/other.html", HTML, ["sandbox;", "default-src 'none'", "style-src 'unsafe-inline'"]),
        (f"{RUN}/result.json", "application/json", ["sandbox;", "default-src 'none'"]),
        (f"{RUN}/plot.svg", "image/svg+xml", ["sandbox;", "default-src 'none'"]),
        ("/inner.svg", "image/svg+xml", ["sandbox;"]),
        (f"{RUN}/model.bin", "application/octet-stream", ["sandbox;"]),
    ],
)
def test_what_is_served_is_named_and_fenced_in(client: Client, address: str, kind: str, policy: list[str]) -> None:
    response, content = client.send(address)
    headers = response.headers
    assert (response.status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, kind, "nosniff")
    assert int(headers["Content-Length"]) == len(content) > 0
    own = headers["Content-Security-Policy"]
    assert all(part in own for part in policy)
    assert ("script-src" in own) == address.endswith("report.html")
    assert "http" not in own and "*" not in own and "same-origin" not in own.replace("allow-same-origin", "")
    assert ("attachment" in headers.get("Content-Disposition", "")) == address.endswith(".bin")
    head, nothing = client.send(address, "HEAD")
    assert nothing == b"" and (head.status, head.headers["Content-Length"]) == (200, str(len(content)))


def test_a_file_arrives_whole(client: Client, place: Path) -> None:
    assert client.send(f"{RUN}/model.bin")[1] == (place / "cures" / "a b" / "model.bin").read_bytes()


def test_a_folder_is_sent_to_its_slash(client: Client) -> None:
    response, _ = client.send(RUN)
    assert (response.status, response.headers["Location"]) == (301, f"{RUN}/")


class Page(HTMLParser):
    """Rows of a page's table, its links, and every tag that it has."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(content.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.rstrip("\n")


def index(client: Client, query: str = "") -> list[list[str]]:
    return Page(client.send(f"/{query}")[1]).rows[1:]


def test_the_index_has_a_row_for_every_run(client: Client) -> None:
    rows = {row[6]: row for row in index(client)}
    # Neither what is hidden, nor what has no manifest, nor what lies behind a link.
    names = {"cures/a b", "scan", "clean", "evil", "torn", "deep", "endless", "list", "linked"}
    assert set(rows) == names
    cured = ["2026-11-30 09:00:00 UTC", "unlearn", "suspect-a", "badnets:size=6", "cured", "report", "cures/a b"]
    assert rows["cures/a b"] == cured
    assert rows["scan"][1:6] == ["scan", "suspect-b", "blended", "backdoored", "–"]
    assert rows["clean"][4] == "no finding"
    assert [row[6] for row in index(client)][:1] == ["cures/a b"]
    assert all(rows[name][4].startswith("broken") for name in ("torn", "deep", "endless", "list", "linked"))
    assert "not readable JSON" in rows["torn"][4] and "nested" in rows["deep"][4]


def test_what_files_say_is_text(client: Client, place: Path) -> None:
    content = client.send("/")[1]
    page = Page(content)
    row = next(row for row in page.rows if row[-1] == "evil")
    assert row[1] == EVIL and "\x1b" not in content.decode()
    assert "script" not in page.tags and "img" not in page.tags
    assert str(place).encode() not in content
    assert all(link.startswith(("/", "data:,")) and not link.startswith("//") for link in page.links)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("?model=suspect-A", ["cures/a b"]),
        ("?trigger=blend", ["scan", "clean"]),
        ("?verdict=backdoored", ["scan"]),
        ("?model=suspect-b&verdict=no+finding", ["clean"]),
        ("?model=suspect-b&trigger=badnets", []),
        ("?verdict=nosuch", []),
        ("?verdict=back", []),
        ("?model=&trigger=&verdict=backdoored", ["scan"]),
        ("?other=1&verdict=backdoored", ["scan"]),
        (f"?model=%22%3E{EVIL}", []),
    ],
)
def test_the_index_is_filtered(client: Client, query: str, names: list[str]) -> None:
    assert [row[6] for row in index(client, query)] == names
    assert "script" not in Page(client.send(f"/{query}")[1]).tags


def test_a_form_without_end_is_refused(client: Client) -> None:
    assert client.send("/?" + "&".join(f"a{i}=1" for i in range(30)))[0].status == 400


def test_the_form_works_by_itself_and_keeps_what_was_asked(client: Client) -> None:
    content = client.send("/?model=suspect&verdict=backdoored")[1].decode()
    assert '<form method="get" action="/">' in content and 'name="model" value="suspect"' in content
    assert '<option value="backdoored" selected>' in content
    for name in ("model", "trigger", "verdict"):
        assert f'<label for="{name}"' in content and f'id="{name}"' in content


def test_a_folder_lists_what_may_be_served(client: Client) -> None:
    names = [row[0] for row in Page(client.send(f"{RUN}/")[1]).rows[1:]]
    assert names == ["manifest.json", "model.bin", "other.html", "plot.svg", "report.html", "result.json"]
    top = [row[0] for row in Page(client.send("/?files=1")[1]).rows[1:]]
    assert "inner.svg" in top and "scan" in top
    assert not {"link", "link.txt", "work-link", "loop", "pipe.txt"} & set(top)


def test_the_folder_itself_may_be_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, cure())
    rows, whole = Runs(tmp_path).rows()
    assert [row.place for row in rows] == [""] and whole


@pytest.mark.parametrize(("names", "cell"), [(["a"], "a"), (["a", "b"], "2 models"), ([], "")])
def test_a_run_over_several_models_is_one_row(tmp_path: Path, names: list[str], cell: str) -> None:
    write_run(tmp_path, {"verb": "vet", "models": [{"model": name, "verdict": "clean"} for name in names]})
    assert Runs(tmp_path).rows()[0][0].model == cell


def test_a_run_is_read_again_when_it_changed_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "a", cure())
    runs, calls = Runs(tmp_path), []
    real = listing.read_row
    monkeypatch.setattr(listing, "read_row", lambda *given: (calls.append(given), real(*given))[1])
    assert [runs.rows()[0][0].verdict for _ in range(2)] == ["cured", "cured"] and len(calls) == 1
    write_run(folder, cure(after={"asr": 0.5}))
    assert runs.rows()[0][0].verdict == "not cured" and len(calls) == 2


def test_the_pixels_of_a_recovered_trigger_are_cut(tmp_path: Path) -> None:
    write_run(tmp_path, {"verb": "scan", "trigger": {"spec": f"masked:side=64,pixels={'x' * 5000},seed=1"}})
    assert Runs(tmp_path).rows()[0][0].trigger == f"masked:side=64,pixels={'x' * 24}…,seed=1"


def test_a_folder_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        write_run(tmp_path / str(i), cure())
    monkeypatch.setattr(listing, "MOST_ROWS", 3)
    rows, whole = Runs(tmp_path).rows()
    assert (len(rows), whole) == (3, False)
    monkeypatch.setattr(listing, "MOST_ROWS", 3000)
    monkeypatch.setattr(listing, "MOST_ENTRIES", 4)
    assert Runs(tmp_path).rows()[1] is False


def test_a_file_that_is_too_large_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", cure(message="x" * 2000))
    monkeypatch.setattr(listing, "LARGEST", 1000)
    row = Runs(tmp_path).rows()[0][0]
    assert row.verdict == "broken" and "1,000 bytes" in row.problem


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"backdoored": None}, "cannot tell"),
        ({"backdoored": "maybe"}, "unreadable"),
        ({"backdoored": [1]}, "unreadable"),
        ({"verdict": "passes", "backdoored": True}, "passes"),
        ({"quiet": True, "rounds": []}, "cured"),
        ({"quiet": False}, "not cured"),
        (cure(nothing_to_remove=True), "nothing to remove"),
        (cure(after={"asr": 0.02}), "cured"),
        (cure(after={"asr": 0.021}), "not cured"),
        (cure(after={"asr": None}), "not measured"),
        (cure(after=[]), "not measured"),
        (cure(tolerance="0.1"), "not measured"),
        ({"models": [{"verdict": "clean"}, {"verdict": "backdoored"}, {"verdict": "odd"}]}, "backdoored"),
        ({"models": [{"verdict": "clean"}]}, "clean"),
        ({"models": ["x"], "backdoored": False}, "no finding"),
        ({"models": [{}]}, "unreadable"),
        ({"verb": "poison"}, "planted"),
        ({"verb": "locate"}, "done"),
        ({"verdict": {"a": 1}}, "done"),
    ],
)
def test_a_verdict_in_a_word(result: dict[str, Any], verdict: str) -> None:
    assert verdict_of(result) == verdict


def test_no_folder_and_a_taken_port_are_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Server(tmp_path / "none", 0)
    with Server(tmp_path, 0) as server, pytest.raises(InputError, match="give another --port"):
        Server(tmp_path, server.server_address[1])


def test_it_listens_on_loopback_alone_and_ends_on_an_interrupt(place: Path) -> None:
    words = [sys.executable, "-m", "unbackdoor", "view", str(place), "--port", "0", "--no-browser"]
    # What a shell starts in the background ignores interrupts, and so would all that it starts.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and str(place) in line
    port = int(line.split("/")[2].partition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/scan/finding.json")
    assert json.loads(connection.getresponse().read())["backdoored"] is True
    connection.close()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (0, "")


def test_nothing_heavy_is_loaded() -> None:
    probe = "import sys, unbackdoor.verbs.view\nsys.exit(sorted({'torch', 'numpy', 'jinja2'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
