"""Raw operations: keys, encrypt, aggregate, decrypt on Arrow arrays.

This is the layer beneath federated averaging, without services, release gate
or audit log. **Whoever uses it decides alone who holds which key.** Ciphertexts
are RLWE ciphertexts of CKKS parameters with exact integer packing; docs/spec.md
describes every byte.

Frames carry no authentication here: whoever can change them can change a sum
unnoticed, and so can a damaged bit. Rounds of the services have a tag for that
(docs/spec.md, §5.3).

Examples
--------
>>> import numpy as np
>>> from cryptflow import hazmat
>>> r = hazmat.Round(values=3, clients=2, value_range=1.0, bits=16)
>>> keys = [r.new_key() for _ in range(2)]
>>> updates = [np.float32([0.5, -0.25, 0]), np.float32([0.25, 0.25, 0])]
>>> frames = [r.encrypt(k, u) for k, u in zip(keys, updates)]
>>> total = r.aggregate(frames)
>>> np.round(r.decrypt(r.release(keys), total).to_numpy(), 3)
array([0.375, 0.   , 0.   ], dtype=float32)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cryptflow._native import Handle, call, exchange, receive, send, threads
from cryptflow.errors import InputError, LayoutError, from_code

__all__ = ["Key", "Release", "Round"]

# About a tenth of a second of work in one call, so that Ctrl-C is answered.
_VALUES_PER_CALL = 1 << 21


class Key:
    """A key made by `Round.new_key`; it cannot be printed or pickled."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __repr__(self) -> str:
        return "Key(redacted)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise InputError("a key stays in the process that made it")


class Release:
    """What opens one sum, made by `Round.release`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __repr__(self) -> str:
        return "Release(redacted)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise InputError("a release stays in the process that made it")


class Round:
    """Parameters and identity that contributions to one sum have in common.

    Parameters
    ----------
    values : int, optional
        Number of float32 values of an update, for an update of one tensor.
    clients : int
        Largest number of contributions in a sum.
    tensors : mapping of str to (int, float), optional
        Instead of `values` and `value_range`: name → (count, range), in the
        order in which the values travel.
    value_range : float
        Largest magnitude that travels unclipped, in units of the values.
    mode : {"sum-key", "shared-key"}
        ``sum-key``: every contribution has a key of its own and only the sum
        of the keys opens the sum. ``shared-key``: one key pair.
    preset : str
        ``n2048-q52``, ``n4096-q102`` or ``n8192-q204``.
    bits : int
        Bits of an encoded value, 4 to 30.
    rounding : {"stochastic", "nearest"}
        How a scaled value becomes an integer.
    encoding : {"lanes", "slots", "slots-ci"}
        ``lanes``: several integers a coefficient. ``slots``: classic CKKS
        packing, half as many values as coefficients; ``slots-ci``: that of the
        conjugate-invariant ring, as many. Means from slots are rounded to
        `bits` before they leave `decrypt`.
    weight_cap : int
        Largest weight (``num_examples``) of a contribution. In ``shared-key``
        weights are public and at most 255.
    digest : str, optional
        64 hexadecimal digits that identify the round; drawn when missing.
        Two rounds must not share it.

    Raises
    ------
    cryptflow.errors.InputError
        No parameters at 128-bit security satisfy the request.

    Notes
    -----
    Security limits: Bossuat et al., ePrint 2024/463. Construction and noise
    bound: docs/spec.md.
    """

    def __init__(
        self,
        values: int | None = None,
        *,
        clients: int,
        tensors: Mapping[str, tuple[int, float]] | None = None,
        value_range: float = 1.0,
        mode: Literal["sum-key", "shared-key"] = "sum-key",
        preset: str = "n4096-q102",
        bits: int = 16,
        rounding: Literal["stochastic", "nearest"] = "stochastic",
        encoding: Literal["lanes", "slots", "slots-ci"] = "lanes",
        weight_cap: int = 1,
        digest: str | None = None,
    ) -> None:
        if (values is None) == (tensors is None):
            raise InputError("give either values or tensors")
        if tensors is None:
            tensors = {"values": (_integer("values", values), value_range)}
        layout = _layout(tensors)
        for name, number in (("clients", clients), ("weight_cap", weight_cap)):
            if _integer(name, number) < 1:
                raise InputError(f"{name} is {number}, must be positive")
            if number >= 1 << 32:
                raise InputError(f"{name} is {number}, must be below 2^32")
        _words(
            mode=mode,
            preset=preset,
            rounding=rounding,
            encoding=encoding,
            digest=digest,
        )
        request = {
            "mode": mode,
            "preset": preset,
            "rounding": rounding,
            "encoding": encoding,
            "bits": _integer("bits", bits),
            "clients": clients,
            "weight_cap": weight_cap,
            "digest": digest or "",
            "tensors": layout,
        }
        self._ranges = {t["name"]: t["range"] for t in layout}
        self._handle = Handle(call("RoundNew", json.dumps(request)))
        #: Derived parameters: lanes, delta_bits, frames, bytes and so on.
        self.info: dict[str, Any] = json.loads(call("RoundInfo", self._handle.number))
        self._step = max(1, min(256, _VALUES_PER_CALL // self.info["chunk_values"]))

    def __repr__(self) -> str:
        i = self.info
        return (
            f"Round({i['mode']}, {i['preset']}, {i['bits']} bits, {i['lanes']} lanes, "
            f"{i['values']} values, {i['clients']} clients)"
        )

    def new_key(self) -> Key:
        """Draw a key: one a contribution in sum-key, one a round in shared-key."""
        return Key(Handle(call("KeyNew", self._handle.number)))

    def encrypt(self, key: Key, update: Any, weight: int = 1) -> pa.LargeBinaryArray:
        """Encrypt an update.

        Parameters
        ----------
        key : Key
            In ``sum-key`` a key encrypts one update; encrypting the same
            update again gives the same bytes, another one is refused.
        update : array of float32, shape (values,)
            Anything with ``__arrow_c_array__``, or a one-dimensional numpy
            array. Leave it unchanged until the call returns.
        weight : int
            ``num_examples``, 1 to ``weight_cap``. In ``shared-key`` pass it to
            `aggregate` as well.

        Returns
        -------
        pyarrow.LargeBinaryArray
            One frame an element, the control frame last.

        Raises
        ------
        cryptflow.errors.InputError
            NaN or infinity (the tensor is named), wrong type or length, a
            weight outside the limits.
        cryptflow.errors.RoundError
            The key has encrypted another update.
        """
        array = _float32(update, self.info["values"])
        weight = _integer("weight", weight)
        handle = Handle(
            send(
                "SealerNew",
                self._handle.number,
                key._handle.number,
                weight,
                threads(),
                array=array,
            )
        )
        try:
            parts, rest = [], 1
            while rest:
                rest, part = receive("SealNext", handle.number, self._step)
                parts.append(part)
        finally:
            handle.close()
        return _joined(parts)

    def clipped(self, update: Any, weight: int = 1) -> dict[str, int]:
        """Return how many values of each tensor lie outside its range."""
        array = _float32(update, self.info["values"])
        weight = _integer("weight", weight)
        key = self.new_key()
        args = self._handle.number, key._handle.number, weight, threads()
        handle = Handle(send("SealerNew", *args, array=array))
        counts = json.loads(call("SealClipped", handle.number))
        handle.close()
        return dict(zip(self._ranges, counts, strict=True))

    def aggregate(
        self, contributions: Sequence[Any], weights: Sequence[int] | None = None
    ) -> pa.LargeBinaryArray:
        """Add contributions without any key.

        Parameters
        ----------
        contributions : sequence of large_binary arrays
            As `encrypt` returns them.
        weights : sequence of int, optional
            Public weights, ``shared-key`` only; 1 each when missing.

        Returns
        -------
        pyarrow.LargeBinaryArray
            The frames of the sum: the same bytes whatever the order.

        Raises
        ------
        cryptflow.errors.CorruptError
            A frame is not canonical.
        cryptflow.errors.InputError
            A frame belongs to another round or place, or one is missing.
        """
        weights = self._weights(len(contributions), weights)
        arrays = [_frames(c, self.info["frames"]) for c in contributions]
        if not arrays:
            raise InputError("there is nothing to aggregate")
        parts, total = [], self.info["frames"]
        # Adding is some ten times as fast as encrypting.
        added = len(arrays) * self.info["chunk_values"]
        step = max(1, min(256, 10 * _VALUES_PER_CALL // added))
        for first in range(0, total, step):
            count = min(step, total - first)
            fold = Handle(call("FoldNew", self._handle.number, first, count, threads()))
            try:
                for array, weight in zip(arrays, weights, strict=True):
                    part = array.slice(first, count)
                    send("FoldAdd", fold.number, weight, array=part)
                parts.append(receive("FoldTake", fold.number)[1])
            finally:
                fold.close()
        return _joined(parts)

    def release(
        self, keys: Sequence[Key], weights: Sequence[int] | None = None
    ) -> Release:
        """Make what opens the sum of exactly the contributions under `keys`.

        Parameters
        ----------
        keys : sequence of Key
            ``sum-key``: the key of every contribution in the sum.
            ``shared-key``: the one key, once for every contribution.
        weights : sequence of int, optional
            As given to `aggregate`.
        """
        weights = self._weights(len(keys), weights)
        numbers = [k._handle.number for k in keys]
        if self.info["mode"] == "shared-key":
            numbers = sorted(set(numbers))
        request = json.dumps({"keys": numbers, "weights": weights})
        return Release(Handle(call("ReleaseNew", self._handle.number, request)))

    def decrypt(self, release: Release, total: Any) -> pa.FloatArray:
        """Open a sum and return the weighted mean of its updates.

        Parameters
        ----------
        release : Release
            For the set that was added, no other.
        total : large_binary array
            As `aggregate` returns it.

        Returns
        -------
        pyarrow.FloatArray
            Shape (values,), float32.

        Raises
        ------
        cryptflow.errors.CorruptError
            The release is not that of the sum, or the sum shows that bytes
            were changed: it is no frame, its noise exceeds the bound, or it
            has bits where no sum has any. Changes that stay below all of
            these open to another mean.
        """
        frames = _frames(total, self.info["frames"])
        opener = Handle(
            call("OpenerNew", self._handle.number, release._handle.number, threads())
        )
        last, size = self.info["frames"] - 1, self.info["chunk_values"]
        try:
            send("OpenControl", opener.number, array=frames.slice(last, 1))
            parts = []
            for first in range(0, last, self._step):
                count = min(self._step, last - first)
                room = min(self.info["values"] - first * size, count * size)
                parts.append(
                    exchange(
                        "Open",
                        opener.number,
                        first,
                        room,
                        array=frames.slice(first, count),
                    )
                )
        finally:
            opener.close()
        return _joined(parts)

    def error_bound(
        self,
        value_range: float,
        weights: Sequence[int] | None = None,
        *,
        contributions: int = 1,
    ) -> float:
        """Return the largest error of a mean, for values within their range.

        One quantisation step with stochastic rounding, half of one with
        nearest; in ``sum-key`` times n·weight_cap/Σweights; half a step more
        in slots, whose means are rounded. Rounding the mean
        to float32 comes on top.

        Parameters
        ----------
        value_range : float
            Range of the tensor.
        weights : sequence of int, optional
            Weights given to `encrypt`; 1 each when missing.
        contributions : int
            Their number when `weights` is missing.
        """
        used = [1] * contributions if weights is None else list(weights)
        step = value_range / float(self.info["half"])
        if self.info["rounding"] == "nearest":
            step /= 2
        if self.info["mode"] == "sum-key":
            step *= len(used) * float(self.info["weight_cap"]) / sum(used)
        if self.info["encoding"] != "lanes":
            step += value_range / float(self.info["half"]) / 2
        return step

    def _weights(self, count: int, weights: Sequence[int] | None) -> list[int]:
        if weights is None:
            return [1] * count
        if len(weights) != count:
            raise InputError(f"{len(weights)} weights for {count} contributions")
        out = [_integer("weight", w) for w in weights]
        limit = self.info["public_weight_cap"]
        for w in out:
            if not 1 <= w <= limit:
                raise from_code("CF_WEIGHT", f"public weight {w} outside 1 to {limit}")
        return out


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be an integer, not {type(value).__name__}")
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise InputError(f"{name} is out of range")
    return int(value)


def _range(name: str, value: Any) -> float:
    """Check a range before it travels as a float32."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if number and not isinstance(value, bool) and abs(value) < 1 << 129:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(value))
        if 0 < rounded < math.inf:
            return float(value)
    raise InputError(
        f"the range of {name!r} is {value!r}; it is a positive number that float32 "
        "can hold"
    )


def _words(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} must be a string, not {type(value).__name__}")


def _layout(tensors: Any) -> list[dict[str, Any]]:
    if not isinstance(tensors, Mapping):
        raise InputError(
            f"tensors is a {type(tensors).__name__}; pass a mapping of names to "
            "(count, range)"
        )
    out = []
    for name, pair in tensors.items():
        if not isinstance(name, str) or not isinstance(pair, tuple | list):
            raise InputError(f"tensor {name!r}: pass a name and (count, range)")
        if len(pair) != 2:
            raise InputError(
                f"tensor {name!r} has {len(pair)} items; pass count, range"
            )
        count, limit = pair
        out.append(
            {
                "name": name,
                "count": _integer(f"the count of {name!r}", count),
                "range": _range(name, limit),
            }
        )
    return out


def _float32(update: Any, count: int) -> pa.FloatArray:
    if isinstance(update, np.ndarray):
        if update.ndim != 1:
            raise InputError(f"the update has shape {update.shape}; flatten it")
        if update.dtype != np.float32:
            raise InputError(
                f"the update is {update.dtype}, must be float32: pass "
                "update.astype(numpy.float32)"
            )
        if np.ma.is_masked(update):
            # What a mask hides would travel.
            raise InputError("the update has masked values: pass update.filled(0)")
        update = np.ascontiguousarray(update)
        if update.ctypes.data % 8:
            update = update.copy()
        array = pa.array(update)
    elif hasattr(update, "__arrow_c_array__"):
        array = pa.array(update)
    else:
        raise InputError(
            f"the update is a {type(update).__name__}; "
            "pass a float32 numpy or Arrow array"
        )
    if array.type != pa.float32():
        raise InputError(f"the update is {array.type}, must be float32")
    if array.null_count:
        raise from_code("CF_ARROW", "the update has nulls")
    if len(array) == 0:
        raise InputError("the update is empty")
    if len(array) != count:
        raise LayoutError(f"the update has {len(array)} values, the round {count}")
    return array


def _frames(frames: Any, count: int) -> pa.LargeBinaryArray:
    if not hasattr(frames, "__arrow_c_array__"):
        raise InputError(f"frames are large_binary, not {type(frames).__name__}")
    array = pa.array(frames)
    if array.type != pa.large_binary():
        raise InputError(f"frames are large_binary, not {array.type}")
    if array.null_count:
        raise from_code("CF_ARROW", "frames have nulls")
    if len(array) != count:
        raise InputError(f"{len(array)} frames; the round has {count}")
    return array


def _joined(parts: list[pa.Array]) -> pa.Array:
    """Return one array; a single part is not copied."""
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
