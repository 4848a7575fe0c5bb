"""The benchmark scripts, on sizes so small that the figures mean nothing."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def script(name, *arguments):
    done = subprocess.run(
        [str(a) for a in (sys.executable, BENCHMARKS / f"{name}.py", *arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run every script once and return the folder of what they wrote."""
    folder = tmp_path_factory.mktemp("results")
    small = ["--values", "20000", "--runs", "1"]
    size = [*small, "--passes", "2", "--clients", "3"]
    script("core", *size, "--output", folder / "core.json")
    profiled = ["--values", "200000", "--runs", "100"]
    script("shares", *profiled, "--output", folder / "shares.json")
    models = ["--runs", "1", "--largest", "80000"]
    script("models", *models, "--output", folder / "models.json")
    billion = ["--values", "300000", "--folder", folder]
    script("billion", *billion, "--output", folder / "billion.json")
    few = ["--measurements", "64"]
    script("secrets_timing", *few, "--output", folder / "timing.json")
    return folder


def read(folder, name):
    result = json.loads((folder / f"{name}.json").read_text())
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["go"].startswith("go1.")
    return result


def test_core_has_every_row(results):
    core = read(results, "core")
    for row in core["rows"]:
        assert row["what"] in {"encrypt", "fold", "decrypt"}
        assert row["values_per_second"] == np.median(row["runs"]) > 0
        assert row["bytes_per_value"] > 0
        assert row["threads"] >= 1
    systems = {r["system"] for r in core["rows"]} | {
        m["system"] for m in core["missing"]
    }
    assert systems == {"cryptflow", "cryptflow.hazmat", "numpy", "tenseal", "openfhe"}
    assert all(m["reason"] for m in core["missing"])
    first = core["rows"][0]
    assert (first["parameters"], first["threads"]) == ("n4096-q102 sum-key b=16", 1)
    assert all(r["precise"] for r in core["rows"] if r["system"] == "tenseal")


def test_models_are_those_of_the_table(results):
    models = read(results, "models")
    assert [r["parameters"] for r in models["rows"] if r["threads"] == 1] == [
        101,
        5609,
        79510,
    ]
    for row in models["rows"]:
        assert row["total_seconds"] == pytest.approx(sum(row["seconds"].values()))
        theirs = row["published"]["bytes"]
        assert 0 < row["bytes"] < (theirs or 400e3)


def test_a_mapped_update_streams_and_uploads(results):
    billion = read(results, "billion")
    assert 0 < billion["stream"]["largest_error"] <= billion["stream"]["bound"]
    for run in ("stream", "upload"):
        assert 0 < billion[run]["memory"]["peak_bytes"] <= billion["limit_bytes"]


def test_rounds_say_who_is_missing(tmp_path):
    nobody = ["--flower-python", "/nowhere", "--nvflare-python", "/nowhere"]
    size = ["--sizes", "1.66M", "--clients", "4", "--runs", "1"]
    out = script("round", *size, *nobody, "--output", tmp_path / "round.json")
    found = read(tmp_path, "round")
    assert [r["system"] for r in found["rows"]] == ["numpy over TCP"] + 2 * [
        "cryptflow"
    ]
    for row in found["rows"]:
        assert row["seconds"] == np.median(row["runs"]) > 0
        assert row["bytes_up"] > 0
        assert row["system"] in out
    assert {m["system"] for m in found["missing"]} == {
        "Flower FedAvg",
        "NVIDIA FLARE HE",
    }


def test_shares_add_up(results):
    for part in read(results, "shares")["shares"].values():
        assert sum(part.values()) == pytest.approx(1)


def test_secrets_are_timed_twice(results):
    rows = read(results, "timing")["rows"]
    assert {r["package"] for r in rows} == {"ckks", "encoding", "tag"}
    assert {"sampler", "secret made ready for products"} <= {r["what"] for r in rows}
    for row in rows:
        assert row["measurements"] == 64
        assert min(row["t"], row["t_again"]) >= 0
        assert (row["verdict"] == "no difference found") == (
            max(row["t"], row["t_again"]) < 4.5
        )


def test_page_holds_what_was_measured(results, tmp_path):
    pytest.importorskip("matplotlib")
    script("page", "--results", results, "--docs", tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    core = read(results, "core")
    for row in core["rows"]:
        assert row["parameters"] in page
    for gap in core["missing"]:
        assert f"{gap['system']}: not measured" in page
    for word in ("BERT", "RssAnon", "SHA-256", "dudect"):
        assert (word in page) is (word != "BERT")
    for picture in ("speed", "bytes", "shares"):
        assert (tmp_path / "benchmarks" / f"{picture}.png").stat().st_size > 1000
        assert f"benchmarks/{picture}.png" in page


def test_samples_are_sorted_by_the_function(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    shares = importlib.import_module("shares")
    top = """Showing nodes
      flat  flat%   sum%        cum   cum%
     300ms 30.00% 30.00%      300ms 30.00%  crypto/internal/fips140/aes/gcm.gcmAesEnc
        1s 70.00%   100%         1s 70.00%  cryptflow/go/kernel.inverseFirst
     700ms 70.00%   100%         1s 70.00%  cryptflow/go/frame.pack51 (inline)
         0     0%   100%         1s 70.00%  main.main
"""
    found = shares.shares(top)
    assert found == pytest.approx({"transform": 0.5, "packing": 0.35, "AES-CTR": 0.15})
    assert list(found) == ["transform", "packing", "AES-CTR"]
