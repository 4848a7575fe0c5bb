"""The boundary between Python and Go: loading, forking, panics, memory."""

import multiprocessing
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cryptflow_py
from cryptflow import errors, hazmat
from cryptflow._native import call


def script(text, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=600,
        cwd="/",
        check=False,
        **kwargs,
    )


def test_import_loads_no_native_code():
    done = script(
        "import sys, cryptflow, cryptflow.hazmat\n"
        "print(any('_native' in m and 'cryptflow_py' in m for m in sys.modules))"
    )
    assert done.stdout.strip() == "False", done.stderr


def test_a_thread_that_comes_while_another_loads_the_library_waits():
    """The import system names the submodule before `load` is through with it."""
    done = script(
        """
import threading, cryptflow_py
arrived, said = threading.Event(), []
class Lock:
    def __init__(self): self.lock = threading.Lock()
    def __enter__(self):
        if threading.current_thread() is second: arrived.set()
        self.lock.acquire()
    def __exit__(self, *_): self.lock.release()
def come():
    try: said.append(cryptflow_py.load().__name__)
    except Exception as error: said.append(repr(error))
    arrived.set()
second = threading.Thread(target=come)
cryptflow_py._lock = Lock()
real = cryptflow_py.importlib.import_module
def slowly(*args):
    module = real(*args)
    second.start()
    arrived.wait()
    return module
cryptflow_py.importlib.import_module = slowly
cryptflow_py.load()
second.join()
print(*said)
"""
    )
    assert done.stdout.strip() == "cryptflow_py._native", done.stdout + done.stderr


def test_every_code_has_a_class():
    ours = set(call("ErrorCodes").split())
    assert ours == set(errors.CODES) - {"CF_FORK", "CF_PLAINTEXT", "CF_UNKNOWN"}


@pytest.mark.parametrize("code", sorted(errors.CODES))
def test_exceptions_survive_pickling(code):
    error = errors.from_code(code, "some words")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.CODES[code]
    assert (str(again), again.code) == ("some words", code)


def test_codes_of_errors_that_python_raises():
    assert errors.InputError("x").code == "CF_ARGUMENT"
    assert errors.LayoutError("x").code == "CF_LAYOUT_MISMATCH"
    package = Path(errors.__file__).parent
    text = "".join(f.read_text() for f in package.rglob("*.py"))
    used = set(re.findall(r'from_code\(\s*"(\w+)"', text))
    assert {"CF_PLAINTEXT", "CF_WEIGHT"} <= used <= set(errors.CODES)


def test_panic_is_an_exception_and_poisons():
    done = script(
        "from cryptflow import errors\n"
        "from cryptflow._native import call\n"
        "for _ in range(2):\n"
        "    try: call('DebugPanic')\n"
        "    except errors.InternalError as e: print(e.code)\n"
    )
    assert done.stdout.split() == ["CF_PANIC", "CF_POISONED"], done.stderr
    assert done.returncode == 0


FORKED = """
import os, numpy as np
from cryptflow import errors, hazmat
r = hazmat.Round(10, clients=2)
pid = os.fork()
if pid == 0:
    try:
        r.new_key()
    except errors.InternalError as e:
        os._exit(7 if e.code == "CF_FORK" and "spawn" in str(e) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_forked_child_is_told_what_to_do():
    done = script(FORKED)
    assert done.stdout.strip() == "7", done.stderr


def test_fork_before_first_use_is_fine():
    done = script(
        "import os, cryptflow.hazmat as h\n"
        "pid = os.fork()\n"
        "if pid == 0: h.Round(10, clients=2); os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert done.stdout.strip() == "0", done.stderr


def work(seed):
    r = hazmat.Round(10, clients=2, digest="ab" * 32)
    frames = r.encrypt(r.new_key(), np.zeros(10, np.float32))
    return len(frames) + seed


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(work, [0, 1]) == [2, 3]


def test_a_closed_handle_is_an_error():
    with pytest.raises(errors.InputError) as caught:
        call("RoundInfo", 10**9)
    assert caught.value.code == "CF_BAD_HANDLE"


@pytest.mark.parametrize("address", [0, 4, 12])
def test_bad_addresses_are_refused(address):
    r = hazmat.Round(10, clients=2)
    key = r.new_key()
    with pytest.raises(errors.InputError) as caught:
        call(
            "SealerNew",
            r._handle.number,
            key._handle.number,
            1,
            1,
            address,
            address,
        )
    assert caught.value.code == "CF_ARROW"


def test_no_exported_memory_stays_behind():
    r = hazmat.Round(50_000, clients=2)
    before = call("Allocated")
    keys = [r.new_key() for _ in range(2)]
    frames = [r.encrypt(k, np.zeros(50_000, np.float32)) for k in keys]
    total = r.aggregate(frames)
    mean = r.decrypt(r.release(keys), total)
    assert call("Allocated") >= before
    del frames, total, mean
    assert call("Allocated") == before


def test_bad_thread_count(monkeypatch):
    r = hazmat.Round(10, clients=2)
    monkeypatch.setenv("CRYPTFLOW_NUM_THREADS", "many")
    with pytest.raises(errors.InputError, match="CRYPTFLOW_NUM_THREADS"):
        r.encrypt(r.new_key(), np.zeros(10, np.float32))


def test_bytes_do_not_depend_on_threads(monkeypatch):
    r = hazmat.Round(100_000, clients=2)
    key = r.new_key()
    update = np.linspace(-1, 1, 100_000, dtype=np.float32)
    monkeypatch.setenv("CRYPTFLOW_NUM_THREADS", "1")
    one = r.encrypt(key, update)
    monkeypatch.setenv("CRYPTFLOW_NUM_THREADS", "3")
    assert one.equals(r.encrypt(key, update))


def test_abi_names_the_version():
    import cryptflow

    assert cryptflow_py.call("ABIVersion").split() == [
        "cryptflow-abi-1",
        cryptflow.__version__,
    ]


def test_command_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "cryptflow", "--version"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    import cryptflow

    assert cryptflow.__version__ in done.stdout


def test_every_code_is_documented():
    text = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text()
    documented = dict(re.findall(r"\| `(CF_\w+)`\s*\| `(\w+)`", text))
    assert documented == {
        code: kind.__name__
        for code, kind in errors.CODES.items()
        if code != "CF_UNKNOWN"
    }
