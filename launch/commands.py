"""Readable commands that can be pasted into a shell."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import Work
from launch.overrides import ROOT
from launch.submission import srun_words
from recipe.cluster import ClusterConfig

RECIPE = '"${recipe[@]}"'


def shell_line(
    work: Work, cluster: ClusterConfig, cores: int, recipe: Sequence[str]
) -> str:
    """The command of a work, for bash with the array `recipe`; on SLURM with srun."""
    if cluster.name == "local":
        return words(work.command, recipe)
    asked = srun_words(cluster, work.tasks, work.devices, cores)
    return " ".join([*asked, words(work.task, recipe)])


def words(command: Sequence[str], recipe: Sequence[str] = ()) -> str:
    """A command line, relative to the checkout.

    Args:
      recipe: consecutive words in it, that bash has in the array `recipe`.
    """
    words = [word(_relative(given)) for given in command]
    common = [word(given) for given in recipe]
    for start in range(len(words) if common else 0):
        if words[start : start + len(common)] == common:
            words[start : start + len(common)] = [RECIPE]
            break
    return " ".join(words)


def word(text: str) -> str:
    """Quoted if a shell needs it, in the most readable way.

    >>> print(word("data.root='/my data'"), word("study.world_size=[1,2]"))
    "data.root='/my data'" 'study.world_size=[1,2]'
    """
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return shlex.quote(text)


def _relative(text: str) -> str:
    """Paths in the checkout are made relative."""
    if text == sys.executable and Path(text).is_relative_to(ROOT):
        return str(Path(text).relative_to(ROOT))
    return text
