"""The demo's data, checks and report; its rounds run in `make demo`."""

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from cryptflow.torch import ModuleWeights

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
NAMES = ("check", "digits", "plain", "report", "run")


@pytest.fixture(scope="module")
def demo():
    """Return the demo's modules, which import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        found = {name: importlib.import_module(name) for name in NAMES}
        assert all(Path(m.__file__).parent == DEMO for m in found.values())
        yield types.SimpleNamespace(**found)
        for name in NAMES:
            del sys.modules[name]


@pytest.mark.parametrize("clients", [2, 5, 16, 64])
def test_split_deals_every_example_once(demo, clients):
    _, labels, _, _ = demo.digits.images(3)
    parts = demo.digits.split(labels, clients, 3)
    assert len(parts) == clients
    dealt = np.sort(np.concatenate(parts))
    np.testing.assert_array_equal(dealt, np.arange(len(labels)))


def test_split_follows_from_the_seed_and_leaves_nobody_short(demo):
    _, labels, _, _ = demo.digits.images(3)
    first, again = (demo.digits.split(labels, 5, 3) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other = demo.digits.split(labels, 5, 4)
    assert [len(p) for p in first] != [len(p) for p in other]
    assert min(map(len, first)) >= 40


def test_split_is_uneven_by_label(demo):
    _, labels, _, _ = demo.digits.images(7)
    shares = np.array(
        [
            np.bincount(labels[part], minlength=10) / len(part)
            for part in demo.digits.split(labels, 5, 7)
        ]
    )
    overall = np.bincount(labels, minlength=10) / len(labels)
    # Half the summed difference of two distributions: 0 alike, 1 disjoint.
    distance = np.abs(shares - overall).sum(axis=1) / 2
    assert distance.mean() > 0.2


def test_test_images_are_trained_on_by_nobody(demo):
    train, _, test, labels = demo.digits.images(1)
    assert (train.min(), train.max()) == (0, 1)
    assert set(labels) == set(range(10))
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in test)


def test_network_is_large_enough_and_follows_from_the_seed(demo):
    before = torch.random.get_rng_state()
    models = [demo.digits.network(seed) for seed in (5, 5, 6)]
    assert torch.equal(before, torch.random.get_rng_state())
    sizes, flat = [], []
    for model in models:
        weights = ModuleWeights(model)
        flat.append(np.empty(sum(t.count for t in weights.layout), np.float32))
        weights.read(flat[-1])
        sizes.append(flat[-1].size)
    assert min(sizes) >= 100_000
    np.testing.assert_array_equal(flat[0], flat[1])
    assert not np.array_equal(flat[0], flat[2])


def test_plaintext_run_learns_and_repeats(demo):
    x, y, test_x, test_y = demo.digits.images(1)
    shards = [(x[p], y[p]) for p in demo.digits.split(y, 3, 1)]
    cohorts = [[0, 1, 2], [0, 1], [0, 1, 2]]
    first, again = (
        demo.plain.run(shards, (test_x, test_y), cohorts, 1) for _ in range(2)
    )
    assert first == again
    assert len(first) == 3
    # Guessing gets a tenth.
    assert first[-1] > 0.5


def test_search_finds_an_update_wherever_it_lies(demo, tmp_path, rng):
    update = rng.normal(size=5000).astype(np.float32)
    pieces = demo.check.windows(update)
    assert len(pieces) >= 8
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "other").write_bytes(rng.bytes(40_000))
    assert demo.check.holds(tmp_path, pieces) == []
    (deep / "part").write_bytes(b"\1" * 13 + update[:2500].tobytes())
    assert demo.check.holds(tmp_path, pieces) == [deep / "part"]


def test_search_looks_for_no_zeros(demo):
    update = np.zeros(4000, np.float32)
    update[2000:] = np.linspace(1, 2, 2000)
    assert all(any(piece) for piece in demo.check.windows(update))


def test_copies_of_contributions_outlive_the_originals(demo, tmp_path, rng):
    source = tmp_path / "aggregator"
    disk = demo.check.Disk(source, tmp_path / "copies")
    held = source / "data" / "segments" / "blobs" / "contributions" / "round"
    held.mkdir(parents=True)
    content = demo.check.MAGIC + rng.bytes(1000)
    (held / "0").write_bytes(content)
    disk.look()
    (held / "0").unlink()
    held.rmdir()
    disk.look()
    counted = disk.stop()
    assert counted["files"] == 1
    assert counted["frames"] >= 1
    assert [p.read_bytes() for p in disk.folder.iterdir()] == [content]


def test_error_is_measured_against_the_weighted_mean(demo, rng):
    updates = [rng.normal(size=999).astype(np.float32) for _ in range(3)]
    weights = [3, 50, 7]
    exact = np.average(np.array(updates, np.float64), axis=0, weights=weights)
    error, rounding = demo.check.mean_error(updates, weights, np.float32(exact))
    assert 0 < error <= rounding
    error, rounding = demo.check.mean_error(updates, weights, np.float32(exact + 0.01))
    assert error > 0.009 + rounding


def test_error_allows_for_values_that_were_clipped(demo):
    updates = [np.array([3, 0.25], np.float32), np.array([1, -3], np.float32)]
    mean = np.array([0.75, -0.125], np.float32)
    assert demo.check.mean_error(updates, [1, 1], mean, 0.5)[0] == 0.25
    mean = np.array([0.5, -0.125], np.float32)
    assert demo.check.mean_error(updates, [1, 1], mean, 0.5)[0] == 0


@pytest.fixture
def finished(demo, tmp_path, rng):
    """Return a function that concludes a run of one round, off by so much."""

    def conclude(off=0.0, found=()):
        x, y, test_x, test_y = demo.digits.images(1)
        shards = [(x[i * 50 : i * 50 + 50], y[i * 50 : i * 50 + 50]) for i in (0, 1)]
        updates = [rng.uniform(-0.4, 0.4, 100).astype(np.float32) for _ in shards]
        mean = np.float32(np.mean(np.array(updates, np.float64), axis=0) + off)
        said = {}
        for client, update in enumerate(updates):
            folder = tmp_path / "work" / str(client)
            folder.mkdir(parents=True)
            np.save(folder / "update-0.npy", update)
            np.save(folder / "mean-0.npy", mean)
            said[client] = {
                "cohort": [0, 1],
                "seconds": dict.fromkeys(demo.report.PHASES, 0.25),
                "bytes_up": 260,
                "bytes_down": 300,
                "clipped": 0,
                "result": "ab" * 32,
                "bound": 1e-3,
                "preset": "a preset",
                "weight": 50,
                "accuracy": 0.5,
            }
        args = types.SimpleNamespace(
            clients=2, rounds=1, mode="sum-key", bits=16, seed=1, out=tmp_path
        )
        audit = {"checkpoint": "origin\n13\nroot=\n", "entries": 13}
        disk = {"files": 2, "bytes": 520, "frames": 2, "pieces_searched": 40}
        disk["found_in"] = list(found)
        status = demo.run.conclude(
            args, 100, shards, (test_x, test_y), [said], audit, disk
        )
        return status, json.loads((tmp_path / "report.json").read_text())

    return conclude


def test_report_has_what_readers_look_for(finished, tmp_path, capsys):
    status, report = finished()
    assert status == 0
    assert report.keys() >= {
        "clients",
        "rounds",
        "mode",
        "parameters",
        "accuracy_encrypted",
        "accuracy_plaintext",
        "max_abs_mean_error",
        "stated_bound",
        "wire_bytes_per_value_up",
        "wire_bytes_per_value_down",
        "seconds",
        "result_digests",
        "audit_checkpoint",
        "machine",
        "versions",
    }
    assert report["wire_bytes_per_value_up"] == 2.6
    assert report["wire_bytes_per_value_down"] == 3
    assert len(report["accuracy_plaintext"]) == 1
    assert report["seconds"]["wait"] == 0.5
    assert 0 < report["max_abs_mean_error"] < report["stated_bound"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "work").exists(), "updates in the clear were left behind"
    assert "none found" in capsys.readouterr().out


def test_a_mean_beyond_its_bound_fails_the_run(finished, capsys):
    status, report = finished(off=2e-3)
    assert status == 1
    assert report["max_abs_mean_error"] > report["stated_bound"]
    assert "than the stated bound" in capsys.readouterr().err


def test_an_update_on_the_disk_fails_the_run(finished, capsys):
    status, report = finished(found=["contributions/0"])
    assert status == 1
    assert report["aggregator_disk"]["found_in"] == ["contributions/0"]
    assert "FOUND" in capsys.readouterr().out


def test_table_lines_up(demo):
    lines = demo.report.table(["a", "long"], [["1", "2"], ["333", "44444"]]).split("\n")
    assert len({len(line) for line in lines}) == 1
