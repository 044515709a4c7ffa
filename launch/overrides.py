"""What is typed after a script's name, and what Hydra says of it, in one line."""

import re
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from recipe.config import Config, known_keys
from recipe.errors import ConfigError

HYDRA_FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package"),
    *("--run", "--multirun", "--shell-completion", "--config-path", "--config-name"),
    *("--config-dir", "--experimental-rerun", "--info"),
)


def checked(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them.

    A home's ~, which no shell expands after `run.dir=`, is quoted: it has no place in
    Hydra's grammar.

    Raises:
      ConfigError: for a key written as a flag, which Hydra would take for the start of
        one of its own flags, and for `-m`.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in ("-m", "--multirun"):
            refuse_multirun()
        if name.startswith("--") and name not in HYDRA_FLAGS:
            raise ConfigError(
                f"{argument} is no flag; keys go without dashes: {argument.lstrip('-')}"
            )
    return [re.sub(r"^([\w.]+)=(~[^'\"]*)$", r"\1='\2'", a) for a in arguments]


def refuse_multirun() -> None:
    """-m, however it was asked for.

    Raises:
      ConfigError: always.
    """
    raise ConfigError(
        "-m (--multirun) would run every job in this one process, which holds "
        "one framework, one set of devices and one process group; start a process "
        "per job instead: "
        "for seed in 0 1 2; do python launch/jax.py train.seed=$seed; done"
    )


def refusal(error: HydraException, schema: type[Config]) -> ConfigError:
    """What Hydra found wrong, in one line with what is allowed.

    Args:
      schema: the config's dataclass, for the keys that are like an unknown one.
    """
    text, cause = str(error), error.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return ConfigError(f"{group}={option} is unknown; one of: {options}")
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return unknown_key(str(cause.full_key), schema)
    if "Could not override" in text:  # a group that does not exist
        found = re.search(r"'([^']*)'", text)
        return unknown_key(found[1] if found else text, schema)
    if "override_grammar" in text:
        text = text.partition("\nSee ")[0]
        text += "; write key=value, and quote what is no plain word: \"key='a b'\""
    lines = [text, *([str(cause).partition("\n")[0]] if cause else [])]
    return ConfigError(": ".join(" ".join(line.split()) for line in lines))


def unknown_key(key: str, schema: type[Config]) -> ConfigError:
    """A key that no recipe has, and those that are spelled like it."""
    near = get_close_matches(key, known_keys(schema), cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"{key} is no key; {hint}--cfg job lists every one")
