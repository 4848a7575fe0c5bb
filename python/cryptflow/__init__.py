"""Encrypted federated averaging: the server adds updates that it cannot read.

`connect` joins a task, `LocalCluster` runs the services on this
machine, `create_task` makes a task. Adapters live in
`cryptflow.torch`, raw operations on Arrow arrays in
`cryptflow.hazmat`, exceptions in `cryptflow.errors`. Importing this
package loads no native code.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cryptflow import errors

if TYPE_CHECKING:
    from cryptflow.client import Client, RoundReport, connect, create_task, plan
    from cryptflow.local import LocalCluster
    from cryptflow.privacy import Privacy

    __version__: str

__all__ = [
    "Client",
    "LocalCluster",
    "Privacy",
    "RoundReport",
    "__version__",
    "connect",
    "create_task",
    "errors",
    "plan",
]

_LAZY = {
    "Client": "cryptflow.client",
    "LocalCluster": "cryptflow.local",
    "Privacy": "cryptflow.privacy",
    "RoundReport": "cryptflow.client",
    "connect": "cryptflow.client",
    "create_task": "cryptflow.client",
    "plan": "cryptflow.client",
}


def __getattr__(name: str) -> Any:
    """Load what needs numpy and Arrow, or much of Python, on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("cryptflow")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
