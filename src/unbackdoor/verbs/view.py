"""`view`: a folder of runs in the browser, read-only and on this machine alone."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from unbackdoor.runs.parameters import keywords
from unbackdoor.verbs.configs.view import VIEW
from unbackdoor.view.server import Server


@keywords(VIEW)
def view(*, folder: Path | str, port: int, no_browser: bool) -> None:
    """Serve a folder of runs on 127.0.0.1 until Ctrl-C: an index of them, their reports and their files.

    Args:
        folder: holds runs at any depth; nothing outside it is served, and nothing hidden.
        port: 0 takes any that is free; the address is printed.
        no_browser: do not open it in the browser.

    Raises:
        InputError: there is no such folder, or the port is taken.
    """
    with Server(Path(folder), port) as server:
        print(f"{server.url} serves {Path(folder)}; Ctrl-C ends it", flush=True)
        if not no_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
