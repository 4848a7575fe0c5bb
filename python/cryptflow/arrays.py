"""Federated averaging of numpy arrays, whatever trains them.

.. code-block:: python

    model = SGDClassifier(loss="log_loss")
    model.partial_fit(x[:1], y[:1], classes=range(10))  # makes coef_, intercept_
    fedavg = FedAvg(model, client, num_examples=len(y), names=["coef_", "intercept_"])
    for _ in range(rounds):
        model.partial_fit(x, y)
        print(fedavg.average())
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from cryptflow._kinds import in_company
from cryptflow.errors import LayoutError
from cryptflow.session import Averager, Flat, Layout, Report, Session, Tensor, pieces

__all__ = ["ArrayWeights", "FedAvg"]


class ArrayWeights:
    """Named arrays of a mapping, or of an object's attributes, flat.

    Arrays are looked up by name whenever they are read or written, so that a
    library may replace them between rounds, as scikit-learn does. They are
    written in place.

    Parameters
    ----------
    source : mapping or object
        Floating-point numpy arrays by name, or an object with such attributes.
        A list of arrays, such as an MLPClassifier's ``coefs_``, travels as
        ``coefs_/0``, ``coefs_/1``, …
    names : sequence of str, optional
        Which travel, in this order; every key of a mapping when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        A name is not there, or is not a floating-point array; or the object is
        a scikit-learn model that trains other arrays than those it shows.
    """

    def __init__(self, source: Any, names: Sequence[str] | None = None) -> None:
        if names is None:
            if not isinstance(source, Mapping):
                raise LayoutError(
                    f"which attributes of a {type(source).__name__} travel? pass names"
                )
            names = list(source)
        if isinstance(names, str):
            raise LayoutError(f"names is a string: pass a list, [{names!r}]")
        if getattr(source, "_standard_coef", None) is not None and source.average:
            raise LayoutError(
                f"a {type(source).__name__} with average={source.average} trains "
                "arrays of its own and shows their mean: use average=False"
            )
        self._source, self._names = source, tuple(names)
        self._layout = in_company(Tensor(n, a.shape) for n, a in self._arrays())

    @property
    def layout(self) -> Layout:
        """Names, shapes and kinds of the arrays that travel."""
        return self._layout

    def read(self, out: Flat) -> None:
        """Copy all values to `out`, float32, shape (values,)."""
        for part, array in self._placed(out):
            np.copyto(part, array, casting="same_kind")

    def write(self, values: Flat) -> None:
        """Replace all values in place."""
        for part, array in self._placed(values):
            array[...] = part

    def _placed(self, flat: Flat) -> Iterator[tuple[Flat, npt.NDArray[Any]]]:
        """Pair the parts of flat values with the arrays."""
        found = list(self._arrays())
        if len(found) != len(self._layout):
            raise LayoutError(
                f"there are {len(found)} arrays now, not {len(self._layout)}"
            )
        parts = pieces(self._layout, flat)
        for part, (name, array), known in zip(parts, found, self._layout, strict=True):
            if array.shape != known.shape:
                raise LayoutError(
                    f"array {name!r} has shape {array.shape} now, not {known.shape}"
                )
            yield part, array

    def _arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for name in self._names:
            try:
                found = (
                    self._source[name]
                    if isinstance(self._source, Mapping)
                    else getattr(self._source, name)
                )
            except (KeyError, AttributeError):
                raise LayoutError(
                    f"there is no array {name!r} yet: fit once before FedAvg"
                ) from None
            several = isinstance(found, list | tuple)
            for i, array in enumerate(found if several else [found]):
                full = f"{name}/{i}" if several else name
                if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                    kind = getattr(array, "dtype", type(array).__name__)
                    raise LayoutError(
                        f"{full!r} is {kind}, not a floating-point array: make it "
                        "one with numpy.asarray(values, float)"
                    )
                if not array.flags.writeable:
                    raise LayoutError(f"{full!r} is read-only: pass a copy")
                yield full, array


class FedAvg(Generic[Report]):
    """Encrypted federated averaging of numpy arrays after local training.

    Parameters
    ----------
    source : mapping or object
        Arrays by name, or an object with such attributes; replaced in place.
    client : Averager
        A connected client.
    num_examples : int
        Examples this client trains on: its weight in the mean.
    names : sequence of str, optional
        Which arrays travel; every key of a mapping when missing.

    Raises
    ------
    cryptflow.errors.LayoutError
        The layout is not the task's; raised before any training.
    """

    def __init__(
        self,
        source: Any,
        client: Averager[Report],
        num_examples: int,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        self._session = Session(ArrayWeights(source, names), client, num_examples)

    def average(self, metrics: Mapping[str, float] | None = None) -> Report:
        """Contribute what changed since the last round and apply the mean.

        Parameters
        ----------
        metrics : mapping of str to float, optional
            Scalars that the task names, such as loss: they travel encrypted.
        """
        return self._session.average(metrics)
