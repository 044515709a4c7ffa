"""Whether a run may be extended beyond the length that it was started with."""

from typing import Any

from recipe.config import Config
from recipe.execution import Strategy
from recipe.norms import has_local_norm

LENGTH = ("train.epochs", "train.steps")


def is_extendable(config: Config, before: dict[str, Any]) -> bool:
    """Whether a run's steps do not depend on its length, to the last bit.

    True if no learning rate depends on the length. The end adds an evaluation,
    which changes nothing, unless devices share their statistics for it.

    Args:
      before: the recipe's values by key, as the run was started.
    """
    was_constant = before.get("schedule.name") == "constant"
    return was_constant and not why_not_extendable(config)


def why_not_extendable(config: Config) -> str:
    """How a run's steps depend on its length; empty where they do not."""
    if _shares_statistics(config):
        return "model.norm.sync=false shares statistics where a run ends"
    if config.schedule.name != "constant":
        return (
            f"schedule={config.schedule.name} sets each learning rate by the length of "
            "the run, so its first steps would have been different ones in a longer "
            "run; only schedule=constant can be extended"
        )
    return ""


def how_to_extend(config: Config, weights: str) -> str:
    """What to do where steps do depend on the length.

    Args:
      weights: the file of the run's weights.
    """
    why = why_not_extendable(config) or "it was started with another schedule"
    return (
        f"{why}. To continue from its weights with a new schedule: "
        f"model.weights={weights} and another run.dir"
    )


def _shares_statistics(config: Config) -> bool:
    """Whether devices give up statistics of their own for an evaluation.

    The replicas of local SGD keep theirs, and evaluate copies.
    """
    return has_local_norm(config) and config.parallel.name != Strategy.LOCAL_SGD
