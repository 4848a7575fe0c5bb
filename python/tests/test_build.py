"""What setup.py says when a tool is missing: one sentence, at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ONLY = """
import runpy, sys, types, setuptools
setuptools.setup = lambda **kwargs: None
module = runpy.run_path("setup.py")
module["{function}"]()
print("passed")
"""


def check(function, path, **env):
    return subprocess.run(
        [sys.executable, "-c", ONLY.format(function=function)],
        cwd=ROOT,
        env={**os.environ, "PATH": str(path), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_go(folder, version):
    go = folder / "go"
    go.write_text(f"#!/bin/sh\necho {version}\n")
    go.chmod(0o755)
    return folder


@pytest.mark.parametrize("version", ["go1.26", "go1.26.8", "go1.30rc1", "go2.0"])
def test_new_enough_go(tmp_path, version):
    assert check("require_go", fake_go(tmp_path, version)).stdout == "passed\n"


@pytest.mark.parametrize("version", ["go1.25.9", "go1.9", "devel"])
def test_old_go_is_named(tmp_path, version):
    done = check("require_go", fake_go(tmp_path, version))
    assert done.returncode != 0
    assert "needs Go 1.26 or newer" in done.stderr and version in done.stderr


def test_missing_go(tmp_path):
    done = check("require_go", tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip().count("\n") == 0
    assert "needs Go 1.26 or newer on PATH: install it" in done.stderr


def test_missing_compiler(tmp_path):
    done = check("require_c", tmp_path, CC="no-such-cc")
    assert done.returncode != 0
    assert done.stderr.strip().count("\n") == 0
    assert "needs the C compiler no-such-cc" in done.stderr
