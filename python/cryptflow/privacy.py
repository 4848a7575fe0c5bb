"""Differential privacy: what a private task promises, and what is spent.

`Privacy` is what an admin chooses for a task; the reports of its rounds
say how much has been spent. `epsilon` and `noise_multiplier`
compute by `dp-accounting <https://pypi.org/project/dp-accounting/>`_, which is
imported when they are called (the extra ``privacy`` brings it). Clipping
and noise are applied in Go, before encryption: docs/privacy.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from cryptflow.errors import InputError, from_code

__all__ = ["Privacy", "epsilon", "noise_multiplier"]

# Set aside of delta for values that noise carries out of their lane, and the
# epsilon up to which that suffices; go/privacy proves both.
_SLACK = 2.0**-40
_MAX_EPSILON = 27.0


@dataclass(frozen=True)
class Privacy:
    """What a private task promises every client.

    Attributes
    ----------
    clip_norm : float
        Largest L2 norm of one client's update; larger ones are scaled down.
    noise_multiplier : float
        Standard deviation of the noise in the cohort's sum over the largest
        influence of one client on it, 0.01 to 1000: what `epsilon` takes.
    delta : float
        Delta at which epsilon is reported, 1e-9 to below 1; choose it below
        one over the number of clients.
    colluding : int
        Clients of a cohort that may tell each other their noise, or add none,
        without weakening the promise against them. Noise is split over
        ``min_cohort - colluding`` clients. 1 by default: every client knows its
        own noise and sees the model.
    """

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5
    colluding: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, checked.

        Raises
        ------
        cryptflow.errors.InputError
            A value is not a number, or not one that can be promised.
        """
        for name in ("clip_norm", "noise_multiplier", "delta"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise InputError(f"{name} is {value!r}; it is a positive finite number")
        count = self.colluding
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(f"colluding is {count!r}; it is a number of clients")
        return {
            "clip_norm": float(self.clip_norm),
            "noise_multiplier": float(self.noise_multiplier),
            "delta": float(self.delta),
            "colluding": count,
        }


def require() -> None:
    """Refuse, early and without importing it, where dp-accounting is missing."""
    if find_spec("dp_accounting") is None:
        raise from_code(
            "CF_CONFIG",
            "this task is private and epsilon is computed by dp-accounting: "
            "pip install dp-accounting",
        )


def epsilon(
    noise_multiplier: float,
    delta: float,
    rounds: int,
    *,
    honest: float = 1.0,
) -> float:
    """Return the epsilon of a client's data after so many rounds.

    Parameters
    ----------
    noise_multiplier : float
        That of the task.
    delta : float
        Delta of the statement, at least 2⁻³⁰.
    rounds : int
        Updates published; no sampling of clients is assumed.
    honest : float
        Share of the noise that the task counts on and that was really added
        and is not known to who looks: ``(min_cohort - c) / (min_cohort -
        colluding)`` with c clients that lie or collude. 1 or more keeps the
        promise; 0 leaves none.

    Returns
    -------
    float
        Infinity where nothing can be promised: no noise, or above 27.

    Notes
    -----
    Neighbouring: one client's update is zero instead of what it is. Rényi
    accounting (Mironov 2017) of the Gaussian mechanism by dp-accounting; the
    discrete Gaussian's Rényi divergences are not larger (Canonne, Kamath,
    Steinke 2020), and sums of them are within 2⁻¹⁵⁰ of one (go/privacy).
    """
    if rounds < 0 or not delta > _SLACK or not delta < 1:
        raise InputError(f"epsilon of {rounds} rounds at delta {delta} is not defined")
    if not noise_multiplier > 0 or honest <= 0:
        return math.inf if rounds else 0.0
    if rounds == 0:
        return 0.0
    require()
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant

    event = GaussianDpEvent(noise_multiplier * math.sqrt(honest))
    spent = float(RdpAccountant().compose(event, rounds).get_epsilon(delta - _SLACK))
    return spent if spent <= _MAX_EPSILON else math.inf


_spent = epsilon


def noise_multiplier(epsilon: float, delta: float, rounds: int) -> float:
    """Return the least multiplier, to 1e-4, that keeps epsilon over the rounds.

    Parameters
    ----------
    epsilon, delta : float
        What is to hold when all rounds are done.
    rounds : int
        Rounds of the task, at least 1.

    Raises
    ------
    cryptflow.errors.InputError
        No multiplier from 0.01 to 1000 keeps it.
    """
    spent = _spent
    low, high = 0.01, 1000.0
    if not 0 < epsilon < math.inf or rounds < 1 or spent(high, delta, rounds) > epsilon:
        raise InputError(
            f"no noise keeps epsilon {epsilon} over {rounds} rounds at delta {delta}"
        )
    while high - low > 1e-4:
        middle = (low + high) / 2
        if spent(middle, delta, rounds) > epsilon:
            low = middle
        else:
            high = middle
    return high
