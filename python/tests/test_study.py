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


def test_a_federation_learns(study):
    problems = study("problems")
    study("systems")
    main = study("run")
    p = problems.problem("breast-cancer", 3, 0)
    assert len(p.shards) == 3 and min(len(y) for _, y in p.shards) >= 2
    systems = sys.modules["systems"]
    point = systems.Ours("sum-key", "n2048-q52", "lanes", 12, 3)
    plain = main.federate(p, systems.Plain(), 0, 3)
    assert plain > 0.85
    assert abs(main.federate(p, point, 0, 3) - plain) < 0.05


def test_the_page_is_that_of_the_results(study):
    page = study("page")
    results = json.loads(page.RESULT.read_text())
    assert page.PAGE.read_text() == page.page(page.Study(results))
    for name in ("pareto", "bits", "bytes"):
        assert (page.PICTURES / f"{name}.png").stat().st_size > 10_000
