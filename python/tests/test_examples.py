"""The demo and the example for users, run as they are; the command line."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cryptflow
from cryptflow.__main__ import find

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    "lightning_digits",
    "transformers_lora",
    "keras_digits",
    "tensorflow_loop",
    "sklearn_digits",
]


def run(*command, check=True, **env):
    done = subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_demo_survives_a_client_that_vanishes(tmp_path):
    arguments = ["--clients", "4", "--rounds", "3", "--drop", "1", "--out", tmp_path]
    done = run(sys.executable, ROOT / "examples" / "demo" / "run.py", *arguments)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cohorts"] == [4, 3, 3]
    assert "vanished" in done.stdout
    assert 0 < report["max_abs_mean_error"] <= report["stated_bound"]
    assert report["wire_bytes_per_value_up"] < 4
    assert report["accuracy_encrypted"][-1] > 0.6
    gap = np.subtract(report["accuracy_encrypted"], report["accuracy_plaintext"])
    assert np.abs(gap).max() < 0.06
    assert report["aggregator_disk"]["found_in"] == []
    assert report["aggregator_disk"]["frames"] > 0
    assert len(set(report["result_digests"])) == 3
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_for_users(tmp_path, name):
    example = ROOT / "examples" / f"{name}.py"
    assert len(example.read_text().splitlines()) < 75
    with cryptflow.LocalCluster(3, folder=tmp_path) as c:
        run(sys.executable, example, "--create", c.admin_profile)
        running = [
            subprocess.Popen(
                [sys.executable, example, p], stdout=subprocess.PIPE, text=True
            )
            for p in c.profiles
        ]
        said = [p.communicate(timeout=900)[0] for p in running]
        assert [p.returncode for p in running] == [0, 0, 0]
    for text in said:
        assert text.count("round ") == 5 and "accuracy on own data" in text
        assert float(text.rpartition(" ")[2].strip(" %\n")) > 60


def test_the_shell_of_the_quickstart(tmp_path):
    """Its blocks are typed as they are, but that services take any free ports.

    The three clients share one terminal: where Python writes unbuffered, a
    line's end may come after another client's line, so lines are counted by
    their texts.
    """
    assert len((ROOT / "examples/torch_digits.py").read_text().splitlines()) < 75
    page = (ROOT / "docs" / "quickstart.md").read_text()
    serve, train = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    bins = (Path(find()).parent, Path(sys.executable).parent)
    env = {**os.environ, "PATH": os.pathsep.join([*map(str, bins), os.environ["PATH"]])}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    services = subprocess.Popen(
        [*shlex.split(serve), "--port", "0"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("Ctrl-C" in line for line in services.stdout)
        done = subprocess.run(
            ["bash", "-ec", train],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    finally:
        services.send_signal(signal.SIGINT)
        services.communicate(timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"round \d of torch-digits: 3 clients", done.stdout)) == 15, (
        done.stdout
    )
    accuracies = re.findall(r"accuracy on own data ([\d.]+)%", done.stdout)
    assert len(accuracies) == 15 and sum(float(a) > 60 for a in accuracies) >= 3
    assert "ended: all 5 rounds are done" in done.stdout


@pytest.fixture
def cluster(tmp_path):
    with cryptflow.LocalCluster(3, folder=tmp_path / "data") as c:
        yield c


def test_an_operator_s_commands(cluster, tmp_path):
    profile = ["--profile", cluster.admin_profile]
    layout = tmp_path / "layout.json"
    layout.write_text('[{"name": "w", "shape": [3, 2], "range": 0.5}]')
    members = [a for i in range(3) for a in ("--member", f"client-{i}")]
    make = [find(), "task", "create", "x", *profile, "--layout", layout, *members]
    assert "6 values in 1 tensor," in run(*make, "--rounds", "2").stdout
    again = run(*make, check=False)
    assert again.returncode == 1 and "CF_TASK_EXISTS" in again.stderr
    listed = run(find(), "task", "list", *profile).stdout.splitlines()
    assert listed[0].split()[0] == "TASK" and listed[1].split()[0] == "x"
    shown = run(find(), "task", "show", "x", *profile).stdout
    assert "client-0 client-1 client-2" in shown and "sum-key" in shown
    folder = tmp_path / "audit"
    run(find(), "audit", "export", *profile, "--out", folder)
    key = json.loads((folder / "key.json").read_text())["key"]
    assert key in shown
    verified = run(find(), "audit", "verify", folder, "--key", key, "--show").stdout
    assert "started" in verified and "task-created" in verified
    assert "verified: 3 records" in verified
    records = folder / "records.jsonl"
    records.write_text(records.read_text().replace('"x"', '"y"', 1))
    forged = run(find(), "audit", "verify", folder, check=False)
    assert forged.returncode == 1 and "CF_AUDIT" in forged.stderr
    ended = run(find(), "task", "abort", "x", *profile, "--reason", "no more").stdout
    assert "no more" in ended
    watched = run(find(), "task", "watch", "x", *profile).stdout
    assert "ended: no more" in watched
    missing = run(find(), "task", "show", "nothing", *profile, check=False)
    assert missing.returncode == 1 and "CF_NO_TASK" in missing.stderr


def test_the_doctor_names_what_is_wrong(cluster, tmp_path):
    cluster.create_task("x", {"w": np.zeros(4)})
    healthy = run(
        find(), "doctor", "--profile", cluster.profiles[0], CRYPTFLOW_TASK="x"
    )
    assert "✗" not in healthy.stdout and "enrols client-0" in healthy.stdout

    def sick(text, **env):
        done = run(
            find(), "doctor", "--profile", cluster.profiles[0], check=False, **env
        )
        assert done.returncode == 1
        assert "✗" in done.stdout and text in done.stdout, done.stdout

    sick("cannot be reached", CRYPTFLOW_AGGREGATOR="127.0.0.1:1")
    sick("x.crt", CRYPTFLOW_CERTIFICATE=str(tmp_path / "x.crt"))
    sick("no such task", CRYPTFLOW_TASK="nothing")
    sick("not signed by the admin", CRYPTFLOW_TASK="x", CRYPTFLOW_ADMIN_KEY="11" * 32)
    other = tmp_path / "ca"
    run(find(), "ca", "init", "--dir", other)
    sick("not issued by", CRYPTFLOW_AUTHORITY=str(other / "ca.crt"))
    broken = tmp_path / "broken.toml"
    broken.write_text(cluster.profiles[0].read_text().replace("kms =", "kns ="))
    wrong = run(find(), "doctor", "--profile", broken, check=False)
    assert 'did you mean "kms"' in wrong.stdout


def test_up_serves_two_children_and_stops_on_sigterm(tmp_path):
    up = subprocess.Popen(
        [find(), "up", "--clients", "2", "--port", "0", "--data", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in up.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    children = Path(f"/proc/{up.pid}/task/{up.pid}/children")
    assert any("client-1.toml" in line for line in lines)
    pids = " ".join(
        p.read_text() for p in children.parent.parent.glob("*/children")
    ).split()
    assert len(pids) == 2
    up.terminate()
    _, log = up.communicate(timeout=600)
    assert up.returncode == 0 and log.count("msg=stopped") == 2
