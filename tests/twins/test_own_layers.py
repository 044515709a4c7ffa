"""docs/own-layers.md: each pair it shows is the same, and a fault in it is named."""

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from rich.console import Console
from torch import nn

from jax_impl.model import build_model as build_jax
from jax_impl.optim import build_optimizer, save_optimizer_state
from jax_impl.parallel import place_state
from jax_impl.precision import dtypes
from jax_impl.recurrent import LSTM
from jax_impl.weights import leaf_shapes as jax_shapes
from jax_impl.weights import load_weights as load_jax
from jax_impl.weights import save_weights as save_jax
from launch.leaves import listed_leaves
from launch.own import hold
from launch.own_twin import in_jax, in_torch, leaves_of
from launch.trace import show_layers
from recipe.errors import ConfigError
from recipe.leaves import wrong_leaves
from recipe.weights import random_weights, weight_shapes
from report.parity.bounds import DIFFERENT, IDENTICAL
from tests.conftest import ROOT, exhaustive_but
from tests.launch.pages import files_of, write_files
from tests.twins.conftest import TORCH
from torch_impl.model import build_model as build_torch
from torch_impl.precision import dtypes as torch_dtypes
from torch_impl.recurrent import LSTM as TorchLSTM
from torch_impl.weights import canonical_names, leaf_shapes, load_weights, save_weights

PAGE = (ROOT / "docs" / "own-layers.md").read_text()
KINDS = sorted({name.partition("/")[0] for name in files_of(PAGE)})
pytestmark = pytest.mark.usefixtures("promotion")
OF_ONE_PIECE = "functions", "linen"  # in JAX, where a trace sees no layer of theirs

SWAPPED_GRU = """
class Swapped(GRU):
    def _product(self, dense, x):
        r, z, n = jnp.split(super()._product(dense, x), 3, axis=-1)
        return jnp.concatenate([z, r, n], axis=-1)


class Model("""
SWAPPED_LSTM = """
class Swapped(LSTM):
    def _given(self, x):
        x, state, weights, options = super()._given(x)
        return x, state, [w[self.order(w)] for w in weights], options

    def order(self, w):
        i, f, g, o = torch.arange(len(w)).chunk(4)
        return torch.cat([f, i, g, o])


class Model("""
FLAXS_NORM = "nnx.BatchNorm(after, momentum=0.9, use_fast_variance=False, rngs=rngs)"
DUETS_NORM = "BatchNorm(after, config.model.norm, dtypes(config))"

# Of a kind: the twin, {what it says: what it is made to say}, where the two part.
FAULTS = {
    "momentum": (
        *(
            "batchnorm",
            "torch",
            {"BatchNorm2d(after": "BatchNorm2d(after, momentum=0.01"},
        ),
        "block.0.norm.mean after the step",
    ),
    "eps": (
        *("batchnorm", "torch", {"2d(after)": "2d(after, eps=1e-3)"}),
        "the output of block.0.norm",
    ),
    "biased variance": (
        *("batchnorm", "jax", {DUETS_NORM: FLAXS_NORM}),
        "block.0.norm.var after the step",
    ),
    "statistics of the batch in evaluation": (
        *(
            "batchnorm",
            "torch",
            {"self.norm(self.conv(x))": "self.norm.train()(self.conv(x))"},
        ),
        "the evaluation",
    ),
    "missing scale": ("attention", "jax", {" * scale)": ")"}, "the output of out"),
    "epsilon of Flax": (
        *("attention", "jax", {"epsilon=1e-5, ": ""}),
        "the output of norm",
    ),
    "transposed kernel": (
        *("attention", "jax", {"self.out(mixture)": "mixture @ self.out.kernel.T"}),
        "the output of head",
    ),
    "fp32": ("embedding", "jax", {"dtype=dtype, ": ""}, "the output of token"),
    "tokens across": (
        *("embedding", "torch", {".flatten(1)": ".mT.flatten(1)"}),
        "the output of token",
    ),
    "gates of a GRU": (
        *("gru", "jax", {"class Model(": SWAPPED_GRU, "= GRU(": "= Swapped("}),
        "the output of rnn",
    ),
    "first state": ("gru", "torch", {"[:, -1]": "[:, 0]"}, "the output of head"),
    "gates of an LSTM": (
        *("lstm", "torch", {"class Model(": SWAPPED_LSTM, "= LSTM(": "= Swapped("}),
        "the output of rnn",
    ),
    "attention taken for images": (
        *("dropout", "torch", {"AxisDropout(0.1, channels=-1)": "nn.Dropout(0.1)"}),
        "the output of block.0.shares",
    ),
    "dropout before a dense layer": (
        *("dropout", "jax", {"tokens(nnx.relu(self.out(x)))": "out(self.tokens(x))"}),
        "the output of block.0.out",
    ),
    "dropout called in another order": (
        "dropout",
        "torch",
        {"self.tokens(mixture)": "(self.tokens(x), self.tokens(mixture))[1]"},
        "the output of block.0.tokens",
    ),
}
DROPPED = {"self.tokens = nn.Dropout(0.2)": "self.tokens = nn.Dropout(0.3)"}
NONE = {"self.tokens = nn.Dropout(0.2)": "self.tokens = nn.Identity()"}


@pytest.fixture
def pair(tmp_path, make_config):
    """The config of a pair as the page has it, or with one twin's text replaced."""

    def pair(kind, twin="torch", replaced=None):
        write_files(PAGE, tmp_path)
        file = tmp_path / kind / f"{twin}_model.py"
        text = file.read_text()
        for right, wrong in (replaced or {}).items():
            assert right in text
            text = text.replace(right, wrong)
        imports = {"jax": "import jax.numpy as jnp\n", "torch": "import torch\n"}[twin]
        file.write_text(imports + text)
        folder = f"model.folder={tmp_path / kind}"
        recipe = "experiment=digits_cnn", "model=custom", "precision=fp64", folder
        return make_config(*recipe, "train.global_batch_size=8", "platform=cpu")

    return pair


def rewrite(config, name, replaced):
    """Replace text in one of a pair's files."""
    file = Path(config.model.folder, name)
    text = file.read_text()
    for right, wrong in replaced.items():
        assert right in text
        text = text.replace(right, wrong)
    file.write_text(text)


@pytest.fixture
def verdict(worlds):
    def verdict(config):
        weights = random_weights(config)
        ours = in_torch(config, weights, worlds[0]), in_jax(config, weights, worlds[1])
        return hold("pair", *ours)

    return verdict


@pytest.mark.parametrize("kind", exhaustive_but(["attention", "batchnorm"], KINDS))
def test_a_pair_of_the_page_is_the_same(kind, pair, verdict):
    config = pair(kind)
    held = leaf_shapes(build_torch(config)), jax_shapes(build_jax(config))
    assert held == (weight_shapes(config), weight_shapes(config))
    found = verdict(config)
    assert found.verdict == IDENTICAL, found.message
    assert bool(found.alone) == (kind in OF_ONE_PIECE)


def test_a_prelu_is_the_same_from_the_layers_of_both_frameworks(pair, verdict):
    norm, relu = "self.norm = nn.BatchNorm2d(after)", "F.relu(self.norm"
    slope = "\n        self.act = nn.PReLU()"
    config = pair(
        "batchnorm", "torch", {norm: norm + slope, relu: "self.act(self.norm"}
    )
    norm, relu = f"self.norm = {DUETS_NORM}", "nnx.relu(self.norm"
    slope = "\n        self.act = nnx.PReLU()"
    rewrite(config, "jax_model.py", {norm: norm + slope, relu: "self.act(self.norm"})
    listed = 'shapes[f"block.{i}.act.negative_slope"] = ()\n        before = after'
    rewrite(config, "shapes.py", {"before = after": listed})
    found = verdict(config)
    assert found.verdict == IDENTICAL, found.message


def test_a_leaf_without_axes_is_saved_as_an_array_which_a_file_can_hold(worlds):
    class Jax(nnx.Module):
        def __init__(self):
            self.act = nnx.PReLU()

    weights = {"act.negative_slope": np.array(0.5, np.float32)}
    with torch.device("meta"):
        model = nn.ModuleDict({"act": nn.PReLU()})
    load_weights(model, weights, TORCH)
    _, *states = load_jax(Jax(), weights)
    params, statistics = (place_state(state, worlds[1]) for state in states)
    in_both = save_weights(model, TORCH), save_jax(params, statistics, worlds[1])
    for saved in map(safetensors.numpy.load, map(safetensors.numpy.save, in_both)):
        assert saved["act.negative_slope"].shape == ()
        np.testing.assert_array_equal(saved["act.negative_slope"], 0.5)


TORCH_CELL = """
from torch import nn


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.rnn = nn.{cell}(config.data.image_shape[1], 16)
        self.head = nn.Linear(16, config.data.classes)

    def forward(self, x):
        state = None
        for row in x[:, 0, :4].unbind(1):
            state = self.rnn(row, state)
        return self.head({state})


build_model = Model
"""
JAX_CELL = """
import jax.numpy as jnp
from flax import nnx


class Model(nnx.Module):
    def __init__(self, config):
        features, rngs = config.data.image_shape[1], nnx.Rngs(0)
        self.rnn = nnx.{cell}(features, 16, dtype=jnp.float64, rngs=rngs)
        self.rnn.{second}, {gates} * 16, rngs=rngs)
        self.head = nnx.Linear(16, config.data.classes, rngs=rngs)

    def __call__(self, x):
        zeros = jnp.zeros((len(x), 16), x.dtype)
        state = {state}
        for i in range(4):
            state, out = self.rnn(state, x[:, i, :, 0])
        return self.head(out)


build_model = Model
"""


@pytest.mark.parametrize(
    ("torchs", "flaxs", "gates", "second"),
    [
        ("RNNCell", "SimpleCell", 1, "dense_h = nnx.Linear(16"),
        ("GRUCell", "GRUCell", 3, "dense_h = nnx.Linear(16"),
        ("LSTMCell", "OptimizedLSTMCell", 4, "dense_i = nnx.Linear(features"),
    ],
)
def test_a_cell_is_the_same_from_the_layers_of_both_frameworks(
    torchs, flaxs, gates, second, pair, verdict
):
    """Flax's with the bias that it is without, in a loop over rows."""
    config = pair("gru")
    folder = Path(config.model.folder)
    state, zeros = "state", "zeros"
    if torchs == "LSTMCell":  # (h, c), and Flax's (c, h)
        state, zeros = "state[0]", "zeros, zeros"
    (folder / "torch_model.py").write_text(TORCH_CELL.format(cell=torchs, state=state))
    (folder / "jax_model.py").write_text(
        JAX_CELL.format(cell=flaxs, second=second, gates=gates, state=zeros)
    )
    rewrite(config, "shapes.py", {"3 * 16": f"{gates} * 16"})
    found = verdict(config)
    assert found.verdict == IDENTICAL, found.message


# One of every pair of twins that has faults, and those that no output shows.
SHOWN = [
    *("biased variance", "statistics of the batch in evaluation", "missing scale"),
    *("fp32", "gates of a GRU", "gates of an LSTM", "attention taken for images"),
]


@pytest.mark.parametrize("fault", exhaustive_but(SHOWN, FAULTS))
def test_a_fault_is_named_by_where_the_twins_part(fault, pair, verdict):
    kind, twin, replaced, where = FAULTS[fault]
    found = verdict(pair(kind, twin, replaced))
    assert found.verdict == DIFFERENT
    assert found.first.what == where
    assert found.suspects


def test_only_a_bias_before_a_norm_is_not_compared(pair, verdict):
    assert verdict(pair("batchnorm")).wandering == [
        "block.0.conv.bias",
        "block.1.conv.bias",
    ]
    assert not verdict(pair("attention")).wandering


@pytest.mark.parametrize(
    ("replaced", "told"),
    [
        (DROPPED, "block.0.tokens.rate is 0.3 in torch_model.py, 0.2 in jax_model.py"),
        (NONE, "block.0.tokens.rate is in one twin alone: nothing in torch_model.py"),
    ],
)
def test_dropout_of_one_twin_alone_is_reported_before_any_step(replaced, told, pair):
    config = pair("dropout", "torch", replaced)
    found = wrong_leaves(
        *(leaves_of(twin, config) for twin in ("torch", "jax")), listed_leaves(config)
    )
    assert [line.partition(" ")[0] for line in found] == [
        *("block.0.tokens.rate", "block.1.tokens.rate")
    ]
    assert found[0].startswith(told)
    with pytest.raises(ConfigError, match="block.0.tokens drops .* and 0.2 in drop"):
        build_torch(config)


def test_dropout_of_the_images_themselves_is_looked_at_too(pair, verdict):
    """No gradient goes through it, there being no weight before it."""
    dropped = "x = F.relu(self.stem(self.pixels(x)))"
    config = pair(
        "dropout", "torch", {"x = self.pixels(F.relu(self.stem(x)))": dropped}
    )
    twin = Path(config.model.folder) / "jax_model.py"
    text = twin.read_text()
    right = "self.pixels(nnx.relu(self.stem(x)))"
    assert right in text
    twin.write_text(text.replace(right, "nnx.relu(self.stem(self.pixels(x)))"))
    found = verdict(config)
    assert found.verdict == IDENTICAL, found.message
    assert any(d.what == "the gradient of pixels's output" for d in found.differences)


def test_features_that_are_the_last_of_four_axes_are_no_channels_of_images(
    pair, verdict
):
    """As of ConvNeXt's dense layers, and of a norm of each head's queries."""
    of_pixels = "self.head(x.permute(0, 2, 3, 1)).mean((1, 2))"
    config = pair("batchnorm", "torch", {"self.head(x.mean((2, 3)))": of_pixels})
    twin = Path(config.model.folder) / "jax_model.py"
    right = "self.head(x.mean((1, 2)))"
    assert right in (text := twin.read_text())
    twin.write_text(text.replace(right, "self.head(x).mean((1, 2))"))
    found = verdict(config)
    assert found.verdict == IDENTICAL, found.message


@pytest.mark.parametrize(
    ("given", "where"),
    [("", "evaluation is random: it"), (", self.training", "the forward pass")],
)
def test_what_draws_from_torchs_own_generator_is_refused(given, where, pair, verdict):
    drawn = {"self.tokens(mixture)": f"F.dropout(mixture, 0.2{given})"}
    told = f"torch_model.py: {where} draws from torch's generator.* keep an nn.Dropout"
    with pytest.raises(ConfigError, match=told):
        verdict(pair("dropout", "torch", drawn))


def test_a_layer_is_shown_once_however_often_it_is_called_by_the_users_name(
    pair, verdict
):
    with io.StringIO() as said:
        show_layers(verdict(pair("dropout")), Console(file=said, width=200))
        rows = [line.split("  ") for line in said.getvalue().splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()][:3] for row in rows]
    assert [row for row in rows if row and "block.0." in row[0]] == [
        ["block.0.value", "Linear", "Linear"],
        ["block.0.shares", "AxisDropout", "Dropout"],
        ["block.0.tokens × 2", "Dropout", "Dropout"],
        ["block.0.out", "Linear", "Linear"],
    ]


class Shared(nn.Module):
    """Two names of one embedding, as language models have them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 6, bias=False)
        self.token = nn.Embedding(6, 4)
        self.head.weight = self.token.weight


def test_a_shared_parameter_is_one_leaf_and_stays_one():
    with torch.device("meta"):
        model = Shared().double()
    assert leaf_shapes(model) == {"token.embedding": (6, 4)}
    weights = {"token.embedding": np.arange(24.0).reshape(6, 4)}
    load_weights(model, weights, TORCH)
    assert model.head.weight is model.token.weight
    assert [name for name, _ in model.named_parameters()] == ["head.weight"]
    saved = save_weights(model, TORCH)
    np.testing.assert_array_equal(saved["token.embedding"], weights["token.embedding"])


def test_a_shared_norm_has_one_set_of_statistics_as_in_flax():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.second = self.first = nn.BatchNorm2d(3)

    class Jax(nnx.Module):
        def __init__(self):
            self.second = self.first = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    leaves = [f"first.{leaf}" for leaf in ("scale", "bias", "mean", "var")]
    expected = dict.fromkeys(leaves, (3,))
    assert leaf_shapes(Torch()) == jax_shapes(Jax()) == expected
    model = Torch().double()
    weights = {name: np.full(3, i + 1.0) for i, name in enumerate(expected)}
    load_weights(model, weights, TORCH)
    assert model.second.running_mean is model.first.running_mean
    for name, array in save_weights(model, TORCH).items():
        np.testing.assert_array_equal(array, weights[name])


def test_a_shared_module_has_the_same_name_in_both():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.second = self.first = nn.Linear(2, 3)

    class Jax(nnx.Module):
        def __init__(self):
            self.second = self.first = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    expected = {"first.kernel": (2, 3), "first.bias": (3,)}
    assert leaf_shapes(Torch()) == jax_shapes(Jax()) == expected


def test_every_layer_of_torchs_has_its_canonical_name():
    model = nn.ModuleDict(
        {
            "bn": nn.BatchNorm1d(2),
            "ln": nn.LayerNorm((2, 3)),
            "conv": nn.Conv1d(2, 3, 5, bias=False),
            "rnn": nn.LSTM(2, 3, num_layers=2, bias=False),
            "cell": nn.LSTMCell(2, 3),
            "relu": nn.PReLU(),
            "relus": nn.PReLU(2),
        }
    )
    assert leaf_shapes(model) == {
        "bn.scale": (2,),
        "bn.bias": (2,),
        "bn.mean": (2,),
        "bn.var": (2,),
        "ln.scale": (2, 3),
        "ln.bias": (2, 3),
        "conv.kernel": (5, 2, 3),
        "rnn.0.dense_i.kernel": (2, 12),
        "rnn.0.dense_h.kernel": (3, 12),
        "rnn.1.dense_i.kernel": (3, 12),
        "rnn.1.dense_h.kernel": (3, 12),
        "cell.dense_i.kernel": (2, 12),
        "cell.dense_h.kernel": (3, 12),
        "cell.dense_i.bias": (12,),
        "cell.dense_h.bias": (12,),
        "relu.negative_slope": (),
        "relus.negative_slope": (2,),
    }
    assert "bn.num_batches_tracked" not in canonical_names(model)


def test_a_cell_has_the_name_of_its_nnx_rnn_and_of_nothing_else(make_config, worlds):
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = TorchLSTM(2, 3, torch_dtypes(config), bias_i=False)
            self.rnn = TorchLSTM(2, 3, torch_dtypes(config), bias_i=False)

    class Jax(nnx.Module):
        def __init__(self):
            self.cell = LSTM(2, 3, dtypes(config), bias_i=False)
            cell = nnx.OptimizedLSTMCell(2, 3, rngs=nnx.Rngs(0))
            self.rnn = nnx.RNN(cell, rngs=False)

    config = make_config("optim.momentum=0.9")
    kernels = {"dense_i.kernel": (2, 12), "dense_h.kernel": (3, 12)}
    leaves = {**kernels, "dense_h.bias": (12,)}
    expected = {f"{m}.{n}": leaves[n] for m in ("cell", "rnn") for n in leaves}
    assert leaf_shapes(Torch()) == jax_shapes(Jax()) == expected
    weights = {n: np.full(s, len(n), np.float32) for n, s in expected.items()}
    _, *states = load_jax(Jax(), weights)
    params, statistics = (place_state(state, worlds[1]) for state in states)
    saved = save_jax(params, statistics, worlds[1])
    state = build_optimizer(config, params).init(params)
    kept, _ = save_optimizer_state(state, worlds[1])
    assert kept["momentum"].keys() == saved.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(saved[name], array)


def test_a_cell_of_two_rnns_has_the_first_name_as_in_torch():
    class Jax(nnx.Module):
        def __init__(self):
            cell = nnx.GRUCell(2, 3, rngs=nnx.Rngs(0))
            self.rnn2 = nnx.RNN(cell, rngs=False)
            self.rnn1 = nnx.RNN(cell, rngs=False)

    for _ in range(2):  # names are set again by every use
        assert {n.partition(".")[0] for n in jax_shapes(Jax())} == {"rnn1"}


def test_what_a_user_calls_kernel_in_torch_is_laid_out_as_in_flax():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Module()
            self.own.kernel = nn.Parameter(torch.zeros(2, 3))

    weights = {"own.kernel": np.arange(6.0).reshape(2, 3)}
    assert leaf_shapes(Torch()) == {"own.kernel": (2, 3)}
    load_weights(model := Torch().double(), weights, TORCH)
    np.testing.assert_array_equal(
        model.get_parameter("own.kernel").detach(), weights["own.kernel"]
    )
    saved = save_weights(model, TORCH)
    np.testing.assert_array_equal(saved["own.kernel"], weights["own.kernel"])


@pytest.mark.parametrize(
    ("twin", "added", "told"),
    [
        ("torch", "mean = nn.Parameter(torch.zeros(3))", "rnn.mean is trained"),
        ("jax", "mean = nnx.Param(jnp.zeros(3))", "rnn.mean is trained"),
        ("torch", "register_buffer('table', torch.zeros(3))", "rnn.table is not"),
        ("jax", "table = nnx.BatchStat(jnp.zeros(3))", "rnn.table is not trained"),
        ("jax", "mean = nnx.Variable(jnp.zeros(3))", "rnn.mean is an nnx.Variable"),
    ],
)
def test_what_is_trained_has_no_name_of_a_statistic_nor_the_reverse(
    twin, added, told, pair
):
    head = "self.head ="
    config = pair("gru", twin, {head: f"self.rnn.{added}\n        {head}"})
    with pytest.raises(ConfigError, match=f"{twin}_model.py: {told}"):
        {"torch": build_torch, "jax": build_jax}[twin](config)


def test_dropout_of_linens_is_refused_with_what_to_do(pair):
    hidden = 'x = linen.relu(linen.Dense(16, name="hidden")(x.reshape(len(x), -1)))'
    drop = 'x = linen.Dropout(0.5, deterministic=False, name="drop")(x)'
    config = pair("linen", "jax", {hidden: f"{hidden}\n        {drop}"})
    told = r"jax_model.py: drop is a linen.Dropout with rate=0.5.*hold an nnx.Dropout"
    with pytest.raises(ConfigError, match=told):
        build_jax(config)


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_a_model_of_several_inputs_is_refused(twin, pair):
    kind, call = "gru", {"torch": "forward(self, x)", "jax": "__call__(self, x)"}[twin]
    config = pair(kind, twin, {call: call.replace("x)", "x, lengths)")})
    with pytest.raises(ConfigError, match="takes x, lengths.*several inputs"):
        {"torch": build_torch, "jax": build_jax}[twin](config)


@pytest.mark.parametrize(
    ("kind", "twin", "right", "wrong", "given"),
    [
        ("linen", "jax", "model = nnx.bridge.ToNNX(", "return (", "own_jax_model.Net"),
        ("functions", "jax", "return Model(", "return (", "builtins.dict"),
        ("functions", "torch", "build_model = Model", "build_model = repr", "builtins"),
    ],
)
def test_what_is_no_module_is_refused_with_what_to_do(
    kind, twin, right, wrong, given, pair
):
    config = pair(kind, twin, {right: wrong})
    with pytest.raises(ConfigError, match=f"gives a {given}.*, and not a .*Linen"):
        {"torch": build_torch, "jax": build_jax}[twin](config)
