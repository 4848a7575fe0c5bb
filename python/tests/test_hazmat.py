"""The raw operations against float64 arithmetic."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptflow import errors, hazmat

FLOAT32 = 2.0**-24


def mean_of(updates, weights):
    return np.average(np.asarray(updates, np.float64), axis=0, weights=weights)


def run(r, updates, weights):
    """Encrypt, add and open; return the mean as float64."""
    if r.info["mode"] == "shared-key":
        key = r.new_key()
        keys, public = [key] * len(updates), weights
    else:
        keys, public = [r.new_key() for _ in updates], None
    frames = [
        r.encrypt(k, u, w) for k, u, w in zip(keys, updates, weights, strict=True)
    ]
    total = r.aggregate(frames, public)
    opened = r.decrypt(r.release(keys, public), total)
    return opened.to_numpy().astype(np.float64)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    clients=st.integers(2, 8),
    values=st.integers(1, 20_000),
    bits=st.sampled_from([8, 12, 16, 24]),
    mode=st.sampled_from(["sum-key", "shared-key"]),
    rounding=st.sampled_from(["stochastic", "nearest"]),
    preset=st.sampled_from(["n4096-q102", "n8192-q204"]),
)
def test_mean_within_the_stated_bound(
    seed, clients, values, bits, mode, rounding, preset
):
    rng = np.random.default_rng(seed)
    weights = [int(w) for w in rng.integers(1, 8, clients)]
    updates = rng.uniform(-0.7, 0.7, (clients, values)).astype(np.float32)
    updates[0, 0] = [0.7, -0.7, 0.0][seed % 3]
    r = hazmat.Round(
        values,
        clients=clients,
        value_range=0.7,
        bits=bits,
        mode=mode,
        rounding=rounding,
        preset=preset,
        weight_cap=7,
    )
    got = run(r, updates, weights)
    want = mean_of(updates, weights)
    bound = r.error_bound(0.7, weights) + 0.7 * 2 * FLOAT32
    assert np.max(np.abs(got - want)) <= bound


@pytest.mark.parametrize("mode", ["sum-key", "shared-key"])
@pytest.mark.parametrize("fill", [-1.0, 1.0, 0.0])
def test_extremes_are_exact(mode, fill):
    r = hazmat.Round(5_000, clients=3, bits=16, mode=mode)
    got = run(r, [np.full(5_000, fill, np.float32)] * 3, [1, 1, 1])
    assert np.array_equal(got, np.full(5_000, fill))


def test_sum_does_not_depend_on_order():
    r = hazmat.Round(3_000, clients=4)
    rng = np.random.default_rng(1)
    frames = [
        r.encrypt(r.new_key(), rng.normal(0, 0.1, 3_000).astype(np.float32))
        for _ in range(4)
    ]
    total = r.aggregate(frames)
    assert total.equals(r.aggregate(frames[::-1]))
    assert not total.equals(r.aggregate(frames[:3]))


def test_same_key_same_update_same_bytes_and_no_other():
    r = hazmat.Round(2_000, clients=2)
    key, update = r.new_key(), np.linspace(-1, 1, 2_000, dtype=np.float32)
    assert r.encrypt(key, update).equals(r.encrypt(key, update.copy()))
    with pytest.raises(errors.RoundError, match="another update") as caught:
        r.encrypt(key, -update)
    assert caught.value.code == "CF_CONTRIBUTION_CONFLICT"


def test_release_of_another_set_does_not_open():
    r = hazmat.Round(1_000, clients=3)
    keys = [r.new_key() for _ in range(3)]
    update = np.zeros(1_000, np.float32)
    frames = [r.encrypt(k, update) for k in keys]
    with pytest.raises(errors.CryptFlowError) as caught:
        r.decrypt(r.release(keys[:2]), r.aggregate(frames))
    assert caught.value.code in ("CF_DECRYPT", "CF_FRAME_CONTEXT")
    stranger = r.new_key()
    with pytest.raises(errors.CorruptError) as caught:
        r.decrypt(r.release([*keys[:2], stranger]), r.aggregate(frames))
    assert caught.value.code == "CF_DECRYPT"


def test_one_contribution_is_not_the_sum():
    r = hazmat.Round(1_000, clients=2)
    keys = [r.new_key() for _ in range(2)]
    frames = [r.encrypt(k, np.zeros(1_000, np.float32)) for k in keys]
    with pytest.raises(errors.CryptFlowError):
        r.decrypt(r.release(keys), frames[0])


def test_smaller_than_float32():
    r = hazmat.Round(1_000_000, clients=64, bits=16)
    assert r.info["bytes"] / 1_000_000 < 3.25


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_names_the_tensor(bad):
    r = hazmat.Round(clients=2, tensors={"conv.weight": (10, 1.0), "fc.bias": (5, 1.0)})
    update = np.zeros(15, np.float32)
    update[12] = bad
    with pytest.raises(errors.InputError, match=r"fc\.bias") as caught:
        r.encrypt(r.new_key(), update)
    assert caught.value.code == "CF_NOT_FINITE"


def test_clipped_values_are_counted_and_clipped():
    r = hazmat.Round(clients=2, tensors={"a": (4, 1.0), "b": (4, 0.5)})
    update = np.array([2, 0, 0, -3, 0.6, 0.4, 0, 0], np.float32)
    assert r.clipped(update) == {"a": 2, "b": 1}
    got = run(r, [update, update], [1, 1])
    assert got[0] == 1.0 and got[3] == -1.0 and abs(got[4] - 0.5) < 1e-4


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (np.zeros(10, np.float64), r"float64, must be float32: pass update\.astype"),
        (np.zeros(10, np.float16), "float16"),
        (np.zeros(10, ">f4"), ">f4"),
        (np.ma.masked_equal(np.zeros(10, np.float32), 0), "masked"),
        (np.zeros((2, 5), np.float32), "flatten"),
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(9, np.float32), "9 values"),
        ([0.0] * 10, "list"),
        (pa.array([0.0] * 10), "double"),
        (pa.array([None] * 10, pa.float32()), "nulls"),
    ],
)
def test_unsuitable_updates_are_refused_by_name(update, words):
    r = hazmat.Round(10, clients=2)
    with pytest.raises(errors.InputError, match=words):
        r.encrypt(r.new_key(), update)


def test_a_mask_that_hides_nothing_is_no_reason_to_refuse():
    r = hazmat.Round(10, clients=2)
    assert len(r.encrypt(r.new_key(), np.ma.array(np.zeros(10, np.float32)))) == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"value_range": 0}, "range of 'values' is 0"),
        ({"value_range": -1.0}, "positive"),
        ({"value_range": np.nan}, "positive"),
        ({"value_range": np.inf}, "positive"),
        ({"value_range": 1e39}, "float32"),
        ({"value_range": 10**400}, "float32"),
        ({"value_range": 1e-46}, "float32"),
        ({"value_range": "1"}, "positive"),
        ({"value_range": True}, "positive"),
        ({"weight_cap": 1 << 32}, r"below 2\^32"),
        ({"digest": b"0" * 64}, "digest must be a string"),
        ({"mode": 1}, "mode must be a string"),
        ({"values": None, "tensors": [("a", 3, 1.0)]}, "mapping"),
        ({"values": None, "tensors": {"a": 3}}, "count, range"),
        ({"values": None, "tensors": {"a": (3,)}}, "1 items"),
        ({"values": None, "tensors": {"a": (3.0, 1.0)}}, "count of 'a'"),
        ({"values": None, "tensors": {5: (3, 1.0)}}, "tensor 5"),
    ],
)
def test_wrong_rounds_are_refused_by_name(request_, words):
    with pytest.raises(errors.InputError, match=words) as caught:
        hazmat.Round(**{"values": 10, "clients": 2} | request_)
    assert caught.value.code == "CF_ARGUMENT" and "json" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["lanes", "slots", "slots-ci"])
def test_the_ends_of_float32(encoding):
    """Means stay within the bound where values or ranges are at an end."""
    top, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    ranges = {"top": top, "least": least, "large": 1e30, "small": 1e-30}
    r = hazmat.Round(
        clients=3,
        tensors={name: (4, float(limit)) for name, limit in ranges.items()},
        preset="n8192-q204",
        encoding=encoding,
    )
    one = np.float32(
        [
            [top, -top, 0, -0.0],
            [least, -least, 0, -0.0],
            [1e30, -1e30, least, 0],
            [1e-30, -1e-30, least, 0],
        ]
    )
    updates = [u.reshape(-1) for u in (one, one, np.roll(one, 1, axis=1))]
    got = run(r, updates, [1, 1, 1]).reshape(4, 4)
    want = mean_of(updates, [1, 1, 1]).reshape(4, 4)
    for g, w, limit in zip(got, want, ranges.values(), strict=True):
        bound = r.error_bound(float(limit), contributions=3)
        rounding = np.maximum(abs(w) * FLOAT32, float(least) / 2)
        assert (abs(g - w) <= bound + rounding).all()


def test_strided_and_misaligned_updates_are_copied():
    r = hazmat.Round(10, clients=2)
    base = np.arange(21, dtype=np.float32) / 32
    for view in (base[::2][:10], base[1:11], pa.array(base)[3:13]):
        key = r.new_key()
        want = r.encrypt(key, np.array(view, np.float32))
        assert want.equals(r.encrypt(key, view))


@pytest.mark.parametrize("weight", [0, -1, 101, 2**40])
def test_weights_outside_the_limits(weight):
    r = hazmat.Round(10, clients=2, weight_cap=100)
    with pytest.raises(errors.InputError) as caught:
        r.encrypt(r.new_key(), np.zeros(10, np.float32), weight)
    assert caught.value.code == "CF_WEIGHT"


def test_weight_must_be_an_integer():
    r = hazmat.Round(10, clients=2, weight_cap=100)
    with pytest.raises(errors.InputError, match="integer"):
        r.encrypt(r.new_key(), np.zeros(10, np.float32), 1.5)


def mangled(frames, change):
    raw = [bytearray(f.as_py()) for f in frames]
    change(raw)
    return pa.array([bytes(f) for f in raw], pa.large_binary())


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f[0].append(0),
        lambda f: f[0].pop(),
        lambda f: f[0].__setitem__(slice(40, 60), b"\xff" * 20),
        lambda f: f[0].__setitem__(0, 0),
        lambda f: f[0].__setitem__(5, 3),
        lambda f: f[0].__setitem__(10, f[0][10] ^ 1),
        lambda f: f[0].__setitem__(slice(36, 40), b"\xff" * 4),
        lambda f: f.reverse(),
        lambda f: f[0].clear(),
    ],
    ids="longer shorter residue magic preset key-id coefficients order empty".split(),
)
def test_hostile_frames_are_refused(change):
    r = hazmat.Round(40_000, clients=2)
    good = r.encrypt(r.new_key(), np.zeros(40_000, np.float32))
    with pytest.raises(errors.CryptFlowError) as caught:
        r.aggregate([good, mangled(good, change)])
    assert caught.value.code in ("CF_FRAME", "CF_FRAME_CONTEXT")


def test_frames_of_another_round_are_refused():
    a, b = (hazmat.Round(100, clients=2) for _ in range(2))
    frames = b.encrypt(b.new_key(), np.zeros(100, np.float32))
    with pytest.raises(errors.InputError) as caught:
        a.aggregate([frames])
    assert caught.value.code == "CF_FRAME_CONTEXT"


def test_flipped_bits_never_pass_silently():
    """A flipped bit is refused or changes nothing that anybody is told is right."""
    r = hazmat.Round(1_000, clients=2, bits=16)
    keys = [r.new_key() for _ in range(2)]
    frames = [r.encrypt(k, np.zeros(1_000, np.float32)) for k in keys]
    release, rng = r.release(keys), np.random.default_rng(7)
    total = r.aggregate(frames)
    refused = 0
    for _ in range(50):
        raw = [bytearray(f.as_py()) for f in total]
        at = int(rng.integers(0, len(raw[0])))
        raw[0][at] ^= 1 << int(rng.integers(0, 8))
        try:
            r.decrypt(release, pa.array([bytes(f) for f in raw], pa.large_binary()))
        except errors.CryptFlowError:
            refused += 1
    # A residue changed modulo one prime lands anywhere modulo Q: it passes with
    # probability below 2^-16 a flip, unless it stays within the noise bound.
    assert refused >= 48


@pytest.mark.parametrize(
    "request_",
    [
        {"bits": 3},
        {"bits": 31},
        {"clients": 0},
        {"clients": 4097},
        {"preset": "n1024-q27"},
        {"mode": "plain"},
        {"rounding": "up"},
        {"value_range": 0.0},
        {"value_range": float("nan")},
        {"weight_cap": 256, "mode": "shared-key"},
        {"digest": "00"},
        {"values": 0},
        {"values": 2**40},
    ],
    ids=str,
)
def test_rounds_that_cannot_be(request_):
    with pytest.raises(errors.InputError):
        hazmat.Round(**{"values": 10, "clients": 2, **request_})


def test_secrets_do_not_print_or_travel():
    r = hazmat.Round(10, clients=2)
    key = r.new_key()
    assert "redacted" in repr(key) and "redacted" in repr(r.release([key]))
    with pytest.raises(errors.InputError):
        pickle.dumps(key)


@pytest.mark.parametrize("encoding", ["slots", "slots-ci"])
@pytest.mark.parametrize("mode", ["sum-key", "shared-key"])
def test_slots_are_classic_packing(encoding, mode, rng):
    """Fewer values a ciphertext, the same sums, rounded to the stated bits."""
    size = 5000
    r = hazmat.Round(
        size, clients=4, mode=mode, encoding=encoding, bits=12, value_range=0.5
    )
    lanes = hazmat.Round(size, clients=4, mode=mode, bits=12, value_range=0.5)
    assert r.info["encoding"] == encoding
    assert r.info["chunk_values"] == {"slots": 2048, "slots-ci": 4096}[encoding]
    assert r.info["bytes"] > 2 * lanes.info["bytes"]
    given = [rng.uniform(-0.5, 0.5, size).astype(np.float32) for _ in range(4)]
    keys = [r.new_key() for _ in range(4 if mode == "sum-key" else 1)]
    frames = [r.encrypt(keys[i % len(keys)], update) for i, update in enumerate(given)]
    every = [keys[i % len(keys)] for i in range(4)]
    mean = r.decrypt(r.release(every), r.aggregate(frames))
    got = np.asarray(mean)
    want = np.mean(np.asarray(given, np.float64), axis=0)
    assert np.abs(got - want).max() <= r.error_bound(0.5, contributions=4) + 1e-7
    steps = got / (0.5 / r.info["half"])
    assert np.abs(steps - np.round(steps)).max() < 1e-3


def test_an_unknown_encoding_is_refused():
    with pytest.raises(errors.InputError, match="slots-ci"):
        hazmat.Round(10, clients=3, encoding="braided")
