"""The `unbackdoor` command. Commands are loaded when called, so that help answers at once.

Exit codes: 0 done; 1 a finding (`scan` says backdoored), or a model that fails `vet`; 2 bad input or usage; 3 internal
error; 4 `scan` or `vet` cannot tell; 130 interrupted.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import click

from unbackdoor.base.registry import Registry

_ABOUT = {
    "bench": "Run a grid of attacks and defences, and tabulate it.",
    "convert": "Write an OpenCLIP model as Hugging Face's, or back.",
    "craft": "Optimise BadCLIP's patch against a clean model.",
    "demo": "Poison and cure the embedded model: the whole story in three minutes.",
    "disentangle": "Map how far a clean and a trigger vector disturb one another.",
    "evaluate": "Measure clean accuracy and attack success rate.",
    "info": "Describe a model, a data source or a trigger.",
    "locate": "Show where in a model a trigger vector sits, and what does the work.",
    "poison": "Make a backdoored model, to have something to cure.",
    "push": "Upload a cured model to the Hugging Face hub.",
    "scan": "Say whether a model is backdoored, and by which trigger.",
    "unlearn": "Remove a known backdoor and save the clean model.",
    "vector": "Take the trigger vector of a suspect model.",
    "vet": "Hold models against a policy: what they are, whether they are backdoored.",
    "view": "Show a folder of runs in the browser.",
    "weights": "Add, subtract and compare state dicts on disk, at any size.",
    "zoo": "Make a population of models; measure detection and cure on it.",
}
COMMANDS: Registry[click.Command] = Registry(
    "command", {name: (f"unbackdoor.cli.{name}:command", about) for name, about in _ABOUT.items()}
)
# What a command that ran out of memory had better be given less of.
_LOWER = {
    "scan": "fewer classes (--classes) or images (--limit)",
    "poison": "a smaller --batch-size or --limit",
    "unlearn": "fewer --samples, --validation or --test-limit images",
    "vector": "fewer --samples",
    "vet": "fewer classes (--classes) or images (--limit)",
    "bench": "fewer --workers, or smaller data in the recipe",
    "zoo": "fewer --workers, or smaller data in the recipe",
    "disentangle": "a smaller --limit",
    "weights": "nothing: it works in pieces, so that other programs take the memory",
}


class _Lazy(click.Group):
    """A group that knows its commands' one-line helps by heart and imports a command when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS.names())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return COMMANDS.get(name) if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS.about(name)) for name in COMMANDS.names()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unbackdoor")
def cli() -> None:
    """Find, measure and remove backdoors in CLIP models by weight arithmetic.

    Exit codes: 0 done, 1 a finding, 2 bad input, 3 internal error, 4 cannot tell.
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point: errors that users cause end in one line and code 2, ours in a short note and code 3."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    With `--json` an error is one JSON object on stdout, too: `verb`, `error`, `code`.
    """
    from unbackdoor.base.devices import keep_freed_memory
    from unbackdoor.base.errors import InputError, first_line, ran_out_of_memory

    arguments = list(sys.argv[1:] if argv is None else argv)
    _speak_any_encoding()
    if any("\0" in argument for argument in arguments):
        return _fail("an argument holds a NUL, which no name of a file has", 2, arguments)
    try:
        keep_freed_memory()
        result: Any = cli.main(args=arguments, prog_name="unbackdoor", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        return _fail(_interrupted(stop), 130, arguments)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later; a usage error there
            click.echo(error.ctx.get_help() if isinstance(error, click.UsageError) and error.ctx else "")
            return 0
        return _fail(error.format_message(), 2, arguments)
    except InputError as error:
        return _fail(str(error), 2, arguments)
    except Exception as error:
        if ran_out_of_memory(error):
            lower = _LOWER.get(_verb(arguments).split(" ")[0], "a smaller --limit")
            return _fail(f"out of memory ({first_line(error)}); use {lower}", 2, arguments)
        if isinstance(error, OSError):
            where = error.filename if isinstance(error.filename, str) else "file system"
            return _fail(f"{where}: {error.strerror or first_line(error)}", 2, arguments)
        if "--debug" in arguments:
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {first_line(error)} ({_place(error)}); this is a bug of "
            "unbackdoor: please report it with what --debug prints",
            3,
            arguments,
        )
    return result if isinstance(result, int) else 0


def _speak_any_encoding() -> None:
    """Characters that the terminal's encoding lacks are written as escapes; no result is lost for want of an α."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupted(stop: BaseException) -> str:
    """What becomes of an interrupted run: it goes on where something was kept of it."""
    from unbackdoor.base.errors import Interrupted

    cause = stop.__cause__ or stop.__context__
    if isinstance(stop, Interrupted) or isinstance(cause, Interrupted):
        return "interrupted; run the same command again to continue where it stopped"
    return "interrupted"


def _verb(arguments: list[str]) -> str:
    """The command that was meant, of `weights` with its own."""
    words = [a for a in arguments if not a.startswith("-")]
    known = words[0] if words and words[0] in COMMANDS else ""
    return f"{known} {words[1]}" if known == "weights" and len(words) > 1 else known


def _fail(message: str, code: int, arguments: list[str]) -> int:
    from unbackdoor.base.devices import is_first_process
    from unbackdoor.base.errors import InputError

    # As an `InputError` is made: one line, printable and of a readable length.
    text = str(InputError(" ".join(message.split())))
    if is_first_process() or code == 3:
        click.echo(f"unbackdoor: {text}", err=True)
        if "--json" in arguments:
            verb = str(InputError(_verb(arguments)))
            click.echo(json.dumps({"verb": verb, "error": text, "code": code}))
    return code


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    name = trace.tb_frame.f_code.co_filename.replace("\\", "/")
    return f"{name.rsplit('unbackdoor/', 1)[-1]}:{trace.tb_lineno}"
