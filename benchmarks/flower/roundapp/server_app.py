"""Flower's FedAvg, as it comes."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    values, arrays = int(config["values"]), int(config["arrays"])
    nodes = int(config["nodes"])
    sizes = [values // arrays] * arrays
    sizes[-1] += values - sum(sizes)
    initial = ArrayRecord(
        {f"t{i}": Array(np.zeros(n, np.float32)) for i, n in enumerate(sizes)}
    )
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
    )
    strategy.start(grid, initial, num_rounds=int(config["rounds"]), timeout=600)
