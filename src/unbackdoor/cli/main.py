"""The `unbackdoor` command. Commands are loaded when called, so that help answers at once.

Exit codes: 0 done; 1 a finding (`scan` says backdoored); 2 bad input or usage; 3 internal error.
"""

from __future__ import annotations

import sys
from typing import Any

import click

_COMMANDS = {
    "bench": "Run a grid of attacks and defences, and tabulate it.",
    "convert": "Write an OpenCLIP model as Hugging Face's, or back.",
    "craft": "Optimise BadCLIP's patch against a clean model.",
    "demo": "Poison and cure the embedded model: the whole story in three minutes.",
    "disentangle": "Map how far a clean and a trigger vector disturb one another.",
    "evaluate": "Measure clean accuracy and attack success rate.",
    "info": "Describe a model, a data source or a trigger.",
    "locate": "Show where in a model a trigger vector sits, and what does the work.",
    "poison": "Make a backdoored model, to have something to cure.",
    "scan": "Say whether a model is backdoored, and by which trigger.",
    "unlearn": "Remove a known backdoor and save the clean model.",
    "vector": "Take the trigger vector of a suspect model.",
    "weights": "Add, subtract and compare state dicts on disk, at any size.",
    "zoo": "Make a population of models; measure detection and cure on it.",
}


class _Lazy(click.Group):
    """A group that knows its commands' one-line helps by heart and imports a command when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = import_module(f"unbackdoor.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unbackdoor")
def cli() -> None:
    """Find, measure and remove backdoors in CLIP models by weight arithmetic.

    Exit codes: 0 done, 1 a finding, 2 bad input, 3 internal error.
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point: errors that users cause end in one line and code 2, ours in a short note and code 3."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from unbackdoor.devices import keep_freed_memory
    from unbackdoor.errors import InputError

    try:
        keep_freed_memory()
        result: Any = cli.main(args=argv, prog_name="unbackdoor", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return _fail("interrupted; run the same command again to continue where it stopped", 130)
    except click.ClickException as error:
        return _fail(" ".join(error.format_message().split()), 2)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue where it stopped", 130)
    except OSError as error:
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 2)
    except Exception as error:
        if "--debug" in (argv if argv is not None else sys.argv):
            raise
        where = _place(error)
        return _fail(f"internal error: {type(error).__name__}: {error} ({where}); please report it", 3)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"unbackdoor: {message}", err=True)
    return code


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    return f"{trace.tb_frame.f_code.co_filename.rsplit('unbackdoor/', 1)[-1]}:{trace.tb_lineno}"
