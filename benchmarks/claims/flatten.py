"""What NNX costs the host: flattening a model's state, per variable, in JSON.

python benchmarks/claims/flatten.py
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]

SECONDS = 0.5


def main() -> None:
    import jax
    from flax import nnx

    from benchmarks.page import typed
    from jax_impl.model import build_model

    config = typed(["experiment=cifar10_resnet18", "data=synthetic"])
    state = nnx.state(build_model(config))
    variables = len(nnx.to_flat_state(state))
    jax.tree.flatten(state)
    begin, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        jax.tree.flatten(state)
        count += 1
    each = spent / count / variables
    print(json.dumps({"variables": variables, "microseconds": 1e6 * each}))


if __name__ == "__main__":
    main()
