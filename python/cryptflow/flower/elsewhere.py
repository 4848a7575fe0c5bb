"""What stands for the model at a server that does not have it."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Result

from cryptflow.errors import from_code

__all__ = ["AtTheClients"]


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise from_code(
        "CF_STATE",
        "the server has no model: it is with the clients, where "
        "encrypted(model_file=...) writes it, and their evaluate handlers have it",
    )


class AtTheClients(ArrayRecord):
    """The trained model, which only the clients have.

    It can be passed on and kept. Whatever reads it raises one error that says
    where the model is: a reader that found nothing would save an empty model, or
    evaluate the first one, without a word.
    """

    def __repr__(self) -> str:
        return "AtTheClients()"

    def __bool__(self) -> bool:
        # There is a model. ``if arrays:`` must not keep the one of before.
        return True

    def values(self) -> Any:
        """Raise; a summary of Flower's measures nothing here, and goes on."""
        if sys._getframe(1).f_code is Result.__repr__.__code__:
            return {}.values()
        _refuse(self)


for _name in (
    *("keys", "items", "get", "copy", "pop", "popitem", "clear", "update"),
    *("setdefault", "to_torch_state_dict", "to_numpy_ndarrays", "count_bytes"),
    *("deflate", "__iter__", "__len__", "__contains__", "__getitem__", "__setitem__"),
    *("__delitem__", "__eq__", "__ne__", "__copy__", "__deepcopy__", "__reduce_ex__"),
):
    setattr(AtTheClients, _name, _refuse)
for _name in ("children", "object_id", "is_dirty"):
    setattr(AtTheClients, _name, property(_refuse))
