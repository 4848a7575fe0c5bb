"""What a site does when it is asked to train."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from cryptflow.flower import encrypted
from digits.task import Net, load_data, train

app = ClientApp(mods=[encrypted("digits")])


@app.train()
def fit(msg: Message, context: Context) -> Message:
    """Train the model that came on this site's data."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    node, run = context.node_config, context.run_config
    x, y = load_data(node["partition-id"], node["num-partitions"])
    args = run["local-epochs"], run["learning-rate"], run["batch-size"]
    loss = train(net, x, y, *args)
    metrics = MetricRecord({"loss": loss, "num-examples": len(y)})
    record = {"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}
    return Message(content=RecordDict(record), reply_to=msg)
