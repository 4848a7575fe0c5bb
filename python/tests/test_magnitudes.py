"""Models whose tensors span magnitudes end where plaintext averaging ends."""

import numpy as np
import pytest
import torch
from magnitudes import CLIENTS, ROUNDS, SCALES, Plain, federate
from torch import nn

import cryptflow
from cryptflow.arrays import ArrayWeights
from cryptflow.client import layout_of
from cryptflow.errors import InputError, LayoutError
from cryptflow.session import Session, Tensor, compare_layouts
from cryptflow.torch import ModuleWeights


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cryptflow.LocalCluster(3, folder=tmp_path_factory.mktemp("cluster")) as c:
        yield c


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def fit(model, x, y):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for part in torch.arange(len(x)).split(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[part]), y[part]).backward()
        optimizer.step()


def loss(model, x, y):
    model.eval()
    with torch.no_grad():
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        return float(nn.functional.mse_loss(model(x), y))


SHARED = {"mode": "shared-key", "weight_cap": 60}


@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, {}), (2, SHARED)])
def test_a_batchnorm_over_raw_columns_ends_where_plaintext_does(cluster, seed, options):
    def build():
        return network(seed)

    plain = Plain(ModuleWeights(build()).layout)
    want, *_ = federate(build, ModuleWeights, fit, loss, [plain] * CLIENTS)
    task = f"raw-{seed}"
    cluster.create_task(task, build(), rounds=ROUNDS, **options)
    clients = [cluster.connect(i, task=task) for i in range(CLIENTS)]
    got, models, reports = federate(build, ModuleWeights, fit, loss, clients)
    for client in clients:
        client.close()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=0.01)
    assert want[-1] < want[0] / 5
    for one in models[1:]:
        for mine, other in zip(models[0].buffers(), one.buffers(), strict=True):
            assert torch.equal(mine, other) or not mine.is_floating_point()
    last = reports[-1][0]
    # Nearly all of it is rounding the largest channel's mean to float32.
    largest = float(models[0][0].running_var.max())
    assert last.bounds["0.running_var"] < largest * 2.0**-23
    assert last.clipped_total == 0
    assert last.coarse == ()


def test_constant_pixels_never_give_a_negative_variance(cluster):
    """Slots have no digits: what stays non-negative does by itself."""

    def build():
        torch.manual_seed(5)
        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1))

    def pixels(model, x, y):
        x = np.floor(np.abs(x) / SCALES)  # digits' counts, and what is constant
        x[:, 2:4] = 0
        fit(model, x, y)

    def variance(model, x, y):
        return float(model[0].running_var.min())

    cluster.create_task("pixels", build(), rounds=ROUNDS, encoding="slots")
    clients = [cluster.connect(i, task="pixels") for i in range(CLIENTS)]
    assert not any(t.precise for t in clients[0].layout)
    assert [t.name for t in clients[0].layout if t.nonnegative] == ["0.running_var"]
    smallest, *_ = federate(build, ModuleWeights, pixels, variance, clients)
    for client in clients:
        client.close()
    assert (smallest >= 0).all()


def test_a_tensor_that_drowns_is_named_once_with_its_cure(cluster, together, caplog):
    spread = np.float32([1e-6, 1e-5, 1, 100] * 50)
    first = {"table": spread, "even": np.ones(100, np.float32)}
    cluster.create_task("drowns", first, rounds=2)
    cure = "smaller values of 'table' are below the error that averaging may make: "
    cure += "create the task with more bits, or with precise=['table']"
    assert [r.getMessage() for r in caplog.records] == [cure]

    def take_part(i):
        mine = {name: a.copy() for name, a in first.items()}
        with cluster.connect(i, task="drowns") as client:
            fedavg = cryptflow.arrays.FedAvg(mine, client, 10)
            reports = []
            for _ in range(2):
                mine["table"] *= 1.5
                reports.append(fedavg.average())
        return reports

    caplog.clear()
    said = together(*[lambda i=i: take_part(i) for i in range(CLIENTS)])
    assert [r.getMessage() for r in caplog.records] == [cure] * CLIENTS
    for reports in said:
        for report in reports:
            assert report.coarse == ("table",)
            assert "coarse: 'table'" in str(report)
            assert "table" in report._repr_html_()
            assert report.to_dict()["coarse"] == ["table"]

    caplog.clear()
    cluster.create_task("keeps", first, rounds=2, precise=["tab*"])
    assert not caplog.records


def test_globs_add_and_take_away(cluster):
    first = network(0)
    with torch.no_grad():
        first[1].bias[0] = -0.5
    with pytest.raises(InputError, match=r"1\.bias.*non-negative"):
        cluster.create_task("globs", first, nonnegative=["1.bias"])
    cluster.create_task(
        "globs", first, precise=["1.*", "!*.running_mean"], nonnegative=["!*"]
    )
    with cluster.connect(0, task="globs") as client:
        precise = {t.name for t in client.layout if t.precise}
        assert precise == {"1.weight", "1.bias", "0.running_var"}
        assert not any(t.nonnegative for t in client.layout)
        listed = {t["name"]: t["precise"] for t in client.info["layout"]}
        assert listed["1.bias"]
    with pytest.raises(InputError, match=r"no tensor is called '2\.weigth'"):
        cluster.create_task("typo", first, precise=["2.weigth"])
    with pytest.raises(InputError, match="pass a list"):
        cluster.create_task("typo", first, nonnegative="*")
    with pytest.raises(InputError, match="needs lanes"):
        cluster.create_task("slots", first, precise=["*"], encoding="slots")
    private = cryptflow.Privacy(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5)
    with pytest.raises(InputError, match="precise, which a task with privacy"):
        cluster.create_task("noise", first, precise=["*"], privacy=private)
    cluster.create_task("noise", first, privacy=private)
    with cluster.connect(0, task="noise") as client:
        assert not any(t.precise for t in client.layout)


class Wrapped(nn.Module):
    """Layers of somebody's own, with buffers of every kind."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_var", torch.ones(3))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("table", torch.ones(1 << 9, 1 << 8))
        self.variance = nn.Parameter(torch.ones(3))
        self.running_mean = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("model", "precise", "nonnegative"),
    [
        (nn.BatchNorm2d(3), "running_mean running_var", "running_var"),
        (nn.SyncBatchNorm(3), "running_mean running_var", "running_var"),
        (
            nn.InstanceNorm1d(3, track_running_stats=True),
            "running_mean running_var",
            "running_var",
        ),
        (nn.LayerNorm(3), "", ""),
        (Wrapped(), "running_var scale", "running_var"),
        (
            torch.optim.swa_utils.AveragedModel(network(0)),
            "0.running_mean 0.running_var",
            "0.running_var",
        ),
        (
            torch.compile(nn.DataParallel(network(0))),
            "0.running_mean 0.running_var",
            "0.running_var",
        ),
        (nn.utils.spectral_norm(nn.Linear(3, 2)), "weight_u weight_v", ""),
        (
            nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
            "parametrizations.weight.0._u parametrizations.weight.0._v",
            "",
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_kinds_of_torch_buffers(model, precise, nonnegative):
    layout = ModuleWeights(model).layout
    assert [t.name for t in layout if t.precise] == precise.split()
    assert [t.name for t in layout if t.nonnegative] == nonnegative.split()


def test_moments_in_mappings_are_known_by_their_company():
    state = {name: t.numpy() for name, t in network(0).state_dict().items()}
    state |= {"adam/exp_avg": state["1.bias"], "adam/exp_avg_sq": state["1.bias"]}
    state |= {"lone.running_var": state["1.bias"], "x.mean": state["1.bias"]}
    state |= {"x.variance": state["1.weight"], "covariance": state["1.bias"]}
    state |= {"comean": state["1.bias"]}
    state |= {"rms.step": np.float32(3), "rms.square_avg": state["1.bias"]}
    for layout in (
        layout_of(state)[0],
        layout_of(([(n, a.shape) for n, a in state.items()], np.zeros(500)))[0],
        ArrayWeights({n: np.array(a, float) for n, a in state.items()}).layout,
    ):
        precise = ["0.running_mean", "0.running_var", "adam/exp_avg", "adam/exp_avg_sq"]
        precise.append("rms.square_avg")
        assert [t.name for t in layout if t.precise] == precise
        assert [t.name for t in layout if t.nonnegative] == [
            precise[k] for k in (1, 3, 4)
        ]


class Alone:
    """A cohort of one whose mean is given."""

    def __init__(self, layout, mean):
        self.layout, self.mean, self.asked = layout, np.float32(mean), 0

    def initial_model(self):
        return None

    def average(self, update, num_examples, metrics=None):
        self.asked += 1
        return self.mean, {}


def test_means_stop_at_zero_where_the_task_says_so():
    layout = [Tensor("mean", (2,)), Tensor("var", (3,), nonnegative=True)]
    mine = {"mean": np.float32([1, 2]), "var": np.float32([1e-9, 4, 0])}
    client = Alone(layout, [-3, -3, -2e-9, -1, -0.0])
    session = Session(ArrayWeights(mine), client, 1)
    session.average()
    assert mine["mean"].tolist() == [-2, -1]
    assert mine["var"].tolist() == [0, 3, 0]
    assert not np.signbit(mine["var"]).any()
    state = session.state_dict()
    assert state["master"].tolist() == [-2, -1, 0, 3, 0]

    mine["var"][1] = -1e-7
    with pytest.raises(InputError, match=r"'var' holds -1e-07.*nothing was sent"):
        session.average()
    assert client.asked == 1


def test_kinds_do_not_make_layouts_differ():
    plain = [Tensor("a", (2,)), Tensor("b", (3,))]
    kinds = [Tensor("a", (2,), precise=True), Tensor("b", (3,), nonnegative=True)]
    compare_layouts(plain, kinds)
    compare_layouts(kinds, plain)
    with pytest.raises(LayoutError):
        compare_layouts(kinds, [kinds[0], Tensor("b", (4,))])
