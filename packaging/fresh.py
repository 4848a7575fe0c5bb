"""Try a wheel in a fresh environment of an interpreter: import, a round, the command.

Usage: ``python packaging/fresh.py WHEEL [PYTHON …]``; each interpreter that the
wheel is for is tried, in a virtual environment that is removed afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROUND = """
import threading
import numpy as np
import cryptflow

def client(cluster, number, means):
    with cluster.connect(number, "smoke") as c:
        update = np.full(1000, float(number), np.float32)
        means[number], report = c.average(update, num_examples=1)
        assert abs(means[number] - 1).max() <= report.stated_bound + 1e-6

with cryptflow.LocalCluster(clients=3) as cluster:
    cluster.create_task("smoke", {"w": np.zeros(1000, np.float32)}, rounds=1)
    means = {}
    threads = [
        threading.Thread(target=client, args=(cluster, i, means)) for i in range(3)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(means) == 3 and np.array_equal(means[0], means[2])
"""


def attempt(wheel: Path, python: str) -> str:
    """Install the wheel for one interpreter and use it; return its version.

    No compiler and no Go are on PATH, and the checkout is not the folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        env = {"PATH": f"{folder}/bin", "HOME": folder}
        env |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}

        def run(*command: str) -> str:
            return subprocess.run(
                command, check=True, cwd=folder, env=env, stdout=subprocess.PIPE,
                text=True, timeout=600,
            ).stdout  # fmt: skip

        mine = f"{folder}/bin/python"
        run(mine, "-m", "pip", "install", "-q", "--only-binary=:all:", str(wheel))
        run(mine, "-m", "pip", "check")
        run(mine, "-c", ROUND)
        said = run(f"{folder}/bin/cryptflow", "--version")
        if said != run(mine, "-m", "cryptflow", "--version"):
            raise SystemExit(f"{python}: two commands of different versions")
        return run(mine, "--version").strip()


if __name__ == "__main__":
    wheel = Path(sys.argv[1]).resolve()
    for python in sys.argv[2:] or [sys.executable]:
        print(f"{wheel.name}: {attempt(wheel, python)} imports it and averages")
