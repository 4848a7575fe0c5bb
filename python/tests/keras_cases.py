"""What FedAvg does in one process of Keras; test_keras.py runs it on each backend."""

import logging

import keras
import numpy as np
import pytest
from magnitudes import CLIENTS, ROUNDS, Plain, federate

from cryptflow import errors
from cryptflow.client import layout_of
from cryptflow.keras import FedAvg, ModelWeights
from cryptflow.session import Session, Tensor

BACKEND = keras.backend.backend()
SIZE = 81
BASE = [
    "dense/kernel",
    "dense/bias",
    "batch_normalization/gamma",
    "batch_normalization/beta",
    "batch_normalization/moving_mean",
    "batch_normalization/moving_variance",
    "dense_1/kernel",
    "dense_1/bias",
]
MODES = ["", "run_eagerly", "jit_compile", "steps_per_execution"]

if BACKEND == "torch":
    MODES = ["", "run_eagerly"]


def compiled(model, mode="", optimizer=None, **options):
    value = 2 if mode == "steps_per_execution" else True
    options |= {mode: value} if mode else {}
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **options)
    return model


def build(width=8, lazy=False):
    layers = [
        keras.layers.Dense(width, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1, seed=3),
        keras.layers.Dense(1),
    ]
    return keras.Sequential(layers if lazy else [keras.Input((4,)), *layers])


class Subclass(keras.Model):
    """As the guides write models: no shapes, layers in layers."""

    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
        self.norm = keras.layers.BatchNormalization()
        self.head = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.head(self.norm(self.body(x), training=training))


def data(seed, n=48):
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)


def names(model, **kwargs):
    return [t.name for t in ModelWeights(model, **kwargs).layout]


def flat(model):
    return layout_of(model)[1]


class Report:
    def __init__(self, number, metrics):
        self.number, self.metrics = number, metrics

    def scalars(self):
        means = {f"cohort_{k}": v for k, v in self.metrics.items()}
        return {"cohort_round": float(self.number), **means}


class Alone:
    """A cohort of one, whose mean is what `mean` makes of the update."""

    layout, metric_names = None, ("loss", "val_loss")

    def __init__(self, first=None, mean=np.copy):
        self.first, self.mean = first, mean
        self.updates, self.examples, self.metrics = [], [], []
        self.position, self.resumed = {"next": 0}, None

    def initial_model(self):
        return self.first

    def resume(self, position):
        self.resumed = position

    def average(self, update, num_examples, metrics=None):
        self.updates.append(update.copy())
        self.examples.append(num_examples)
        self.metrics.append(dict(metrics or {}))
        self.position = {"next": len(self.updates)}
        return self.mean(update), Report(len(self.updates) - 1, metrics or {})


def fit(model, *callbacks, epochs=1, seed=1, **options):
    x, y = data(seed)
    options = {"batch_size": 16, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def test_the_base_class_is_the_user_s():
    assert issubclass(FedAvg, keras.callbacks.Callback)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        assert tf.keras.callbacks.Callback is keras.callbacks.Callback
        assert isinstance(FedAvg(Alone(), 1), tf.keras.callbacks.Callback)


def test_names_do_not_depend_on_what_a_process_has_made(tmp_path):
    model, again = build(), build()
    assert model.weights[0].path != again.weights[0].path
    assert names(model) == names(again) == BASE
    lazy = build(lazy=True)
    lazy(np.zeros((1, 4)))
    assert names(lazy) == BASE
    assert names(keras.models.clone_model(model)) == BASE
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert names(loaded) == BASE
    for owner in (again, loaded):
        assert layout_of(owner)[0] == ModelWeights(model).layout


def test_names_of_models_in_models(tmp_path):
    def nested():
        inputs = keras.Input((4,))
        shared = keras.layers.Dense(1, name="block_7")
        return keras.Model(inputs, shared(shared(build()(inputs))))

    want = [*(f"sequential/{n}" for n in BASE), "block/kernel", "block/bias"]
    assert names(nested()) == want
    model = nested()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    paths = [w.path for w in model.weights], [w.path for w in loaded.weights]
    assert paths[0][0].count("/") == 2 and paths[1][0].count("/") == 1
    assert names(loaded) == want
    subclass = Subclass()
    subclass(np.zeros((1, 4)))
    assert names(subclass)[:5] == [
        "sequential/dense/kernel",
        "sequential/dense/bias",
        "sequential/dense_1/kernel",
        "sequential/dense_1/bias",
        "batch_normalization/gamma",
    ]
    assert len(set(names(subclass))) == 10


def test_weights_that_a_model_adds_have_names():
    class Adds(keras.Model):
        @property
        def weights(self):
            return [*super().weights, *other]

    other = [keras.Variable(np.zeros(2), name=n) for n in ("dense_3", "dense")]
    inputs = keras.Input((4,))
    model = Adds(inputs, keras.layers.Dense(1)(inputs))
    assert names(model) == ["dense/kernel", "dense/bias", "dense_1", "dense_2"]


def test_what_training_does_not_change_stays():
    model = build()
    model.layers[0].trainable = False
    model.layers[1].trainable = False  # its moments do not move either
    assert names(model) == BASE[6:]  # under the names that they had
    kernels = names(build(), include=lambda n: n.endswith("kernel"))
    assert kernels == ["dense/kernel", "dense_1/kernel"]
    model = build()
    model.layers[0].enable_lora(2)
    assert names(model)[:3] == [
        "dense/bias",
        "dense/lora_kernel_a",
        "dense/lora_kernel_b",
    ]
    assert not any("seed" in n for n in names(build()))


def test_seeds_integers_and_the_optimizer_keep_their_state():
    class Look(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            state = [
                *self.model.optimizer.variables,
                *(v for v in self.model.non_trainable_variables if "seed" in v.path),
                *norm.weights[-1:],
            ]
            self.seen.append([np.array(keras.ops.convert_to_numpy(v)) for v in state])

    norm = keras.layers.Normalization()
    norm.adapt(data(1)[0])
    assert norm.weights[-1].dtype in ("int32", "int64")
    model = keras.Sequential([keras.Input((4,)), norm, build()])
    assert any("seed" in v.path for v in model.non_trainable_variables)
    client = Alone(mean=lambda u: u + 0.5)
    before, after = Look(), Look()
    compiled(model, optimizer=keras.optimizers.Adam(0.01))
    fit(model, before, FedAvg(client, 5), after, epochs=2)
    for one, other in zip(before.seen, after.seen, strict=True):
        assert len(one) > 10
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)
    assert int(model.optimizer.iterations) == 6
    assert client.examples == [5, 5] and set(client.metrics[0]) == {"loss"}


def test_a_normalization_computes_with_the_task_s_moments():
    norm = keras.layers.Normalization()
    norm.adapt(data(1)[0] + 100)
    model = keras.Sequential([keras.Input((4,)), norm])
    assert names(model) == ["normalization/mean", "normalization/variance"]
    ModelWeights(model).write(np.repeat([0, 1], 4).astype(np.float32))
    x = data(2)[0]
    assert np.allclose(model.predict(x, verbose=0), x, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_replaced_weights_hold_in_every_way_to_run(mode):
    seen = []

    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(flat(self.model)[:32])

    marker = np.linspace(-1, 1, SIZE).astype(np.float32)
    client = Alone(marker, mean=lambda u: np.full_like(u, 0.5))
    model = compiled(build(), mode, keras.optimizers.SGD(0.0))
    fit(model, FedAvg(client, 3), Begin(), epochs=3)
    for i, got in enumerate(seen):
        assert np.array_equal(got, marker[:32] + np.float32(0.5 * i))
    kernel, bias = flat(model)[:32].reshape(4, 8), flat(model)[32:40]
    x = data(2)[0]
    probe = keras.Model(model.inputs, model.layers[0].output)
    want = np.maximum(x @ kernel + bias, 0)
    assert np.allclose(probe.predict(x, verbose=0), want, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "mode"),
    [(lambda: build(lazy=True), mode) for mode in MODES[:2] + MODES[3:]]
    + [(Subclass, mode) for mode in MODES[2:3] or [""]],
)
def test_a_model_without_an_input_starts_from_the_task_s(make, mode):
    """It trains exactly as one that was built before."""
    keras.utils.set_random_seed(1)
    built = make()
    built(np.zeros((1, 4)))
    first = flat(built) + np.float32(0.01)
    updates = []
    for model in (built, make()):
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0
        client = Alone(first)
        fit(compiled(model, mode), FedAvg(client, 3), epochs=2)
        assert int(model.optimizer.iterations) == 6  # no batch was spent
        updates.append(np.array(client.updates))
    assert np.abs(updates[0]).max() > 1e-3
    assert np.allclose(updates[0], updates[1], atol=1e-6)


def test_an_unbuilt_model_of_another_layout_is_refused_before_training():
    class Task(Alone):
        layout = ModelWeights(build(9)).layout

    for model in (build(lazy=True), build()):
        compiled(model)
        with pytest.raises(errors.LayoutError, match=r"\(4, 9\), the model \(4, 8\)"):
            fit(model, FedAvg(Task(), 3))
        assert int(model.optimizer.iterations) == 0
    with pytest.raises(errors.LayoutError, match=r"no weights yet.*keras\.Input"):
        ModelWeights(build(lazy=True))


def test_a_step_that_cannot_be_traced_says_what_to_do():
    class Numpy(Subclass):
        def train_step(self, *args):
            raise RuntimeError("only when run")

    model = compiled(Numpy(), "run_eagerly")
    if BACKEND == "tensorflow":
        with pytest.raises(errors.LayoutError, match="on one batch before fit"):
            fit(model, FedAvg(Alone(), 3))
        assert "first" not in model.train_function.__name__
    model(np.zeros((1, 4)))
    with pytest.raises(RuntimeError, match="only when run"):
        fit(model, FedAvg(Alone(), 3))


def test_a_model_with_its_own_train_step_needs_no_call():
    class Pair(keras.Model):
        """As in the guides on GANs: two models, and no call of its own."""

        def __init__(self):
            super().__init__()
            self.one, self.two = build(), build()

        def compile(self, *args, **kwargs):
            super().compile(loss="mse", optimizer="sgd")

        def train_step(self, batch):
            self.one.weights[0].assign_add(keras.ops.ones((4, 8)))
            return {"loss": keras.ops.mean(batch[0])}

    if BACKEND == "torch":  # Keras asks for a call there
        Pair.call = lambda self, x: self.two(self.one(x)[:, :1] + x)
    model, client = Pair(), Alone()
    assert len(names(model)) == 16
    model.compile()
    fit(model, FedAvg(client, 3))
    assert np.allclose(client.updates[0][:32], 3, atol=1e-5)
    assert not client.updates[0][32:].any()


@pytest.fixture
def policy():
    before = keras.mixed_precision.global_policy()
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16"])
def test_low_precision_keeps_small_means(policy, name):
    """Means below a weight's last bit add up in the float32 master."""
    policy(name)
    client = Alone(np.ones(SIZE, np.float32), lambda u: np.full_like(u, 0.001))
    model = compiled(build(), optimizer=keras.optimizers.SGD(0.0))
    fit(model, FedAvg(client, 3), epochs=8)
    assert str(model.weights[0].dtype) == name.replace("mixed_bfloat16", "float32")
    assert np.abs(flat(model)[:32] - 1.008).max() < 2**-8


def test_mixed_float16_with_a_scaled_loss(policy):
    policy("mixed_float16")
    client = Alone()
    model = compiled(build(), optimizer="adam")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    fit(model, FedAvg(client, 3), epochs=2)
    assert len(client.updates) == 2 and np.isfinite(client.updates).all()
    assert int(model.optimizer.inner_optimizer.iterations) > 0


def test_what_callbacks_before_and_after_it_see(tmp_path, capsys):
    logs_after, cohort = [], []

    class After(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs_after.append(sorted(logs))
            cohort.append(self.model.evaluate(*data(2), verbose=0))

    def saver(name):
        return keras.callbacks.ModelCheckpoint(
            tmp_path / f"{name}{{epoch}}.weights.h5", save_weights_only=True
        )

    first = flat(build())
    client = Alone(first, mean=np.zeros_like)
    model = compiled(build())
    fedavg = FedAvg(client, 3, epochs_per_round=2)
    history = fit(
        model, saver("local"), fedavg, After(), saver("cohort"),
        epochs=4, validation_data=data(2), verbose=2,
    ).history  # fmt: skip
    local, round_ = ["loss", "val_loss"], ["cohort_loss", "cohort_round"]
    both = sorted([*local, *round_, "cohort_val_loss"])
    assert logs_after == [local, both, local, both]
    assert history["cohort_round"] == [0.0, 1.0]
    assert "cohort_loss: " in capsys.readouterr().out
    assert len(fedavg.reports) == 2 and fedavg.initial_epoch == 4
    # What travels of the metrics is the round's last epoch.
    assert client.metrics[0] == {k: history[k][1] for k in local}
    # Validation ran before the averaging, the other callback's after it.
    other = compiled(build())
    for name, epoch, value in [
        ("local", 2, history["val_loss"][1]),
        ("cohort", 2, cohort[1]),
        ("cohort", 4, cohort[3]),
    ]:
        other.load_weights(tmp_path / f"{name}{epoch}.weights.h5")
        assert np.isclose(other.evaluate(*data(2), verbose=0), value, rtol=1e-4)
        assert np.array_equal(flat(other), first) == (name == "cohort")
    assert cohort[1] == cohort[3] != history["val_loss"][1]
    assert np.array_equal(flat(model), first)


def test_early_stopping_by_the_cohort_s_numbers():
    """All stop in one round, with the cohort's model of the best."""
    bits = [flat(build()) for _ in range(2)]
    client = Alone(bits[0], mean=np.zeros_like)
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    client.metric_names = ()

    class Value(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["cohort_val_loss"] = next(values)
            if epoch == 1:
                best.append(flat(self.model))

    best = []
    stop = keras.callbacks.EarlyStopping(
        monitor="cohort_val_loss",
        mode="min",
        patience=2,
        restore_best_weights=True,
    )
    client.mean = lambda u: np.full_like(u, 0.125)
    model, fedavg = compiled(build()), FedAvg(client, 3)
    fit(model, fedavg, Value(), stop, epochs=9)
    assert len(client.updates) == 4
    assert np.array_equal(flat(model), best[0])
    # A further fit starts from the cohort's last model, as everybody's does.
    at = []

    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            at.append(flat(self.model))

    fit(model, fedavg, Begin())
    assert np.allclose(at[0], bits[0] + 0.5, atol=1e-6) and len(client.updates) == 5


def test_a_further_fit_asks_first_whether_the_client_can_take_part(caplog):
    def ended():
        raise errors.RoundError("the task has ended")

    def closed():
        raise errors.InputError("this client is closed")

    client = Alone()
    model, fedavg = compiled(build()), FedAvg(client, 3)
    fit(model, fedavg)
    client.ready = ended
    fit(model, fedavg)
    assert "in vain: the task has ended" in caplog.text
    steps, client.ready = int(model.optimizer.iterations), closed
    with pytest.raises(errors.InputError, match="closed"):
        fit(model, fedavg)
    assert int(model.optimizer.iterations) == steps


def test_a_round_may_span_two_fits(caplog):
    client = Alone()
    client.metric_names = ("loss",)
    model = compiled(build())
    fedavg, before = FedAvg(client, 3, epochs_per_round=2), flat(model)
    with caplog.at_level(logging.WARNING, "cryptflow"):
        fit(model, fedavg)
    assert "training ended inside a round" in caplog.text and not client.updates
    caplog.clear()
    fit(model, fedavg)
    assert not caplog.records
    assert np.allclose(client.updates[0], flat(model) - before, atol=1e-6)


def test_an_averaging_that_fails_ends_fit_and_loses_nothing():
    def gone(update):
        raise errors.UnavailableError("gone")

    client = Alone(mean=gone)
    model = compiled(build())
    fedavg, before = FedAvg(client, 3), flat(model)
    with pytest.raises(errors.UnavailableError):
        fit(model, fedavg)
    trained = flat(model)
    assert np.array_equal(client.updates[0], trained - before)
    client.mean = np.copy
    fit(model, fedavg)
    assert np.abs(client.updates[1]).max() > np.abs(client.updates[0]).max()
    assert fedavg.initial_epoch == 1 and len(fedavg.reports) == 1


def test_another_process_goes_on_from_a_backup(tmp_path):
    path = tmp_path / "fedavg.npz"
    client = Alone()
    model = compiled(build())
    fit(model, FedAvg(client, 3, backup=path), epochs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["fedavg.npz"]
    again = Alone(first=np.full(SIZE, 9, np.float32))
    fedavg = FedAvg(again, 3, backup=path)
    assert fedavg.initial_epoch == 2
    other = compiled(build(lazy=True))
    history = fit(other, fedavg, epochs=3, initial_epoch=fedavg.initial_epoch)
    assert history.epoch == [2] and again.resumed == {"next": 2}
    assert np.allclose(flat(other) - again.updates[0], flat(model), atol=1e-6)
    assert FedAvg(again, 3, backup=path).initial_epoch == 3
    # Rounds of two epochs now: the one that is under way has an epoch already.
    fedavg = FedAvg(again, 3, epochs_per_round=2, backup=path)
    fit(other, fedavg)
    assert len(fedavg.reports) == 1 and fedavg.initial_epoch == 4
    assert FedAvg(again, 3, backup=path).initial_epoch == 4
    wrong = compiled(build(9))
    with pytest.raises(errors.RoundError, match="values for a model"):
        fit(wrong, FedAvg(Alone(), 3, backup=path))
    with np.load(path) as file:
        held = dict(file)
    for content in (b"PK\x03\x04 torn", held["master"], {**held, "rest": "{}"}):
        with path.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            elif isinstance(content, dict):
                np.savez(file, **content)
            else:
                np.save(file, content)
        with pytest.raises(errors.CorruptError, match="not a backup"):
            FedAvg(Alone(), 3, backup=path)


def test_what_cannot_work_is_refused_before_training(tmp_path):
    for backup in (tmp_path, tmp_path / "missing" / "fedavg.npz"):
        with pytest.raises(errors.InputError, match="a folder that exists"):
            FedAvg(Alone(), 3, backup=backup)
    with pytest.raises(errors.InputError, match="pass a function"):
        FedAvg(Alone(), 3, include=["dense/kernel"])
    model = compiled(build())
    for client in (None, "client.toml", Alone):
        with pytest.raises(errors.InputError, match="what cryptflow"):
            FedAvg(client, 3)
    with pytest.raises(errors.InputError, match="pass the adapter's ModelWeights"):
        Session(model, Alone(), 3)
    with pytest.raises(errors.LayoutError, match="is every layer frozen"):
        fit(model, FedAvg(Alone(), 3, include=lambda name: False))


def test_one_callback_belongs_to_one_model_and_one_set_of_weights():
    client = Alone()
    model, fedavg = compiled(build()), FedAvg(client, 3)
    fit(model, fedavg)
    for other in (build(), build(9), build(lazy=True)):
        with pytest.raises(errors.InputError, match="another model") as caught:
            fit(compiled(other), fedavg)
        assert caught.value.code == "CF_ARGUMENT"
    model.layers[0].trainable = False
    with pytest.raises(errors.LayoutError, match=r"other weights .* are trainable"):
        fit(compiled(model), fedavg)
    assert len(client.updates) == 1


def test_a_model_of_another_keras_is_refused():
    class Legacy:
        pass

    with pytest.raises(errors.InputError, match="TF_USE_LEGACY_KERAS"):
        FedAvg(Alone(), 3).set_model(Legacy())


def test_no_batch_in_the_first_epoch_is_an_error():
    fedavg = FedAvg(Alone(), 3)
    fedavg.set_model(build(lazy=True))
    fedavg.on_train_begin()
    with pytest.raises(errors.LayoutError, match="no batch"):
        fedavg.on_epoch_end(0, {})


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_numbers_are_checked_before_training(bad):
    with pytest.raises(errors.InputError, match="num_examples"):
        FedAvg(Alone(), num_examples=bad)


def test_scalars_and_strides_round_trip():
    model = build()
    values = np.arange(SIZE, dtype=np.float32)
    weights = ModelWeights(model)
    weights.write(values)
    values[:] = -1  # what was written is a copy
    assert np.array_equal(flat(model), np.arange(SIZE))
    assert weights.layout[0] == Tensor("dense/kernel", (4, 8))


def test_kinds_of_weights():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Normalization(),
            layers.SpectralNormalization(layers.Conv2D(2, 3)),
            layers.BatchNormalization(),
            layers.GroupNormalization(1),
            Scaled(),
        ]
    )
    layout = ModelWeights(model).layout
    assert [t.name for t in layout if t.nonnegative] == [
        "normalization/variance",
        "batch_normalization/moving_variance",
        "scaled/moving_variance",
    ]
    trained = {"kernel", "bias", "gamma", "beta", "variance"}
    for tensor in layout:
        last = tensor.name.rpartition("/")[2]
        buffer = last not in trained or tensor.name == "normalization/variance"
        assert tensor.precise == buffer, tensor
    assert sum(t.precise for t in layout) >= 6


class Scaled(keras.layers.Layer):
    """A layer of somebody's own, with a parameter that is named like a moment."""

    def build(self, shape):
        self.variance = self.add_weight(name="variance", shape=(2,))
        for name in ("moving_variance", "shift"):
            self.add_weight(name=name, shape=(2,), trainable=False)

    def call(self, x):
        return x * self.variance


def test_a_batchnorm_over_raw_columns_ends_where_plaintext_does():
    import cryptflow

    def make():
        keras.utils.set_random_seed(3)
        layers = keras.layers
        body = [layers.BatchNormalization(), layers.Dense(8, activation="tanh")]
        model = keras.Sequential([keras.Input((5,)), *body, layers.Dense(1)])
        return compiled(model)

    def train(model, x, y):
        for part in range(0, len(x), 12):
            model.train_on_batch(x[part : part + 12], y[part : part + 12])

    def loss(model, x, y):
        return float(np.mean((keras.ops.convert_to_numpy(model(x)) - y) ** 2))

    plain = Plain(ModelWeights(make()).layout)
    want, *_ = federate(make, ModelWeights, train, loss, [plain] * CLIENTS)
    with cryptflow.LocalCluster(CLIENTS) as cluster:
        cluster.create_task("raw", make(), rounds=ROUNDS)
        clients = [cluster.connect(i, task="raw") for i in range(CLIENTS)]
        got, *_ = federate(make, ModelWeights, train, loss, clients)
        for client in clients:
            client.close()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=0.01)
