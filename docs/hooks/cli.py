"""Write docs/reference/cli.md from what the command says of itself.

Usage: ``python docs/hooks/cli.py [--check]``; the package is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cryptflow.__main__ import find

PAGE = Path(__file__).resolve().parents[1] / "reference" / "cli.md"
_COMMANDS = re.compile(r"^Available Commands:\n((?:  \S.*\n)+)", re.M)


def text(*words: str) -> str:
    """Return the help of one command."""
    said = subprocess.run(
        [find(), *words, "--help"], check=True, capture_output=True, text=True
    )
    return said.stdout.rstrip() + "\n"


def sections(*words: str) -> list[str]:
    """Return the section of a command and those of its own commands."""
    said = text(*words)
    name = " ".join(("cryptflow", *words))
    out = [f"{'#' * (2 if words else 1)} {name}\n\n```text\n{said}```\n"]
    listed = _COMMANDS.search(said)
    for line in listed[1].splitlines() if listed else []:
        below = line.split()[0]
        if below not in ("help", "completion"):
            out += sections(*words, below)
    return out


def page() -> str:
    """Return the whole page."""
    first, *rest = sections()
    first = first.replace("# cryptflow", "# Command line", 1)
    return "\n".join([first, *rest])


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text() != page() and "docs/reference/cli.md is not current")
    PAGE.write_text(page())
