"""What an installation is: light to import, a command that says what it does."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import cryptflow
from cryptflow.__main__ import find

FRAMEWORKS = {"torch", "tensorflow", "keras", "lightning", "transformers", "flwr"}


def modules(statement):
    """Return the modules that a fresh interpreter has after a statement."""
    program = f"import sys; {statement}; print(*sys.modules)"
    # -S: what .pth files of other packages import is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    """Under 50 ms: nothing but the errors, and less than logging."""
    there = modules("import cryptflow; cryptflow.errors.InputError")
    heavy = {"numpy", "pyarrow", "cryptflow_py", "json", "importlib.metadata"}
    assert not there & (heavy | FRAMEWORKS)
    assert {m for m in there if m.startswith("cryptflow")} == {
        "cryptflow",
        "cryptflow.errors",
    }
    assert len(there - modules("import logging")) < 15


def test_warnings_reach_programs_that_configure_no_logging():
    """A round that is tried again, or not averaged, must not pass in silence."""
    program = """import logging, cryptflow.client
cryptflow.client._log.warning("round 3 was aborted")"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.strip() == "round 3 was aborted"


def test_using_the_package_imports_no_framework():
    there = modules("import cryptflow; cryptflow.connect, cryptflow.LocalCluster")
    assert "numpy" in there and not there & FRAMEWORKS


def test_the_version_is_the_package_s():
    assert cryptflow.__version__ == version("cryptflow")
    said = subprocess.run(
        [sys.executable, "-m", "cryptflow", "--version"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert said.stdout == f"cryptflow version {version('cryptflow')}\n"


def test_the_page_lists_every_extra():
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "install.md"
    told = re.findall(r"^\| `(\w+)` \|", page.read_text(), re.M)
    assert set(told) == set(metadata("cryptflow").get_all("Provides-Extra"))


def commands(*words):
    """Yield every command, from its parent's help."""
    said = subprocess.run(
        [find(), *words, "--help"], capture_output=True, text=True, check=True
    ).stdout
    yield words, said
    listed = re.search(r"^Available Commands:\n((?:  \S.*\n)+)", said, re.M)
    for line in listed[1].splitlines() if listed else ():
        if line.split()[0] != "help":
            yield from commands(*words, line.split()[0])


def test_help_can_be_read():
    """Every command says what it does; lines fit, and name no other program."""
    found = dict(commands())
    assert len(found) > 20
    for words, said in found.items():
        first = said.splitlines()[0]
        assert len(first) > 10 and first[0].isupper(), words
        assert f"cryptflow {' '.join(words)}".strip() in said
        assert max(map(len, said.splitlines())) <= 100, words


class Terminal:
    """A bash in a terminal, to which one types."""

    def __init__(self, folder):
        self.here, there = pty.openpty()
        path = f"{os.path.dirname(find())}{os.pathsep}{os.environ['PATH']}"
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=there, stdout=there, stderr=there, start_new_session=True, cwd=folder,
            env={"PATH": path, "TERM": "dumb", "HOME": str(folder), "PS1": "$ "},
        )  # fmt: skip
        os.close(there)

    def type(self, keys, until):
        """Type keys; return what the terminal shows up to a pattern."""
        os.write(self.here, keys.encode())
        shown, end = "", time.monotonic() + 30
        while not re.search(until, shown):
            ready, _, _ = select.select([self.here], [], [], end - time.monotonic())
            assert ready, f"nothing like {until!r} after {keys!r}: {shown!r}"
            shown += os.read(self.here, 4096).decode()
        return shown

    def close(self):
        self.shell.kill()
        self.shell.wait()
        os.close(self.here)


@pytest.fixture
def terminal(tmp_path):
    shell = Terminal(tmp_path)
    yield shell
    shell.close()


def test_bash_completes_commands_and_flags(terminal, tmp_path):
    """With the tab key, on a machine that has nothing but bash."""
    (tmp_path / "exported").mkdir()
    terminal.type("source <(cryptflow completion bash); echo re''ady\n", "ready")
    terminal.type("cryptflow aud\t", "cryptflow audit ")
    terminal.type("ver\t", "verify ")
    terminal.type("exp\t", "exported/")
    terminal.type(" --sh\t", "--show")
    terminal.type("\x15cryptflow task \t\t", r"(?s)abort.+create.+watch")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_theirs(shell):
    said = subprocess.run(
        [find(), "completion", shell], capture_output=True, text=True, check=True
    ).stdout
    assert {"zsh": "#compdef cryptflow", "fish": "complete -c cryptflow"}[shell] in said
    answer = subprocess.run(
        [find(), "__complete", "task", ""], capture_output=True, text=True, check=True
    ).stdout
    assert answer.splitlines()[-1] == ":4" and "abort\t" in answer
