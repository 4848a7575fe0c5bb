"""Laws that hold for every round, and strings that the boundary must refuse."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cryptflow import errors, hazmat
from cryptflow._native import call

LARGEST = float(np.finfo(np.float32).max)
MODES = st.sampled_from(["sum-key", "shared-key"])
# Denormals, zeros of both signs, the largest and everything between.
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e38, LARGEST, -LARGEST]
)


def keys_of(r, clients):
    if r.info["mode"] == "shared-key":
        return [r.new_key()] * clients
    return [r.new_key() for _ in range(clients)]


def opened(r, keys, frames, weights=None):
    return r.decrypt(r.release(keys, weights), r.aggregate(frames, weights)).to_numpy()


@settings(max_examples=40, deadline=None)
@given(
    updates=st.lists(st.lists(FLOATS, min_size=6, max_size=6), min_size=1, max_size=4),
    huge=st.sampled_from([1.0, 1e30, 1e38, LARGEST]),
    tiny=st.sampled_from([1.0, 1e-30, 1e-38, 1e-44]),
    bits=st.integers(4, 30),
    mode=MODES,
    rounding=st.sampled_from(["stochastic", "nearest"]),
)
@example([[LARGEST] * 6] * 2, LARGEST, 1e-44, 4, "sum-key", "stochastic")
@example([[-LARGEST] * 6] * 2, LARGEST, 1e-44, 30, "shared-key", "stochastic")
@example([[-0.0, 1e-45, -1e-45] * 2], 1.0, 1e-44, 30, "sum-key", "nearest")
def test_hostile_values_open_to_the_clipped_mean(
    updates, huge, tiny, bits, mode, rounding
):
    """One huge layer among tiny ones, at any number of bits."""
    tensors = {"tiny": (2, tiny), "huge": (2, huge), "other": (2, tiny)}
    r = hazmat.Round(
        clients=len(updates),
        tensors=tensors,
        bits=bits,
        mode=mode,
        rounding=rounding,
        preset="n8192-q204",
    )
    given_values = np.asarray(updates, np.float32)
    keys = keys_of(r, len(updates))
    frames = [r.encrypt(k, u) for k, u in zip(keys, given_values, strict=True)]
    public = [1] * len(updates) if mode == "shared-key" else None
    got = opened(r, keys, frames, public).astype(np.float64)
    # Ranges are float32, as values are.
    limits = np.float32([tiny, tiny, huge, huge, tiny, tiny]).astype(np.float64)
    want = np.clip(given_values.astype(np.float64), -limits, limits).mean(axis=0)
    step = limits / (2 ** (bits - 1) - 1) * (1 if rounding == "stochastic" else 0.5)
    slack = np.abs(want) * 2.0**-23 + 2.0**-149
    assert np.isfinite(got).all()
    assert (np.abs(got - want) <= step * (1 + 1e-9) + slack).all()


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)), mode=MODES, data=st.data())
def test_sums_do_not_depend_on_order_or_replica(order, mode, data):
    weights = data.draw(st.lists(st.integers(1, 255), min_size=5, max_size=5))
    shared = mode == "shared-key"
    r = hazmat.Round(500, clients=5, mode=mode, weight_cap=255 if shared else 1)
    keys = keys_of(r, 5)
    rng = np.random.default_rng(3)
    frames = [r.encrypt(k, rng.normal(0, 0.3, 500).astype(np.float32)) for k in keys]
    total = r.aggregate(frames, weights if shared else None)
    again = r.aggregate(
        [frames[i] for i in order], [weights[i] for i in order] if shared else None
    )
    assert total.equals(again)


@settings(max_examples=20, deadline=None)
@given(weight=st.integers(1, 255), values=st.lists(FLOATS, min_size=1, max_size=50))
def test_a_weight_is_that_many_additions(weight, values):
    """The weighted mean of equal updates is the update, whatever the weights."""
    r = hazmat.Round(
        len(values), clients=2, mode="shared-key", weight_cap=255, rounding="nearest"
    )
    update, keys = np.asarray(values, np.float32), keys_of(r, 2)
    frames = [r.encrypt(keys[0], update) for _ in range(2)]
    alone = opened(r, keys[:1], frames[:1], [1])
    both = opened(r, keys, frames, [weight, 256 - weight])
    assert np.array_equal(alone, both)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
@example("")
@example("null")
@example("{}{}")
@example('{"mode": "sum-key"} ')
@example("[" * 20_000)
@example('{"tensors": [{"count": 9223372036854775808}]}')
@example("\0")
@example("\ud800")
def test_strings_at_the_boundary_are_refused_with_a_code(text):
    for function, *before in (("RoundNew",), ("ReleaseNew", 1 << 40)):
        with pytest.raises((errors.CryptFlowError, UnicodeEncodeError, ValueError)):
            call(function, *before, text)
    with pytest.raises((errors.CryptFlowError, UnicodeEncodeError, ValueError)):
        call("Start", text, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
REQUEST = {
    "mode": "sum-key",
    "preset": "n2048-q52",
    "rounding": "nearest",
    "bits": 8,
    "clients": 2,
    "weight_cap": 1,
    "digest": "",
    "tensors": [{"name": "w", "count": 5, "range": 1}],
}


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from([*sorted(REQUEST), "more"]), value=JSON)
def test_requests_of_any_shape_end_in_a_round_or_a_code(field, value):
    try:
        handle = call("RoundNew", json.dumps({**REQUEST, field: value}))
    except errors.CryptFlowError as error:
        assert error.code.startswith("CF_") and error.code != "CF_PANIC"
        return
    assert json.loads(call("RoundInfo", handle))["values"] >= 1
    call("Close", handle)
