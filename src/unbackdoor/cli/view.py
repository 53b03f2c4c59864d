"""`unbackdoor view`."""

from __future__ import annotations

from typing import Any

from unbackdoor.cli.generate import parameter
from unbackdoor.cli.options import SWITCHES, Verb
from unbackdoor.verbs.configs.view import VIEW


def _run(**given: Any) -> int:
    from unbackdoor.verbs.view import view

    view(**given)
    return 0


# It returns nothing to print, but serves until it is interrupted.
command = Verb(
    "view",
    callback=_run,
    params=[*(parameter(known, known.name in VIEW.needs) for known in VIEW.settings().values()), SWITCHES["debug"]()],
    help="Show a folder of runs in the browser: an index, reports and files; on 127.0.0.1 alone, nothing is written.",
)
