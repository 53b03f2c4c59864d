"""Small models and data that many tests share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


# A test that never runs is no test: what was skipped is listed, and with UNBACKDOOR_NO_SKIPS=1 fails the run.
_SKIPPED: dict[str, str] = {}
_ALLOWED = ("CUDA", "GPU")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _SKIPPED[report.nodeid] = reason.removeprefix("Skipped: ")


def _unexpected() -> dict[str, str]:
    return {test: reason for test, reason in _SKIPPED.items() if not any(word in reason for word in _ALLOWED)}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        terminalreporter.section(f"{len(_SKIPPED)} skipped")
        for test, reason in sorted(_SKIPPED.items()):
            terminalreporter.line(f"{test}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("UNBACKDOOR_NO_SKIPS") == "1" and "PYTEST_XDIST_WORKER" not in os.environ and _unexpected():
        session.exitstatus = 1


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    # Tiny tensors: more threads only wait for one another, above all beside another process of tests.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


def vit_config(image_size: int = 32, classes_width: int = 32) -> dict:  # type: ignore[type-arg]
    """A tiny native OpenCLIP ViT whose layout Hugging Face's CLIPModel can hold too."""
    return {
        "model_cfg": {
            "embed_dim": classes_width,
            "quick_gelu": True,
            "vision_cfg": {"image_size": image_size, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
            "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }


def resnet_config() -> dict:  # type: ignore[type-arg]
    """A tiny ModifiedResNet tower, BatchNorm buffers included."""
    config = vit_config()
    config["model_cfg"]["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    return config


def timm_config() -> dict:  # type: ignore[type-arg]
    """The embedded model's own architecture."""
    return json.loads((ROOT / "recipes" / "embedded" / "open_clip_config.json").read_text())


CONFIGS = {"vit": vit_config, "resnet": resnet_config, "timm": timm_config}


def write_open_clip(folder: Path, config: dict, dtype: torch.dtype = torch.float32) -> Path:  # type: ignore[type-arg]
    """A `local-dir:` folder with seeded random weights."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model_cfg = dict(config["model_cfg"])
    quick = model_cfg.pop("quick_gelu", False)
    model = open_clip.CLIP(**model_cfg, quick_gelu=quick)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(params=list(CONFIGS))
def open_clip_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_open_clip(tmp_path / request.param, CONFIGS[request.param]())


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    return write_open_clip(tmp_path / "vit", vit_config())


def made_odd(clip):  # type: ignore[no-untyped-def]
    """A ViT of `vit_config` with what towers of strangers hold: idle, frozen, shared, scalar and whole numbers."""
    from torch import nn

    tower = clip.model.visual
    tower.mask_token = nn.Parameter(torch.zeros(1, 64))
    tower.scalar = nn.Parameter(torch.tensor(1.0))
    tower.table = nn.Parameter(torch.arange(4), requires_grad=False)
    tower.idle_norm = nn.BatchNorm2d(4)
    tower.idle = nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 64))
    tower.register_buffer("nothing", None)
    tower.conv1.weight.requires_grad_(False)
    blocks = tower.transformer.resblocks
    blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight
    clip.model.eval()
    return clip


def real_data() -> Path | None:
    """The folder of real data sets, where there is one: UNBACKDOOR_DATA or ../shared/data."""
    place = Path(os.environ.get("UNBACKDOOR_DATA", ROOT.parent / "shared" / "data"))
    return place if place.is_dir() else None


needs_real_data = pytest.mark.skipif(
    real_data() is None, reason="no real data sets: set UNBACKDOOR_DATA to their folder"
)
