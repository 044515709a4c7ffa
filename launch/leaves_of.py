"""Build one twin's model, and say every leaf that is not as its weight_shapes say.

    python -m launch.leaves_of torch < config.yaml

Exit status 2 where there is one. A process of its own, for it imports a framework.
"""

import sys

from recipe.config import Config, from_yaml
from recipe.errors import ConfigError
from recipe.weights import check_leaves, initial_weights


def leaves_of(framework: str, config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape of all that a twin's model holds."""
    if framework == "torch":
        from torch_impl.model import build_model
        from torch_impl.weights import leaf_shapes

        return leaf_shapes(build_model(config))
    from jax_impl.model import build_model
    from jax_impl.weights import leaf_shapes

    return leaf_shapes(build_model(config))


if __name__ == "__main__":
    try:
        config = from_yaml(sys.stdin.read())
        check_leaves(leaves_of(sys.argv[1], config), initial_weights(config))
    except ConfigError as error:
        print(error)
        raise SystemExit(2) from None
