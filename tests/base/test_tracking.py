"""Who is told how far a run is: callbacks, bars of notebooks, and trackers through Accelerate's interface."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate import tracking as accelerate

import unbackdoor
from tests.conftest import vit_config, write_open_clip
from tests.scan.toy import toy_clip
from tests.verbs.test_vet import asked
from unbackdoor.base import progress
from unbackdoor.base.errors import InputError
from unbackdoor.base.progress import Progress, Step, on_progress
from unbackdoor.cli.main import COMMANDS
from unbackdoor.cli.main import run as command
from unbackdoor.runs.run import Run
from unbackdoor.runs.tracking import tracked

CALL = {"data": "embedded:digits", "limit": 40, "test_limit": 20, "epochs": 1, "batch_size": 16}
ATTACK = {"trigger": "badnets:size=6", "target": "three"}


def test_a_callback_is_called_at_every_step_and_no_longer() -> None:
    steps: list[Step] = []
    with on_progress(steps.append), on_progress(steps.append):
        with Progress("a\x1b[31m", 3, start=1) as bar:
            bar.step(2, loss=0.5)
            bar.step(3)
        with Progress("quiet", 2, quiet=True) as bar:
            bar.step(1)
    with Progress("later", 2) as bar:
        bar.step(1)
    assert steps[::2] == steps[1::2] == [Step("a [31m", 2, 3, 0.5), Step("a [31m", 3, 3)]


def test_a_callback_ends_the_work_and_leaves() -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), on_progress(stop), Progress("a", 2) as bar:
        bar.step(1)
    with Progress("a", 2) as bar:
        bar.step(1)


def test_the_second_process_calls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    steps: list[Step] = []
    with on_progress(steps.append), Progress("a", 2) as bar:
        bar.step(1)
    assert steps == []


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook shows, picture by picture."""
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)

    def display(picture: str, display_id: bool) -> Any:
        shown.append(picture)
        return handle

    package, inner = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = type("ZMQInteractiveShell", (), {})  # type: ignore[attr-defined]
    inner.HTML, inner.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return shown


def test_a_notebook_has_one_bar_that_moves(cell: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BLINK", 3600.0)
    with Progress("<b>x", 1000) as bar:
        for done in range(1, 1001):
            bar.step(done, loss=0.25)
    assert [picture.partition(">")[0] for picture in cell] == [
        f'<progress value="{value}" max="1000"' for value in (0, 1000)
    ]
    assert "&lt;b&gt;x: 1000/1000" in cell[-1] and "loss 0.2500" in cell[-1] and "<b>" not in cell[-1]


@dataclass
class Fake:
    """Accelerate's interface, noting what it is called with."""

    given: dict[str, Any]
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    made: ClassVar[list[Fake]] = []

    def start(self) -> None:
        self.calls.append(("start",))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.calls.append(("log", values, step))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.fixture(params=["wandb", "mlflow", "tensorboard"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def make(**given: Any) -> Fake:
        Fake.made.append(Fake(given))
        return Fake.made[-1]

    Fake.made.clear()
    monkeypatch.setitem(accelerate.LOGGER_TYPE_TO_CLASS, request.param, make)
    return str(request.param)


def test_a_tracker_is_told_settings_steps_and_result(fake: str, tmp_path: Path) -> None:
    model = write_open_clip(tmp_path / "model", vit_config())
    result = unbackdoor.poison(model=str(model), **ATTACK, **CALL, out=tmp_path / "out", track=fake)
    (one,) = Fake.made
    assert [one.calls[0][0], one.calls[1][0], one.calls[-1][0]] == ["start", "settings", "finish"]
    assert (
        not {"out", "track"} & one.calls[1][1].keys()
        and one.calls[1][1]["trigger"] == ATTACK["trigger"]
        and one.calls[1][1]["epochs"] == 1
    )
    logs = [call for call in one.calls if call[0] == "log"]
    assert [step for _, _, step in logs] == list(range(len(logs)))
    losses = [values for _, values, _ in logs if any(key.endswith("/loss") for key in values)]
    assert len(losses) == 2  # whole batches of 16 of 40 images
    assert logs[-1][1]["result/after/ca"] == result["after"]["ca"]
    assert all(isinstance(value, int | float) for _, values, _ in logs for value in values.values())


def test_the_constructor_gets_what_accelerate_s_own_takes(fake: str, tmp_path: Path) -> None:
    """Of the real classes, but for W&B's, which hands all it does not know on to `wandb.init`."""
    import inspect

    with tracked(Run(out=tmp_path, track=fake), "scan", {}) as tell:
        tell({"a": 1})
    real = {"mlflow": accelerate.MLflowTracker, "tensorboard": accelerate.TensorBoardTracker}.get(fake)
    names = {"run_name", "dir", "job_type"} if real is None else set(inspect.signature(real.__init__).parameters)
    assert set(Fake.made[0].given) <= names


def test_what_fails_is_finished_and_what_never_began_leaves_nothing(fake: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracked(Run(out=tmp_path, track=fake), "scan", {}), Progress("a", 2) as bar:
        bar.step(1)
        raise ZeroDivisionError
    assert Fake.made[0].calls[-1] == ("finish",)
    with pytest.raises(InputError):
        unbackdoor.poison(model="local-dir:none", **ATTACK, **CALL, out=tmp_path / "b", track=fake)
    assert len(Fake.made) == 1 and not (tmp_path / "b" / "tracking").exists()


def test_a_vetting_is_told_with_the_numbers_of_its_model(fake: str, tmp_path: Path) -> None:
    given = asked(tmp_path, [0.2 + 0.01 * i for i in range(24)])
    result = unbackdoor.vet(models=[toy_clip(6.0)], out=tmp_path / "out", track=fake, **given)
    (one,) = Fake.made
    logs = [call[1] for call in one.calls if call[0] == "log"]
    assert logs[-1]["result/scan/p_value"] == result["models"][0]["scan"]["p_value"] and len(logs) > 1
    assert logs[-1]["result/exit_code"] == 1


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("trigger vector/loss", "trigger vector/loss"),
        ("local-dir:/tmp/a b/ca", "local-dir_/tmp/a b/ca"),
        ("../..//x/./y", "x/y"),
        ("é·\x1b[31m/asr", "____31m/asr"),
    ],
)
def test_names_are_such_as_every_tracker_takes(label: str, name: str, fake: str, tmp_path: Path) -> None:
    with tracked(Run(out=tmp_path, track=fake), "bench", {}):
        part, _, key = label.rpartition("/")
        progress.announce(Step(part, 1, 2, measured={key: 0.5}))
    assert ("log", {name: 0.5}, 0) in Fake.made[0].calls


@pytest.mark.parametrize(
    ("out", "place"),
    [
        ("run", "run/tracking"),
        ("run.v1", "run.v1/tracking"),
        ("v.safetensors", "v.safetensors.tracking"),
        ("n.jsonl", "n.jsonl.tracking"),
    ],
)
def test_where_a_tracker_writes(out: str, place: str, fake: str, tmp_path: Path) -> None:
    with tracked(Run(out=tmp_path / out, track=fake), "vector", {}) as tell:
        tell({"a": 1})
    assert (tmp_path / place).is_dir()


LONG = {"poison", "craft", "scan", "unlearn", "vector", "vet", "bench", "zoo", "disentangle", "locate"}


def test_every_command_that_takes_long_has_it() -> None:
    have = {
        name for name in COMMANDS.names() if any("--track" in p.opts for p in getattr(COMMANDS.get(name), "params", []))
    }
    assert have == LONG


def test_without_it_nothing_is_loaded(tmp_path: Path) -> None:
    with tracked(Run(out=tmp_path), "scan", {}) as tell, Progress("a", 2) as bar:
        bar.step(1)
        tell({"a": 1})
    assert list(tmp_path.iterdir()) == [] and progress._CALLBACKS == []


def test_a_run_without_a_folder_has_none_for_its_tracker() -> None:
    with pytest.raises(InputError, match="no output folder"), tracked(Run(track="wandb"), "scan", {}):
        pass


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_there_is_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # its import fails
    model = write_open_clip(tmp_path / "model", vit_config())
    words = ["poison", "--model", str(model), "--data", "embedded:digits", "--trigger", "badnets", "--target", "three"]
    short = ["--limit", "40", "--epochs", "1", "--track", name, "--out", str(tmp_path / "out")]
    assert command([*words, *short]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"unbackdoor: --track {name}: cannot begin")


def test_a_file_cannot_switch_it_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("track: wandb\n", encoding="utf-8")
    assert (
        command(["scan", "--config", str(tmp_path / "c.yaml"), "--model", "embedded", "--data", "embedded:digits"]) == 2
    )
    assert "for the command line alone" in capsys.readouterr().err


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked(Run(out=tmp_path, track="tensorboard"), "poison", {"epochs": 2}) as tell, Progress("fit", 2) as bar:
        bar.step(1, loss=0.5)
        bar.step(2, loss=0.25)
        tell({"after": {"ca": 0.75}})
    events = EventAccumulator(str(tmp_path / "tracking" / "poison"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("fit/loss")] == [(0, 0.5), (1, 0.25)]
    assert [event.value for event in events.Scalars("result/after/ca")] == [0.75]
