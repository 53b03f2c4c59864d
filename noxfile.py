"""The wheel on every Python that it is for: `nox`, or `nox -s "smoke-3.12"`. One that is not there is skipped."""

from __future__ import annotations

from pathlib import Path

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Quick, and between them through every room that differs by Python's version: types, options, files, the server.
QUICK = ("tests/base", "tests/cli/test_options.py", "tests/metrics", "tests/triggers", "tests/view", "tests/weights")
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["smoke", "tests"]


def _install_wheel(session: nox.Session, *extras: str) -> None:
    """Build the wheel and install it, so that what is tested is what is shipped and not this folder."""
    folder = Path(session.create_tmp())
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), silent=True)
    wheel = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    named = f"[{','.join(extras)}]" if extras else ""
    session.install("-c", "constraints.txt", f"{wheel}{named}")


@nox.session(python=PYTHONS)
def smoke(session: nox.Session) -> None:
    """Install the wheel alone, and measure the embedded model."""
    _install_wheel(session)
    session.chdir(session.create_tmp())
    session.run("unbackdoor", "--version")
    session.run("unbackdoor", "--help", silent=True)
    session.run("unbackdoor", "evaluate", "--model", "embedded", "--data", "embedded:digits", "--json")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Install the wheel with what the tests need, and run the quick ones, or others: `nox -s tests -- tests/scan`."""
    _install_wheel(session, "test")
    session.run("python", "-m", "pytest", *(session.posargs or QUICK), env={"OMP_NUM_THREADS": "1"})
