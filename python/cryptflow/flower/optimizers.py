"""Server-side optimizers, run where the mean is decrypted: by every client.

They see the mean of the updates and nothing else, as on Flower's server. Every
client computes the same bits: each operation on float32 arrays is rounded as
IEEE 754 says, in one order. Their state stays on the client's machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cryptflow.session import Flat

__all__ = ["FedAdam", "FedAvgM", "FedYogi", "Optimizer"]

State = dict[str, Flat]


class Optimizer(Protocol):
    """What turns a cohort's mean update into the step of the global model."""

    def step(self, mean: Flat, state: State, number: int) -> Flat:
        """Return the step for a mean, float32, shape (values,).

        `state` is kept from round to round, arrays by name; `number` counts
        rounds from 1.
        """


@dataclass(frozen=True)
class FedAvgM:
    """Momentum on the server: Hsu, Qi, Brown (2019), arXiv:1909.06335.

    Parameters
    ----------
    server_learning_rate : float
    server_momentum : float
    """

    server_learning_rate: float = 1.0
    server_momentum: float = 0.0

    def step(self, mean: Flat, state: State, number: int) -> Flat:
        """Return learning rate · momentum."""
        moment = mean
        if "momentum" in state:
            moment = np.float32(self.server_momentum) * state["momentum"] + mean
        state["momentum"] = moment
        return np.float32(self.server_learning_rate) * moment


@dataclass(frozen=True)
class _Adaptive:
    eta: float = 0.1
    eta_l: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def _second(self, v: Flat, square: Flat) -> Flat:
        raise NotImplementedError

    def step(self, mean: Flat, state: State, number: int) -> Flat:
        """Return η · m / (√v + τ)."""
        one = np.float32(self.beta_1)
        zero = np.zeros_like(mean)
        m = one * state.get("m", zero) + (np.float32(1) - one) * mean
        v = self._second(state.get("v", zero), mean * mean)
        state["m"], state["v"] = m, v
        root: Flat = np.sqrt(v, dtype=np.float32) + np.float32(self.tau)
        out: Flat = np.float32(self._rate(number)) * m / root
        return out

    def _rate(self, number: int) -> float:
        return self.eta


class FedAdam(_Adaptive):
    """Adam on the server: Reddi et al. (2021), arXiv:2003.00295.

    Parameters
    ----------
    eta, eta_l, beta_1, beta_2, tau : float
        As Flower's strategy of the same name takes them; `eta_l` is the
        client's business and not used here.
    """

    def _second(self, v: Flat, square: Flat) -> Flat:
        two = np.float32(self.beta_2)
        out: Flat = two * v + (np.float32(1) - two) * square
        return out

    def _rate(self, number: int) -> float:
        power = number + 1  # as Flower counts
        unbiased = (1 - self.beta_2**power) ** 0.5 / (1 - self.beta_1**power)
        return float(self.eta * unbiased)


class FedYogi(_Adaptive):
    """Yogi on the server: Reddi et al. (2021), arXiv:2003.00295.

    Parameters
    ----------
    eta, eta_l, beta_1, beta_2, tau : float
        As Flower's strategy of the same name takes them; `eta_l` is the
        client's business and not used here.
    """

    def _second(self, v: Flat, square: Flat) -> Flat:
        rest = np.float32(1) - np.float32(self.beta_2)
        out: Flat = v - rest * square * np.sign(v - square)
        return out
