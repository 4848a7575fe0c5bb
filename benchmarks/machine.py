"""What machine this is, which versions are measured, and where results go."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, Any]

#: Mean number of running processes in the minute before the measurement, and
#: before make built what is measured.
LOAD = float(os.environ.get("CRYPTFLOW_LOAD") or os.getloadavg()[0])


def go(*arguments: str) -> str:
    """Run a go command in the repository and return what it prints."""
    done = subprocess.run(
        ["go", *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"go {' '.join(arguments)}:\n{done.stderr}")
    return done.stdout.strip()


def corebench(*flags: str) -> Any:
    """Run the Go side of the benchmarks and return what it measured."""
    return json.loads(go("run", "./go/cmd/corebench", *flags))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """Describe processor, memory and system."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": cores(),
        "memory_bytes": memory,
        "system": platform.platform(),
        "load_before": LOAD,
    }


def version(package: str) -> str | None:
    """Return the version of an installed package, None when it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of everything measured; None for what is missing."""
    lattigo = "github.com/tuneinsight/lattigo/v5"
    return {
        "go": go("env", "GOVERSION"),
        "lattigo": go("list", "-m", "-f", "{{.Version}}", lattigo),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def write(path: Path, command: str, result: dict[str, Any], *packages: str) -> None:
    """Write a result with the machine, the time and the command before it."""
    head = {
        "machine": machine(),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(*packages),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head | result, indent=1) + "\n")
    print(f"written: {path}")
