"""Whether a run may go on for longer than was asked for when it began."""

from typing import Any

from recipe.config import Config
from recipe.norms import has_local_norm

LENGTH = ("train.epochs", "train.steps")


def goes_on(config: Config, before: dict[str, Any]) -> bool:
    """Whether a run's steps are those of one of any other length, to the last bit.

    They are where no learning rate is set by the length. Its end adds an evaluation,
    which changes nothing, but for statistics that devices otherwise share later.

    Args:
      before: the recipe's values by key, as the run began.
    """
    schedules = {config.schedule.name, before.get("schedule.name")}
    return schedules == {"constant"} and not has_local_norm(config)


def how_to_go_on(config: Config, weights: str) -> str:
    """What to do where they are not, in words.

    Args:
      weights: a file of the run's.
    """
    if has_local_norm(config):
        why = "model.norm.sync=false shares statistics where a run ends"
    else:
        why = (
            f"schedule={config.schedule.name} sets each learning rate by the length of "
            "the run, so the steps behind it are not those of another length; under "
            "schedule=constant they would be, and it would go on"
        )
    return (
        f"{why}. To train on from its weights, with a schedule of its own: "
        f"model.weights={weights} and another run.dir"
    )
