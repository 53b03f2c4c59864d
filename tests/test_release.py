"""What comes with a release: archives that hold what they should, and files of other tools that fit their schemas."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError
from jsonschema.validators import validator_for

from tests.conftest import ROOT
from unbackdoor.cli.main import COMMANDS
from unbackdoor.version import __version__

SCHEMAS = ROOT / "tests" / "schemas"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KEPT_TO = [
    ("action.yml", "github-action"),
    (".pre-commit-hooks.yaml", "pre-commit-hooks"),
    ("CITATION.cff", "citation-file-format"),
    *((str(path.relative_to(ROOT)), "github-issue-forms") for path in FORMS),
]
# Options of `vet`, which the files name.
VET = {"--data", "--origin", "--test", "--policy", "--out", "--format"}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def validate(value: Any, schema: str) -> None:
    text = json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8"))
    validator_for(text, Draft7Validator)(text).validate(value)


@pytest.mark.parametrize(("name", "schema"), KEPT_TO)
def test_files_of_other_tools_keep_to_their_schemas(name: str, schema: str) -> None:
    validate(read(name), schema)


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("action.yml", lambda value: value.pop("runs")),
        (".pre-commit-hooks.yaml", lambda value: value[0].pop("entry")),
        ("CITATION.cff", lambda value: value.pop("authors")),
        (".github/ISSUE_TEMPLATE/bug.yml", lambda value: value["body"][1].update(type="essay")),
    ],
)
def test_a_spoiled_file_is_noticed(name: str, spoiled: Any) -> None:
    value = read(name)
    spoiled(value)
    with pytest.raises(ValidationError):
        validate(value, dict(KEPT_TO)[name])


def test_every_schema_has_its_source_and_license() -> None:
    page = (SCHEMAS / "README-release.md").read_text(encoding="utf-8")
    assert all(f"| `{schema}.json` |" in page for _, schema in KEPT_TO)


def test_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = read("CITATION.cff")
    assert re.findall(r'^version = "(.*)"$', project, re.M) == [__version__] == [citation["version"]]
    assert citation["authors"] == [{"name": "unbackdoor developers"}]


def vet_step() -> dict[str, Any]:
    return next(step for step in read("action.yml")["runs"]["steps"] if step.get("id") == "vet")


def test_the_action_names_options_that_vet_has() -> None:
    named = set(re.findall(r"(?<=[( ])--[a-z-]+", vet_step()["run"]))
    assert named <= VET and {"--data", "--out", "--format"} <= named
    if "vet" in COMMANDS:
        assert named <= {option for param in COMMANDS.get("vet").params for option in param.opts}


def test_nothing_that_a_caller_gives_becomes_a_part_of_a_script() -> None:
    for step in read("action.yml")["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


STUB = """#!{python}
import json, os, sys
json.dump(sys.argv[1:], open(os.environ["CALL"], "w"))
out = sys.argv[sys.argv.index("--out") + 1]
if os.environ["WRITES"]:
    os.makedirs(out, exist_ok=True)
    open(os.path.join(out, "vet.sarif"), "w").close()
sys.exit(int(os.environ["CODE"]))
"""


def act(tmp_path: Path, step: dict[str, Any], **variables: str) -> tuple[int, str, list[str]]:
    """Run a step as GitHub would: bash -e, the stub of `unbackdoor` first on PATH. Its code, outputs and the call."""
    stub = tmp_path / "unbackdoor"
    stub.write_text(STUB.format(python=sys.executable), encoding="utf-8")
    stub.chmod(0o755)
    outputs, call = tmp_path / "outputs", tmp_path / "call"
    outputs.touch()
    names = {"GITHUB_OUTPUT": str(outputs), "CALL": str(call), "WRITES": "", "CODE": "0", **variables}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **names}
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    made = json.loads(call.read_text()) if call.exists() else []
    return done.returncode, outputs.read_text(), made


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ({"MODEL": "a"}, ["--", "a"]),
        ({"MODEL": "a\n\nb c\n"}, ["--", "a", "b c"]),
        ({"MODEL": "$(touch evil)\n`touch evil`"}, ["--", "$(touch evil)", "`touch evil`"]),
        ({"MODEL": "--help"}, ["--", "--help"]),
        ({"MODEL": "a", "ORIGIN": "o", "POLICY": "p", "TEST": "t"}, ["--origin", "o", "--test", "t", "--policy", "p"]),
    ],
)
def test_the_action_calls_vet(tmp_path: Path, given: dict[str, str], call: list[str]) -> None:
    empty = dict.fromkeys(("ORIGIN", "TEST", "POLICY"), "")
    code, outputs, made = act(tmp_path, vet_step(), DATA="d", OUT="out", **{**empty, **given})
    start = ["vet", "--data", "d", "--out", "out", "--format", "json", "--format", "sarif"]
    assert made[: len(start)] == start and made[len(start) : len(start) + len(call)] == call
    assert (code, outputs) == (0, "exit-code=0\n") and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_action_goes_on_to_the_upload_whatever_vet_says(tmp_path: Path, code: int) -> None:
    given = {"MODEL": "a", "DATA": "d", "OUT": "out", "ORIGIN": "", "TEST": "", "POLICY": ""}
    assert act(tmp_path, vet_step(), CODE=str(code), WRITES="1", **given)[:2] == (
        0,
        f"exit-code={code}\nsarif=true\n",
    )


@pytest.mark.parametrize(
    ("code", "undecided", "ends"), [(0, "fail", 0), (1, "pass", 1), (2, "pass", 2), (4, "fail", 4), (4, "pass", 0)]
)
def test_the_action_ends_as_vet_did(tmp_path: Path, code: int, undecided: str, ends: int) -> None:
    step = next(step for step in read("action.yml")["runs"]["steps"] if step.get("name") == "Verdict")
    assert act(tmp_path, step, CODE=str(code), UNDECIDED=undecided)[0] == ends


def test_the_image_holds_what_it_copies() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]}
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert copied and all((ROOT / name).exists() and f"\n!{name}\n" in allowed for name in copied)
    assert "\n*\n" in allowed


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, built from this folder without a network; the wheel from the sdist, as `build` does."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_index_would_take_them(archives: tuple[Path, Path]) -> None:
    words = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, archives)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def files_of(folder: Path) -> set[str]:
    """Of the package in the tree, what a wheel is to hold."""
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


# Folders of a machine. None is in what is shipped, and in the package's own texts.
PLACES = re.compile(rb"(?<![\w.-])/(?:work|root|(?:home|Users|tmp)/\w+)\b")


def test_the_wheel_is_the_package_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        package = {name for name in names if name.startswith("unbackdoor/")}
        assert package == files_of(ROOT / "src" / "unbackdoor")
        assert {name.partition("/")[0] for name in names - package} == {f"unbackdoor-{__version__}.dist-info"}
        texts = [name for name in names if not name.endswith((".safetensors", ".png", ".jpg"))]
        assert [name for name in texts if PLACES.search(wheel.read(name))] == []
        facts = email.message_from_bytes(wheel.read(f"unbackdoor-{__version__}.dist-info/METADATA"))
        points = wheel.read(f"unbackdoor-{__version__}.dist-info/entry_points.txt").decode()
    assert {"unbackdoor/py.typed", "unbackdoor/assets/embedded/open_clip_model.safetensors"} <= package
    assert "unbackdoor/assets/schemas/finding.json" in package
    assert not any("test" in Path(name).name for name in package)
    assert (facts["Name"], facts["Version"], facts["Requires-Python"]) == ("unbackdoor", __version__, ">=3.10")
    assert "unbackdoor = unbackdoor.cli.main:main" in points


def test_a_machine_s_folder_would_be_noticed() -> None:
    for text in (b"in /work/x", b'"/root/x"', b"/home/someone/x", b"(/tmp/abc)"):
        assert PLACES.search(text), text
    assert not PLACES.search(b"out/work/x and ./root and work/ and /workable")


def test_the_source_archive_can_be_tested(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "noxfile.py", "constraints.txt", "action.yml", "Dockerfile", ".dockerignore"}
    wanted |= {"tests/conftest.py", "tests/test_release.py", "tests/schemas/github-action.json", "CITATION.cff"}
    wanted |= {".pre-commit-hooks.yaml", ".github/ISSUE_TEMPLATE/bug.yml", "SECURITY.md", "CODE_OF_CONDUCT.md"}
    assert wanted <= names
    assert not {name for name in names if name.startswith((".venv", "build/", "dist/", "runs/")) or ".pyc" in name}


def test_the_wheel_runs_where_it_is_installed(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed into an empty folder; the packages that it needs are this environment's."""
    target = tmp_path / "site"
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*words, str(archives[0])], check=True, timeout=120)
    run = "unbackdoor.cli.main.main(['info', '--trigger', 'blended'])"
    probe = f"import unbackdoor, unbackdoor.cli.main; print(unbackdoor.__file__); {run}"
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    words = [sys.executable, "-c", probe]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(target)) and "ratio=0.2" in done.stdout
