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
    schedules = {config.schedule.name, before.get("schedule.name")}
    return schedules == {"constant"} and not _shares_statistics(config)


def how_to_extend(config: Config, weights: str) -> str:
    """What to do where they do depend on it.

    Args:
      weights: the file of the run's weights.
    """
    if _shares_statistics(config):
        why = "model.norm.sync=false shares statistics where a run ends"
    else:
        why = (
            f"schedule={config.schedule.name} sets each learning rate by the length of "
            "the run, so its first steps would have been different ones in a longer "
            "run; only schedule=constant can be extended"
        )
    return (
        f"{why}. To continue from its weights with a new schedule: "
        f"model.weights={weights} and another run.dir"
    )


def _shares_statistics(config: Config) -> bool:
    """Whether devices give up statistics of their own for an evaluation.

    The replicas of local SGD keep theirs, and evaluate copies.
    """
    return has_local_norm(config) and config.parallel.name != Strategy.LOCAL_SGD
