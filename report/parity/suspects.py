"""What usually makes a layer or a stage of a step part between frameworks."""

# What to look at, by the class of the layer that parts or by the stage of the step;
# docs/identity.md has each with its convention. The first that matches is told.
SUSPECTS = {
    "weights": "an earlier step: trace the one before. Where step 1 agrees up to its "
    "update, the optimizer differs, or which parameters decay",
    "input": "order of the examples (shuffling, sharding), augmentation draws (crop, "
    "flip, cutout), normalisation (mean and std, order of the two, pixels in [0, 1])",
    "labels": "order of the examples, or another source of the dataset",
    "loss": "sum or mean (and mean of the ranks' means), label smoothing, logits not "
    "upcast before the loss",
    "evaluation": "running statistics (not moved alike, or the batch's taken in "
    "evaluation), eps, dropout that evaluation does not turn off",
    "update": "learning rate (a warm-up's first step), decay before or after momentum "
    "or not on the same parameters, dampening, Nesterov, clipping's 1e-6, AdamW's eps "
    "and decay",
    "average": "decay, bias correction (optax.ema has it, torch's AveragedModel and "
    "timm's begin with a copy), averaged before the update or in skipped steps, "
    "running statistics copied and not averaged",
    "statistics": "momentum (torch's m is 1 - flax's), biased or unbiased variance, "
    "statistics of the global batch or of one device's",
    "conv": "padding (SAME pads (0, 1) at stride 2, torch (1, 1)), stride, dilation, "
    "kernel layout (HWIO, OIHW), bias",
    "norm": "eps (1e-5 in torch; flax: 1e-5 for BatchNorm, 1e-6 for the others), "
    "variance in one pass (flax's use_fast_variance), statistics of the batch or the "
    "running ones, of the global batch or one device's, axes, number of groups",
    "attention": "scale 1/sqrt(d), order of query, key and value, of heads and "
    "features, softmax not in fp32, mask",
    "linear": "transposed kernel (in, out), order of flattening (torch NCHW, flax "
    "NHWC), bias",
    "embed": "order of patches or tokens, kernel layout, position, dtype (nnx.Embed's "
    "is fp32 unless given)",
    "gru": "biases (nn.GRU has two for each gate, nnx.GRUCell one), order of gates (r, "
    "z, n), r before or after the product, which state is the output",
    "lstm": "biases (nn.LSTM has two for each gate, nnx.OptimizedLSTMCell one), order "
    "of gates (i, f, g, o), which state is the output",
    "rnn": "order of gates, direction, the first state, which state is the output",
    "pool": "padding with -inf or 0, window, stride, count of padded pixels",
    "gelu": "tanh or erf (jax.nn.gelu is tanh by default, torch's erf)",
    "dropout": "masks drawn differently, or scaled; of your own model, calls in "
    "another order, or axes that are not NCHW (AxisDropout, docs/own-layers.md)",
}
BETWEEN = (
    "or a function called between the two: activation (GELU's tanh or erf), pooling "
    "(padding with -inf), flattening, residual"
)


def suspects(stage: str, layer: str, kinds: dict[str, tuple[str, str]]) -> str:
    """What to look at where a stage of a step parts at a layer, from the contract.

    Args:
      kinds: module -> its class in either twin.

    >>> suspects("forward", "stem", {"stem": ("Conv2d", "Conv")}).split(",")[0]
    'padding (SAME pads (0'
    """
    if stage == "update" and layer.endswith((".mean", ".var")):
        return SUSPECTS["statistics"]
    if stage in SUSPECTS:
        return SUSPECTS[stage]
    kind = " ".join(kinds.get(layer, ())).lower()
    found = next((text for name, text in SUSPECTS.items() if name in kind), "")
    return "; ".join(filter(None, (found, BETWEEN)))
