"""Exceptions of CryptFlow.

Every error of the native library and of the services has a stable code,
``CF_…``, in `CryptFlowError.code`; classes group codes by what a caller
can do about them. docs/errors.md lists the codes.
"""

from __future__ import annotations

__all__ = [
    "CODES",
    "AccessError",
    "CorruptError",
    "CryptFlowError",
    "InputError",
    "InternalError",
    "LayoutError",
    "LimitError",
    "NotFoundError",
    "RoundError",
    "UnavailableError",
]


class CryptFlowError(Exception):
    """Base of every exception of this package.

    Attributes
    ----------
    code : str
        Stable name of the error, ``CF_…``.
    """

    code: str = "CF_INTERNAL"

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the code when worker processes pickle the exception."""
        return (_rebuild, (type(self), str(self), self.code))


def _rebuild(kind: type[CryptFlowError], text: str, code: str) -> CryptFlowError:
    error = kind(text)
    error.code = code
    return error


class InternalError(CryptFlowError):
    """A fault of CryptFlow or of the machine."""


class InputError(CryptFlowError, ValueError):
    """An argument is wrong: type, shape, value or configuration.

    Its code is CF_ARGUMENT where `from_code` gives no other.
    """

    code = "CF_ARGUMENT"


class LayoutError(InputError):
    """Names, shapes or counts of tensors differ from the task's."""

    code = "CF_LAYOUT_MISMATCH"


class AccessError(CryptFlowError, PermissionError):
    """The caller may not do this."""


class NotFoundError(CryptFlowError, LookupError):
    """Nothing of that name."""


class RoundError(CryptFlowError):
    """The state of the round does not allow the step."""


class UnavailableError(CryptFlowError):
    """A service cannot be reached or did not answer; trying again may help."""


class LimitError(CryptFlowError):
    """A stated limit or the storage is exhausted."""


class CorruptError(CryptFlowError):
    """Bytes failed a check: corrupted, forged or under another key."""


#: Class of every code.
CODES: dict[str, type[CryptFlowError]] = {
    **dict.fromkeys(
        ["CF_FORK", "CF_INTERNAL", "CF_PANIC", "CF_POISONED", "CF_UNKNOWN"],
        InternalError,
    ),
    **dict.fromkeys(
        [
            "CF_ARGUMENT",
            "CF_ARROW",
            "CF_BAD_HANDLE",
            "CF_CHUNK_ORDER",
            "CF_CONFIG",
            "CF_DEPOSIT",
            "CF_FRAME_CONTEXT",
            "CF_INSECURE",
            "CF_NOT_FINITE",
            "CF_PARAMETERS",
            "CF_ROOT_MISMATCH",
            "CF_WEIGHT",
        ],
        InputError,
    ),
    "CF_LAYOUT_MISMATCH": LayoutError,
    **dict.fromkeys(
        [
            "CF_CERTIFICATE",
            "CF_DENIED",
            "CF_MANIFEST_REFUSED",
            "CF_NOT_ENROLLED",
            "CF_SPEC",
            "CF_UNAUTHENTICATED",
        ],
        AccessError,
    ),
    **dict.fromkeys(
        ["CF_NO_ROUND", "CF_NO_TASK", "CF_UPLOAD_UNKNOWN"],
        NotFoundError,
    ),
    **dict.fromkeys(
        [
            "CF_ALREADY_DECIDED",
            "CF_CHUNK_CONFLICT",
            "CF_CONTRIBUTION_CONFLICT",
            "CF_INCOMPLETE",
            "CF_KEYS_DESTROYED",
            "CF_MODEL_MISMATCH",
            "CF_NOT_IN_COHORT",
            "CF_PLAINTEXT",
            "CF_RESTORED",
            "CF_ROUND_ABORTED",
            "CF_ROUND_FAILED",
            "CF_ROUND_LOST",
            "CF_STATE",
            "CF_TASK_CREATING",
            "CF_TASK_ENDED",
            "CF_TASK_EXISTS",
        ],
        RoundError,
    ),
    **dict.fromkeys(
        ["CF_CANCELLED", "CF_PENDING", "CF_TIMEOUT", "CF_UNAVAILABLE"],
        UnavailableError,
    ),
    **dict.fromkeys(["CF_DISK_FULL", "CF_LIMIT"], LimitError),
    **dict.fromkeys(
        [
            "CF_AUDIT",
            "CF_CANONICAL",
            "CF_DECRYPT",
            "CF_FRAME",
            "CF_RESULT_DIVERGED",
            "CF_SIGNATURE",
            "CF_STORAGE_CORRUPT",
            "CF_TAG",
            "CF_VOTES",
            "CF_WEIGHT_SUM",
        ],
        CorruptError,
    ),
}


def from_code(code: str, text: str) -> CryptFlowError:
    """Return an exception of the code's class."""
    return _rebuild(CODES.get(code, InternalError), text, code)
