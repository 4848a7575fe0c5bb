"""One site: an ordinary script for NVIDIA FLARE, which knows of no encryption."""

import nvflare.client as flare
import torch
from model import Network
from sklearn.datasets import load_digits
from torch import nn


def main() -> None:
    """Train whenever the server asks."""
    torch.set_num_threads(1)
    flare.init()
    mine = int(flare.get_site_name().rpartition("-")[2])
    x, y = load_digits(return_X_y=True)  # every third example: this site's own
    x = torch.tensor(x[mine::3] / 16, dtype=torch.float32)
    y = torch.tensor(y[mine::3])
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict(received.params)
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).float().mean())
        print(f"round {received.current_round}: accuracy on own data {accuracy:.1%}")
        for _ in range(3):
            for rows in torch.arange(len(y)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        flare.send(
            flare.FLModel(
                params=model.cpu().state_dict(),
                metrics={"accuracy": accuracy},
                meta={"NUM_STEPS_CURRENT_ROUND": len(y)},
            )
        )


if __name__ == "__main__":
    main()
