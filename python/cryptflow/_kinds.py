"""What kind of tensor travels: one that spans magnitudes, one that stays positive.

Adapters know it of a framework's own layers. Of arrays that have nothing but
names it shows in company: a variance lies beside its mean, in the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod

from cryptflow.errors import InputError
from cryptflow.session import Tensor

__all__ = ["Kind", "chosen", "in_company", "of_buffer"]

#: Whether a tensor is precise, and whether it is never negative.
Kind = tuple[bool, bool]

# A moment, and the second moment that is computed with it.
_COMPANY = (
    ("running_mean", "running_var"),
    ("running_mean", "running_std"),
    ("moving_mean", "moving_variance"),
    ("mean", "variance"),
    ("mean_", "var_"),  # scikit-learn's scalers
    ("theta_", "var_"),  # and its GaussianNB
    ("exp_avg", "exp_avg_sq"),  # torch.optim's Adam and its kin
    ("exp_avg", "max_exp_avg_sq"),
    ("step", "square_avg"),  # RMSprop, Adadelta
    ("momentum", "velocity"),  # Keras' Adam
)
_SECOND = {
    *("running_var", "running_std", "moving_variance", "moving_stddev"),
    *("variance", "var_", "exp_avg_sq", "square_avg"),
}

# Moments of channels have no more values. What has is a table, such as one of
# positions, and further digits of it would cost more than they give.
_MOST = 1 << 16


def of_buffer(name: str, shape: Sequence[int], variance: bool = False) -> Kind:
    """Say whether a buffer is precise, and whether it is never negative.

    By its name only what is known to be no parameter is judged: a parameter that
    is called variance may be anything.

    Parameters
    ----------
    name : str
    shape : sequence of int
    variance : bool
        Whether it is known to be one, and so that it is a moment.
    """
    variance = variance or name.replace("/", ".").rpartition(".")[2] in _SECOND
    return variance or prod(shape) <= _MOST, variance


def in_company(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Mark moments among tensors of which nothing but names is known."""
    out = list(tensors)
    places = {t.name: i for i, t in enumerate(out)}
    for j, second in enumerate(list(out)):
        for first_name, second_name in _COMPANY:
            above = second.name.removesuffix(second_name)
            if above == second.name or above[-1:] not in ("", ".", "/", "_"):
                continue
            i = places.get(above + first_name)
            if i is None:
                continue
            if out[i].shape == second.shape:
                out[i] = replace(out[i], precise=True)
            elif first_name != "step":
                continue
            out[j] = replace(out[j], precise=True, nonnegative=True)
    return out


def chosen(
    layout: Sequence[Tensor],
    precise: Sequence[str] | None,
    nonnegative: Sequence[str] | None,
    able: bool,
) -> list[Tensor]:
    """Return a layout with what a task's owner says of its tensors.

    Patterns add to what adapters know; one that begins with ! takes away.
    Where tensors cannot be precise, only what the owner says is.

    Raises
    ------
    cryptflow.errors.InputError
        A pattern matches no tensor.
    """
    out = [t if able else replace(t, precise=False) for t in layout]
    for field, patterns in (("precise", precise), ("nonnegative", nonnegative)):
        if isinstance(patterns, str):
            raise InputError(f"{field} is a string: pass a list, [{patterns!r}]")
        for pattern in patterns or ():
            glob, value = pattern.removeprefix("!"), not pattern.startswith("!")
            found = [i for i, t in enumerate(out) if fnmatchcase(t.name, glob)]
            if not found:
                raise InputError(
                    f"{field}: no tensor is called {glob!r}; there are "
                    + ", ".join(repr(t.name) for t in out[:5])
                    + (" and others" if len(out) > 5 else "")
                )
            for i in found:
                now = {"precise": out[i].precise, "nonnegative": out[i].nonnegative}
                out[i] = Tensor(out[i].name, out[i].shape, **now | {field: value})
    return out
