"""Planted differences: a convention broken in one twin is caught, and where is said."""

from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from data.augment import batch_draws
from jax_impl import ema as jax_ema
from jax_impl import evaluate as jax_evaluate
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import step as jax_step
from jax_impl import trace as jax_trace
from jax_impl import weights as jax_weights
from jax_impl.layers import BatchNorm
from jax_impl.parallel import place_batch as jax_batch
from jax_impl.parallel import replicate as jax_place
from recipe.batch_plan import BatchPlan
from recipe.own_model import own_module
from recipe.pixels import pixel_affine
from record.metrics import evaluation_metrics
from record.run import AVERAGE
from record.weights import starting_weights
from report.parity.bounds import DIFFERENT, IDENTICAL
from report.parity.compare import compare
from report.parity.rounding import reach
from report.parity.trace import compare_traces
from tests.conftest import exhaustive_but
from tests.twins.conftest import TORCH
from tests.twins.steps import random_arrays, random_weights, record, with_average
from torch_impl import ema as torch_ema
from torch_impl import evaluate as torch_evaluate
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import step as torch_step
from torch_impl import trace as torch_trace
from torch_impl import weights as torch_weights
from torch_impl.parallel import place_batch as torch_batch
from torch_impl.parallel import replicate as torch_place

pytestmark = pytest.mark.usefixtures("promotion")  # custom models, and faults in them

# The same planted differences in a model without parameters that rounding alone moves,
# and with: a bias before a norm, a bias of keys. They begin at zero.
FOLDERS = {
    name: Path(__file__).parent / name
    for name in ("planted", "planted_biases", "planted_attention")
}
WANDERING = {
    "planted": [],
    "planted_biases": ["stem.bias"],
    "planted_attention": ["key.bias"],
}
EXAMPLES, BATCH, STEPS = 12, 4, 2
RECIPE = (
    *("model=custom", "precision=fp64", "data=synthetic"),
    *(
        "data.image_shape=[8,8,1]",
        f"train.global_batch_size={BATCH}",
        "optim.nesterov=true",
    ),
    *("optim.weight_decay=0.1", f"train.steps={STEPS}"),
)

AVERAGING, OF_STEM = ["optim.ema_decay=0.9"], "average of stem.kernel after the step"


@pytest.fixture
def steps(worlds):
    """The traces of each twin's steps, (trace, weights after it) one at a time.

    As they are asked for, and without compiling a graph that nothing else uses.
    """

    def steps(config):
        generator = np.random.default_rng(1)
        shape = EXAMPLES, *config.data.image_shape
        images = generator.integers(256, size=shape, dtype=np.uint8)
        labels = generator.integers(10, size=EXAMPLES, dtype=np.int32)
        data = (images, labels, *pixel_affine(config))
        if config.model.weights is None:
            weights = random_weights(config)
            for name in WANDERING[Path(config.model.folder).name]:
                weights[name][...] = 0
        else:
            weights = starting_weights(config)
        plan = BatchPlan.of(config, EXAMPLES)
        batches = [plan.indices(step) for step in range(STEPS)]
        draws = [batch_draws(config, plan, t, b) for t, b in enumerate(batches)]
        return zip(
            in_torch(config, data, weights, batches, draws),
            in_jax(config, data, weights, batches, draws, worlds[1]),
            strict=True,
        )

    with jax.disable_jit():
        yield steps


def in_torch(config, data, weights, batches, draws):
    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    optimizer = torch_optim.build_optimizer(config, model)
    average = torch_ema.build_average(config, model, weights, None, TORCH)
    for number, (rows, drawn) in enumerate(zip(batches, draws, strict=True), start=1):
        whole = torch_batch(rows, TORCH), torch_batch(drawn, TORCH)
        given = config, model, placed, *whole, None, None, number, TORCH
        trace = torch_trace.trace_step(*given)
        micro = torch_batch(rows[None], TORCH), torch_batch(a_row(drawn), TORCH)
        step = config, model, optimizer, placed, *micro, None, 0.1, None, TORCH
        torch_step.train_step(*step, average)
        averaged, _ = torch_ema.save_average(average, TORCH)
        after = with_average(torch_weights.save_weights(model, TORCH), averaged)
        yield trace, {name: array.copy() for name, array in after.items()}


def in_jax(config, data, weights, batches, draws, world):
    placed = jax_step.DeviceData(*jax_place(data, world))
    model = jax_model.build_model(config)
    graphdef, *states = jax_weights.load_weights(model, weights)
    optimizer = jax_optim.build_optimizer(config, states[0])
    params, statistics = jax_place(tuple(states), world)
    average = jax_ema.build_average(config, model, weights, None, world)
    slots = optimizer.init(params)
    state = jax_step.TrainState(params, statistics, slots, None, average)
    train = partial(jax_step.train_step, config, graphdef, optimizer, world)
    for number, (rows, drawn) in enumerate(zip(batches, draws, strict=True), start=1):
        whole = jax_batch(rows, world), jax_batch(drawn, world)
        given = config, graphdef, state, placed, *whole, None, number
        trace = jax_trace.trace_step(*given)
        micro = jax_batch(rows[None], world, 1), jax_batch(a_row(drawn), world, 1)
        state, _ = train(state, placed, *micro, None, 0.1)
        averaged, _ = jax_ema.save_average(state.average, world)
        saved = jax_weights.save_weights(state.params, state.statistics, world)
        yield trace, with_average(saved, averaged)


def a_row(drawn):
    """The batch's draws as those of one micro-batch."""
    return None if drawn is None else type(drawn)(*(column[None] for column in drawn))


def as_runs(config, steps):
    """Either twin's steps as its record would hold them."""
    runs = []
    for own in zip(*steps, strict=True):
        rows = [
            [float(trace.outputs["loss"]), norm_of(trace.gradients), 1.0, False]
            for trace, _ in own
        ]
        runs.append(record(config, np.array(rows), own[-1][1], TEST))
    return runs


TEST = {"loss": 1.0, "accuracy": None, "confusion": None}


def norm_of(gradients):
    return float(np.sqrt(sum(np.square(g).sum() for g in gradients.values())))


def judged(config, steps):
    """The end of the whole training, and the trace of each step."""
    steps = list(steps)
    runs = as_runs(config, steps)
    whole = compare(("a", runs[0]), ("b", runs[1]), "frameworks", None)
    traces = [
        compare_traces(
            *pair, [], experiment="", precision="fp64", reach=reach(runs, number)
        )
        for number, pair in enumerate(steps, start=1)
    ]
    return whole, traces


def first_to_part(traces):
    """The step, from 1, and what parts there; None where nothing does."""
    for number, verdict in enumerate(traces, start=1):
        if verdict.first is not None:
            return number, verdict.first.what, verdict.suspects
    return None


def in_model(change):
    """Plants in JAX's model, after it was built rightly."""

    def plant(monkeypatch, folder):
        own = own_module(str(folder), "jax_model.py")
        build_rightly = own.build_model

        def build(config):
            model = build_rightly(config)
            change(model)
            return model

        monkeypatch.setattr(own, "build_model", build)

    return plant


def same_padding(model):
    model.stem.padding = "SAME"


def another_eps(model):
    model.norm.eps = 1e-6


def flax_momentum(model):
    model.norm.momentum = 1 - model.norm.momentum


def unsynchronised(model):
    def of_each_device(self, x):
        halves = [BatchNorm.__call__(self, half) for half in jnp.split(x, 2)]
        return jnp.concatenate(halves)

    kind = type(model.norm)
    model.norm.__class__ = type(kind.__name__, (kind,), {"__call__": of_each_device})


def tanh_gelu(model):
    model.gelu = partial(jax.nn.gelu, approximate=True)


def biased_variance(monkeypatch, _):
    def update(self, mean, var, count):
        self.mean[...] += self.momentum * (mean - self.mean[...])
        self.var[...] += self.momentum * (var - self.var[...])

    monkeypatch.setattr(BatchNorm, "_update", update)


def fast_variance(monkeypatch, _):
    """E[x²] - E[x]², as Flax does unless told otherwise."""

    def call(self, x_BHWC):
        x_PC = x_BHWC.reshape(-1, x_BHWC.shape[-1])
        mean_C = self._average(x_PC)
        var_C = self._average(jnp.square(x_PC)) - jnp.square(mean_C)
        self._update(mean_C, var_C, len(x_PC))
        scale_C = self.scale * jax.lax.rsqrt(var_C + self.eps)
        return ((x_PC - mean_C) * scale_C + self.bias).reshape(x_BHWC.shape)

    monkeypatch.setattr(BatchNorm, "__call__", call)


def one_flipped_image(monkeypatch, _):
    rightly = jax_step.crop_and_flip

    def crop_and_flip(augment, images, indices, draws):
        flip = draws.flip.at[3].set(~draws.flip[3])
        return rightly(augment, images, indices, draws._replace(flip=flip))

    monkeypatch.setattr(jax_step, "crop_and_flip", crop_and_flip)


def two_examples_exchanged(monkeypatch, _):
    rightly = jax_step.gather

    def gather(config, data, indices, draws=None):
        swapped = indices.at[0].set(indices[1]).at[1].set(indices[0])
        return rightly(config, data, swapped, draws)

    monkeypatch.setattr(jax_step, "gather", gather)
    monkeypatch.setattr(jax_trace, "gather", gather)


def decay_after_momentum(monkeypatch, _):
    chain = optax.chain
    monkeypatch.setattr(jax_optim.optax, "chain", lambda *parts: chain(*parts[::-1]))


def dampening(monkeypatch, _):
    rightly = torch_optim.build_optimizer

    def build_optimizer(config, model):
        optimizer = rightly(config, model)
        for group in optimizer.param_groups:
            group["dampening"] = 0.1
        return optimizer

    monkeypatch.setattr(torch_optim, "build_optimizer", build_optimizer)


def clipping_without_a_millionth(monkeypatch, _):
    def clip_gradients(config, gradients, norm):
        scale = jnp.minimum(1.0, config.optim.clip_norm / norm)
        return jax.tree.map(lambda g: g * scale, gradients)

    monkeypatch.setattr(jax_step, "clip_gradients", clip_gradients)


def another_decay(monkeypatch, _):
    rightly = jax_ema.averaging_rate
    monkeypatch.setattr(
        jax_ema, "averaging_rate", lambda decay, *given: rightly(decay**2, *given)
    )


def no_bias_correction(monkeypatch, _):
    monkeypatch.setattr(torch_ema, "averaging_rate", lambda decay, updates: 1 - decay)


def averaged_before_the_update(monkeypatch, _):
    update, move = torch_step.apply_update, torch_step.move_average
    pending = []

    def apply_update(*given):
        pending.append(given)

    def move_average(*given):
        move(*given)
        update(*pending.pop())

    monkeypatch.setattr(torch_step, "apply_update", apply_update)
    monkeypatch.setattr(torch_step, "move_average", move_average)


def statistics_copied(monkeypatch, _):
    rightly = jax_step.move_average

    def move_average(config, average, params, statistics):
        moved = rightly(config, average, params, statistics)
        return moved and moved._replace(statistics=statistics)

    monkeypatch.setattr(jax_step, "move_average", move_average)


# What is planted, with what beside the recipe, the step and the place that it is to be
# named at, and a word of what is to be suspected. The right place is within one layer:
# a function between two, such as GELU, shows in what follows it.
PLANTED = {
    "wrong padding": (in_model(same_padding), [], 1, "the output of stem", "SAME"),
    "biased variance": (biased_variance, [], 1, "norm.var after the step", "biased"),
    "momentum convention": (
        in_model(flax_momentum),
        *([], 1, "norm.mean after the step", "flax's"),
    ),
    "decay after momentum": (
        decay_after_momentum,
        *([], 1, "stem.kernel after the step", "decay"),
    ),
    "dampening": (dampening, [], 1, "stem.kernel after the step", "dampening"),
    "variance in one pass": (
        fast_variance,
        *([], 1, "the output of norm", "use_fast_variance"),
    ),
    "one flipped image": (
        one_flipped_image,
        *(["data.augment.flip=true"], 1, "the input", "flip"),
    ),
    "examples out of order": (two_examples_exchanged, [], 1, "the input", "order"),
    "unsynchronised norm": (
        in_model(unsynchronised),
        *([], 1, "the output of norm", "one device's"),
    ),
    "eps": (in_model(another_eps), [], 1, "the output of norm", "eps"),
    "GELU by tanh": (in_model(tanh_gelu), [], 1, "the output of body", "GELU"),
    "clipping's eps": (
        clipping_without_a_millionth,
        *(["optim.clip_norm=0.1"], 1, "stem.kernel after the step", "1e-6"),
    ),
    "average's decay": (another_decay, AVERAGING, 2, OF_STEM, "decay"),
    "average's bias": (no_bias_correction, AVERAGING, 1, OF_STEM, "bias correction"),
    "averaged before the update": (
        averaged_before_the_update,
        *(AVERAGING, 1, OF_STEM, "before the update"),
    ),
    "statistics not averaged": (
        statistics_copied,
        *(AVERAGING, 2, "average of norm.mean after the step", "copied"),
    ),
}


UNPLANTED = [
    [],
    ["data.augment.flip=true", "optim.clip_norm=0.1"],
    ["optim=adamw", "optim.nesterov=false"],
    AVERAGING,
]


@pytest.mark.parametrize(
    ("model", "overrides"),
    exhaustive_but(
        [("planted", AVERAGING), *((name, []) for name in FOLDERS)],
        product(FOLDERS, UNPLANTED),
    ),
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_without_a_planted_difference_nothing_differs(
    model, overrides, steps, make_config
):
    config = make_config(*RECIPE, f"model.folder={FOLDERS[model]}", *overrides)
    whole, traces = judged(config, steps(config))
    assert whole.verdict == IDENTICAL, whole.broken
    assert first_to_part(traces) is None
    assert [t.wandering for t in traces] == [WANDERING[model]] * STEPS
    wandering = {name.removeprefix(AVERAGE) for name in whole.wandering}
    assert wandering - {"norm.mean"} == set(WANDERING[model])


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
@pytest.mark.parametrize("model", exhaustive_but(["planted_biases"], FOLDERS))
def test_biases_that_are_taken_out_again_may_begin_anywhere(
    model, optim, steps, make_config, tmp_path
):
    nesterov = f"optim.nesterov={str(optim == 'sgd').lower()}"
    given = *RECIPE, f"model.folder={FOLDERS[model]}", f"optim={optim}", nesterov
    file = tmp_path / "weights.safetensors"
    save_file(random_weights(make_config(*given)), file)
    config = make_config(*given, f"model.weights={file}")
    whole, traces = judged(config, steps(config))
    assert whole.verdict == IDENTICAL, whole.broken
    assert first_to_part(traces) is None


@pytest.mark.parametrize("model", exhaustive_but(["planted"], FOLDERS))
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_difference_is_named_within_one_layer_and_step(
    planted, model, steps, make_config, monkeypatch
):
    plant, overrides, step, place, suspect = PLANTED[planted]
    plant(monkeypatch, FOLDERS[model])
    config = make_config(*RECIPE, f"model.folder={FOLDERS[model]}", *overrides)
    whole, traces = judged(config, steps(config))
    number, what, suspects = first_to_part(traces)
    assert (number, what) == (step, place)
    assert suspect in suspects
    # Of a batch's examples the order changes no sum.
    alike = planted == "examples out of order"
    assert whole.verdict == (IDENTICAL if alike else DIFFERENT)


@pytest.mark.parametrize("model", exhaustive_but(["planted"], FOLDERS))
@pytest.mark.parametrize(
    ("planted", "verdict"), [(False, IDENTICAL), (True, DIFFERENT)]
)
def test_a_mean_of_means_changes_the_test_loss(
    planted, verdict, model, make_config, worlds, monkeypatch
):
    """Over 12 examples in batches of 8, the last of which holds four."""

    def mean_of_means(loss_sums, confusions, examples):
        metrics = evaluation_metrics(loss_sums, confusions, examples)
        return metrics | {"loss": float(np.mean(loss_sums / np.array([8, 4])))}

    if planted:
        monkeypatch.setattr(jax_evaluate, "evaluation_metrics", mean_of_means)
    given = f"model.folder={FOLDERS[model]}", "train.global_batch_size=8"
    config = make_config(*RECIPE, *given)
    weights = random_weights(config)
    data = (*(a[:12] for a in random_arrays(config)), *pixel_affine(config))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    placed = torch_step.DeviceData(*(torch_place(a, TORCH) for a in data))
    in_torch = torch_evaluate.evaluate(config, model, placed, 12, TORCH)

    graphdef, *states = jax_weights.load_weights(jax_model.build_model(config), weights)
    state = jax_step.TrainState(*jax_place(tuple(states), worlds[1]), None, None)
    evaluate = jax.jit(partial(jax_step.eval_step, config, graphdef, None))
    placed = jax_step.DeviceData(*jax_place(data, worlds[1]))
    in_jax = jax_evaluate.evaluate(config, evaluate, state, placed, 12, worlds[1])

    steps = np.array([[1.0, 1.0, 1.0, 0.0]])  # loss, gradient's norm, scale, skipped
    runs = [record(config, steps, weights, test) for test in (in_torch, in_jax)]
    found = compare(("a", runs[0]), ("b", runs[1]), "frameworks", None)
    assert found.verdict == verdict
    assert all("the test loss differs" in reason for reason in found.broken)
