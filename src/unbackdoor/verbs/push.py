"""`push`: a cured model to the Hugging Face hub, with a card that says what was measured and what was not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.printable import markdown
from unbackdoor.base.untrusted import check_inside, is_there, read_json
from unbackdoor.runs.parameters import keywords
from unbackdoor.runs.result import Share
from unbackdoor.triggers.base import shorten
from unbackdoor.verbs.configs.push import PUSH
from unbackdoor.verbs.results import BlindCureResult, CureResult, PushResult
from unbackdoor.version import __version__

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FRESH = {".gitattributes"}  # what the hub itself puts into a new repository
_RATES = (("ca", "clean accuracy"), ("asr", "attack success"), ("triggered_accuracy", "triggered accuracy"))
_LIMITS = """\
- The figures are of the trigger and the test images named here. Other triggers were not looked for, unless it says so.
- No measurement proves that a model is free of backdoors.
- The license is that of the model that this one was made from; look it up there.
"""


@keywords(PUSH)
def push(*, folder: Path | str, repository: str, public: bool) -> PushResult:
    """Upload the model that `unlearn` left in a folder, as it is, to a new repository of the Hugging Face hub.

    The one verb that sends anything; it is logged in as `huggingface_hub` is.

    Args:
        folder: output folder of `unlearn`, with or without `--scan`, or of `demo`.
        repository: `name/model`; there may be no files in it yet.
        public: let everybody see it.

    Raises:
        InputError: the folder holds no cured model, the repository holds files, or the hub refuses.
    """
    folder = Path(folder)
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository!r} is no repository; write it as name/model")
    result = _cure(folder)
    files = _files(folder / "model")
    card = model_card(repository.partition("/")[2], result, files)
    from huggingface_hub import CommitOperationAdd, HfApi

    additions = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=str(path)) for path in files]
    additions.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        there = sorted(set(hub.list_repo_files(repository)) - _FRESH)
        if there:
            raise InputError(
                f"{repository}: holds files already, such as {there[0]}; give the name of a new repository"
            )
        commit = hub.create_commit(repository, additions, commit_message="Add the cured model and its card")
    except InputError:
        raise
    except Exception as error:  # no network, no token, no right to write: the hub has a class of its own for each
        raise InputError(f"{repository}: the hub refuses ({first_line(error)}); log in with `hf auth login`") from None
    names = tuple(addition.path_in_repo for addition in additions)
    return PushResult(repository=repository, url=str(commit.repo_url), public=public, files=names)


def model_card(name: str, result: CureResult | BlindCureResult, files: list[Path]) -> str:
    """The card: what the model is, what was measured before and after, and what was not.

    Args:
        name: heading.
        files: of the model.
    """
    library = "open_clip" if any(path.name == "open_clip_config.json" for path in files) else "transformers"
    lines = ["---", f"library_name: {library}", "tags: [clip, backdoor-removal]", "---", f"# {markdown(name)}", ""]
    lines += [
        "> ⚠️ **This model was made from one that held a backdoor.** The backdoor was subtracted by "
        f"unbackdoor {__version__}; what is left of it is measured below.",
        "",
        f"Suspect: {markdown(result.model_reference)}",
        "",
        *(_known(result) if isinstance(result, CureResult) else _recovered(result)),
        "",
        _LIMITS,
        "| file | SHA-256 |\n| --- | --- |",
        *(f"| {markdown(path.name)} | {_hash(path)} |" for path in files),
    ]
    return "\n".join(lines) + "\n"


def _known(result: CureResult) -> list[str]:
    attack = f"Trigger {markdown(shorten(result.trigger))}, target {markdown(result.target)}"
    lines = [f"{attack}; measured on {markdown(result.test)}; α = {result.alpha:.4g}.", ""]
    lines += ["| rate | suspect | cured |", "| --- | --- | --- |"]
    for key, title in _RATES:
        if key in result.before.n and key in result.after.n:
            lines.append(f"| {title} | {_words(result.before.share(key))} | {_words(result.after.share(key))} |")
    return [*lines, *([f"\n{markdown(result.message)}"] if result.message else [])]


def _recovered(result: BlindCureResult) -> list[str]:
    state = "The last scan found nothing, and no round fell short." if result.quiet else "**The cure is not whole.**"
    lines = [f"The attack was not known; a scan recovered its triggers. {state}", ""]
    lines += ["| round | target | recovered trigger works, before | after |", "| --- | --- | --- | --- |"]
    for number, row in enumerate(result.rounds, 1):
        asr = row.recovered_asr
        lines.append(f"| {number} | {markdown(row.target)} | {_words(asr.before)} | {_words(asr.after)} |")
    if result.clean_accuracy is not None:
        before, after = result.clean_accuracy.before, result.clean_accuracy.after
        lines.append(f"\nClean accuracy: {_words(before)} before, {_words(after)} after.")
    return lines


def _words(share: Share) -> str:
    if share.value is None:
        return "nothing to count"
    return f"{share.value:.1%} [{share.interval[0] * 100:.1f}, {share.interval[1] * 100:.1f}], n = {share.n}"


def _cure(folder: Path) -> CureResult | BlindCureResult:
    path = folder / "result.json"
    if not is_there(path):
        raise InputError(f"{folder}: holds no result.json; give the output folder of unlearn")
    raw = read_json(path)
    if "alpha" in raw:
        result = CureResult.read(raw, str(path))
        if result.nothing_to_remove:
            raise InputError(f"{path}: nothing was removed from this model; there is no cure to push")
        return result
    if "rounds" in raw:
        return BlindCureResult.read(raw, str(path))
    raise InputError(f"{path}: is of no cure; give the output folder of unlearn")


def _files(model: Path) -> list[Path]:
    """The model's own files, by name: no folder, nothing hidden, nothing that a link brings in from elsewhere."""
    if not is_there(model) or not model.is_dir():
        raise InputError(f"{model}: no such folder; give the output folder of unlearn")
    files = [path for path in sorted(model.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for path in files:
        check_inside(path, model)
    if not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"{model}: holds no safetensors file")
    return [path for path in files if path.name != CARD]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
