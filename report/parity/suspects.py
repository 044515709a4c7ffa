"""What usually makes a layer or a stage of a step part between frameworks."""

from pathlib import Path

import yaml

SUSPECTS: dict[str, str] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
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
