"""Calls into Go, and Arrow C Data structs in and out of it."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

import pyarrow as pa

import cryptflow_py
from cryptflow.errors import InputError, from_code

_get = ctypes.pythonapi.PyCapsule_GetPointer
_get.restype = ctypes.c_void_p
_get.argtypes = [ctypes.py_object, ctypes.c_char_p]

_ARRAY_SIZE = 80


class _Out(ctypes.Structure):
    """Room for one exported array, zeroed as the C Data Interface asks."""

    _fields_ = (("array", ctypes.c_uint64 * 10), ("schema", ctypes.c_uint64 * 9))


def call(name: str, *args: object) -> Any:
    """Call one Go function; its error becomes an exception of this package."""
    try:
        return cryptflow_py.call(name, *args)
    except cryptflow_py.NativeError as error:
        raise from_code(error.code, str(error)) from None


def send(name: str, *args: object, array: Any) -> Any:
    """Call with one array moved in; the capsules own it until Go takes it."""
    schema, data = array.__arrow_c_array__()
    return call(name, *args, _get(data, b"arrow_array"), _get(schema, b"arrow_schema"))


def receive(name: str, *args: object) -> tuple[Any, pa.Array]:
    """Call with room for one array; return the answer and the array."""
    out = _Out()
    base = ctypes.addressof(out)
    answer = call(name, *args, base, base + _ARRAY_SIZE)
    return answer, pa.Array._import_from_c(base, base + _ARRAY_SIZE)


def exchange(name: str, *args: object, array: Any) -> pa.Array:
    """Call with one array moved in and one moved out."""
    schema, data = array.__arrow_c_array__()
    pointers = _get(data, b"arrow_array"), _get(schema, b"arrow_schema")
    return receive(name, *args, *pointers)[1]


def threads() -> int:
    """Return the number of threads to use, CRYPTFLOW_NUM_THREADS or the cores."""
    text = os.environ.get("CRYPTFLOW_NUM_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) == 0:
        raise from_code(
            "CF_CONFIG", f"CRYPTFLOW_NUM_THREADS is {text!r}; set a positive number"
        )
    return int(text)


class Handle:
    """A Go object that is dropped with its Python owner."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._finalize = weakref.finalize(self, _drop, number, os.getpid())

    def __reduce__(self) -> Any:
        """Refuse a copy: it would drop the object under the original's feet."""
        raise InputError(
            "clients, keys and rounds of CryptFlow live in this process and cannot be "
            "copied or pickled: keep them out of what is, and connect in each process"
        )

    @property
    def closed(self) -> bool:
        """Whether the object was dropped."""
        return not self._finalize.alive

    def close(self) -> None:
        """Drop the object now; a second call does nothing."""
        self._finalize()


def _drop(number: int, pid: int) -> None:
    if os.getpid() == pid:
        call("Close", number)
