"""Encrypted federated averaging for Flower apps.

On the client, one mod; on the server, one strategy:

.. code-block:: python

    from cryptflow.flower import EncryptedFedAvg, encrypted

    app = ClientApp(mods=[encrypted("my-task")])  # client_app.py
    strategy = EncryptedFedAvg(min_train_nodes=3, min_available_nodes=3)

Updates travel, encrypted, to CryptFlow's aggregator; through Flower go
receipts. The SuperLink sees the first model if the ServerApp sends one, and no
model or update after that.
"""

from cryptflow.flower.mod import encrypted
from cryptflow.flower.optimizers import FedAdam, FedAvgM, FedYogi
from cryptflow.flower.strategy import EncryptedFedAvg

__all__ = ["EncryptedFedAvg", "FedAdam", "FedAvgM", "FedYogi", "encrypted"]
