"""The parameter study runs, and its page says what its results say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "study"


@pytest.fixture
def study(monkeypatch):
    """Return a function that imports a module of the study."""
    monkeypatch.syspath_prepend(str(STUDY))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, STUDY / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_kind_of_point_averages(study, rng):
    systems = study("systems")
    given = [rng.normal(0, 0.1, 700).astype(np.float32) for _ in range(3)]
    weights, shapes = [5, 700, 1000], {"a": 300, "b": 400}
    want = systems.weighted(given, weights)
    seen = set()
    for point in [*systems.ours((8, 16), 3), systems.Plain(), systems.SecAgg()]:
        got = point.mean(given, weights, shapes)
        close = {8: 2e-2, 16: 1e-4}.get(point.about.get("bits"), 1e-4)
        if point.about.get("mode") == "shared-key":
            close += 3e-3  # weights to 1/255
        assert np.abs(got - want).max() < close, point.name
        seen.add((point.about.get("mode"), point.about.get("encoding")))
    assert len(seen) == 7


def test_weights_of_shared_key_are_what_it_averages_with(study, rng):
    systems = study("systems")
    given = [rng.normal(0, 0.1, 50).astype(np.float32) for _ in range(3)]
    want = systems.Rounded().mean(given, [5, 700, 1000], {"a": 50})
    got = np.average(given, axis=0, weights=[1, 178, 255])
    assert np.abs(got - want).max() < 1e-6
    point = systems.Ours("shared-key", "n4096-q102", "lanes", 24, 3)
    assert np.abs(point.mean(given, [5, 700, 1000], {"a": 50}) - want).max() < 1e-6


def test_a_federation_learns(study):
    problems = study("problems")
    study("systems")
    main = study("run")
    p = problems.problem("breast-cancer", 3, 0)
    systems = sys.modules["systems"]
    point = systems.Ours("sum-key", "n2048-q52", "lanes", 12, 3)
    plain = main.federate(p, systems.Plain(), 0, 3)
    assert plain > 0.85
    assert abs(main.federate(p, point, 0, 3) - plain) < 0.05


@pytest.mark.parametrize("clients", [3, 8, 24])
@pytest.mark.parametrize("name", ["digits", "breast-cancer"])
def test_every_split_deals_every_example_once(study, name, clients):
    problems = study("problems")
    whole = {}
    for split in problems.SPLITS:
        for seed in range(3):
            p = problems.problem(name, clients, seed, split)
            sizes = [len(y) for _, y in p.shards]
            assert p.split == split and len(sizes) == clients and min(sizes) >= 2
            dealt = np.concatenate([x for x, _ in p.shards])
            dealt = dealt[np.lexsort(dealt.T)]
            assert np.array_equal(whole.setdefault(seed, dealt), dealt)


def test_a_split_by_label_leaves_clients_few_classes(study):
    problems = study("problems")
    for seed in range(5):
        p = problems.problem("digits", 8, seed, "labels")
        assert {len(set(y)) for _, y in p.shards} <= {2, 3}
        p = problems.problem("breast-cancer", 8, seed, "labels")
        assert sorted(len(set(y)) for _, y in p.shards)[:7] == [1] * 7


def test_uneven_sizes_follow_the_power_law(study):
    problems = study("problems")
    for clients in (3, 8, 24):
        p = problems.problem("digits", clients, 0, "sizes")
        sizes = np.array([len(y) for _, y in p.shards])
        law = np.arange(1, clients + 1) ** -problems.POWER
        want = 2 + (sizes.sum() - 2 * clients) * law / law.sum()
        assert np.abs(sizes - want).max() <= 1
        largest = p.shards[0][1]
        shares = np.bincount(largest, minlength=10) / len(largest)
        assert np.abs(shares - 0.1).max() < 0.05


def test_every_split_is_studied_and_the_first_one_whole(study):
    study("problems")
    study("systems")
    main = study("run")
    found = main.federations(main.FULL)
    assert len(set(found)) == len(found) == 2 * (3 + 2)
    for name in main.LOADERS:
        assert {c for n, c, s in found if n == name and s == "dirichlet"} == {3, 8, 24}
        assert {s for n, c, s in found if n == name and c == 8} == set(main.SPLITS)
    lanes = {(m, b) for m in ("sum-key", "shared-key") for b in main.FULL["bits"]}
    for split in main.SPLITS:
        about = [p.about for p in main.points(main.FULL, 8, split)]
        tried = {(a["mode"], a["bits"]) for a in about if a.get("encoding") == "lanes"}
        assert tried == lanes
        kinds = [a["kind"] for a in about]
        assert kinds.count("peer") == 3 and kinds.count("weights") == 1


def test_the_page_is_that_of_the_results(study):
    page = study("page")
    results = json.loads(page.RESULT.read_text())
    s = page.Study(results)
    assert page.PAGE.read_text() == page.page(s)
    for name in ("pareto", "bits", "bytes", *["splits"][: len(s.splits) - 1]):
        assert (page.PICTURES / f"{name}.png").stat().st_size > 10_000


def test_the_page_compares_the_splits_of_its_results(study):
    page, problems = study("page"), study("problems")
    results = json.loads(page.RESULT.read_text())
    base = [
        {k: v for k, v in r.items() if k != "split"}
        for r in results["accuracy"]
        if r.get("split", "dirichlet") == "dirichlet"
    ]
    shift = {"dirichlet": 0.0, "labels": -0.25, "sizes": 0.5}
    results["accuracy"] = [
        r | {"split": k, "difference": [d] * 5} for k, d in shift.items() for r in base
    ]
    results["setting"]["splits"] = list(problems.SPLITS)
    results["spread"] = [
        {"problem": p, "clients": 8, "split": k, "examples": [2, 9], "classes": [1, 3]}
        for p in results["setting"]["problems"]
        for k in problems.SPLITS
    ]
    text = page.page(page.Study(results))
    row = next(t for t in text.split("## Kinds of split")[1].splitlines()
               if t.startswith("| sum-key") and "| 16 " in t)  # fmt: skip
    found = [float(c.split()[0].replace("\u2212", "-")) for c in row.split("|")[3:6]]
    assert found == [0, -25, 50]
    assert "2 to 9" in text and "study/splits.png" in text
    # A split that loses with every number of bits leaves no number enough.
    assert page.Study(results).enough() == max(results["setting"]["bits"])


def test_rounded_weights_are_not_put_down_to_bits(study):
    page = study("page")
    raw = json.loads(page.RESULT.read_text())
    raw["accuracy"] = [r for r in raw["accuracy"] if r["kind"] != "weights"]
    raw["setting"]["splits"] = ["sizes"]
    for r in raw["accuracy"]:
        r["split"] = "sizes"
        r["difference"] = [-0.25 * (r.get("mode") == "shared-key")] * 5
    assert page.Study(raw).enough() == max(raw["setting"]["bits"])
    raw["accuracy"] += [
        {"kind": "weights", "system": "rounded", "problem": p, "clients": c,
         "split": "sizes", "difference": [-0.25] * 5}
        for p in raw["setting"]["problems"]
        for c in raw["setting"]["cohorts"]
    ]  # fmt: skip
    assert page.Study(raw).enough() == min(raw["setting"]["bits"])
