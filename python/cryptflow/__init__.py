"""Encrypted federated averaging: the server adds updates that it cannot read.

Raw operations on Arrow arrays live in :mod:`cryptflow.hazmat`, exceptions in
:mod:`cryptflow.errors`. Importing this package loads no native code.
"""

import logging
from importlib.metadata import version

from cryptflow import errors

__all__ = ["__version__", "errors"]

__version__ = version("cryptflow")

logging.getLogger(__name__).addHandler(logging.NullHandler())
