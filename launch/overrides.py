"""Command-line overrides, and Hydra's errors about them in one line."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from launch import newcomers
from launch.newcomers import meant
from recipe.config import Config, known_keys, to_config, unknown_keys
from recipe.errors import ConfigError
from recipe.parity import ParityConfig
from recipe.renamed import FIELDS, KEYS, OPTIONS
from recipe.study import StudyConfig

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {p.name for p in (ROOT / "conf").iterdir() if p.is_dir()} - {"hydra"}

LONG_FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package"),
    *("--run", "--shell-completion", "--config-path", "--config-name", "--config-dir"),
    *("--experimental-rerun", "--info"),
)
SHORT_FLAGS = "hcprsi"  # abbreviations

# OmegaConf's error about a value -> what the key takes.
TAKES = {
    r"could not be converted to Integer": "a whole number is expected",
    r"could not be converted to Float": "a number is expected",
    r"is not a valid bool": "true or false is expected",
    r"type hint 'Union\[bool, str\]'": "true, false or max is expected",
    r"Cannot convert .* to string": "a string is expected, not a list or keys",
    r"is not Optional": "null is not allowed here",
    r"is not a subclass of": "it has keys of its own, such as {keys}",
}
# Groups that may be null -> what gives them keys. OmegaConf's error does not name them.
NULL_GROUPS = {
    "precision.loss_scale": "precision=fp16",
    "federated": "federated=fedavg",
}
# Scripts that have keys of their own.
SCHEMAS = {"study": StudyConfig, "parity": ParityConfig}


def checked(arguments: list[str], schema: type[Config] = Config) -> list[str]:
    """The arguments in Hydra's syntax.

    A ~, which shells do not expand after `run.dir=`, is quoted: Hydra's grammar does
    not allow it. The common flag `--dry-run` becomes its key.

    Args:
      schema: the config's dataclass, to suggest keys.

    Raises:
      ConfigError: for arguments that Hydra would misinterpret.
    """
    arguments = ["dry_run=true" if a == "--dry-run" else a for a in arguments]
    following = [*arguments, ""][1:]
    for argument, after in zip(arguments, following, strict=True):
        _check(argument, after, schema)
    return [re.sub(r"^([\w.]+)=(~[^'\"]*)$", r"\1='\2'", a) for a in arguments]


def _check(argument: str, following: str, schema: type[Config]) -> None:
    name, _, value = argument.partition("=")
    if name in ("-m", "--multirun"):
        raise ConfigError(
            "-m (--multirun) would run every job in this one process, which holds "
            "one framework, one set of devices and one process group; to sweep, start "
            "a process per job: "
            "for seed in 0 1 2; do python launch/jax.py train.seed=$seed; done; "
            "or a study: "
            "python launch/study.py study=demo 'study.precision=[fp32,bf16]'"
        )
    # Hydra accepts abbreviated flags, so it might take a key for one.
    dashes = len(name) - len(name.lstrip("-"))
    known = name in LONG_FLAGS if dashes > 1 else name[1:2] in SHORT_FLAGS
    if dashes and not known:
        raise ConfigError(_not_a_flag(argument, following, schema))
    if name.startswith("~"):
        raise ConfigError(
            f"{argument}: keys cannot be deleted; give it another value, such as null"
        )
    if re.match(r"\+*hydra[./@]", name):
        raise ConfigError(
            f"{argument}: Hydra's settings are fixed; run.dir=... sets the run folder"
        )
    group = name.lstrip("+")
    of, _, key = group.partition(".")
    if of in GROUPS - {"study"} and key == "name":
        value = OPTIONS.get(of, {}).get(value, value)
        raise ConfigError(
            f"{argument}: write {of}={value}, which sets the rest of its group as well"
        )
    if group in GROUPS and not _is_word(value):
        raise ConfigError(f"{argument}: {group} takes one choice, see --help")


def _not_a_flag(argument: str, following: str, schema: type[Config]) -> str:
    """What to write instead of `--epochs 3` or `--lr=5`."""
    name, _, value = argument.partition("=")
    key = name.lstrip("-")
    if not value:
        value = "VALUE" if re.match(r"-|.*=|$", following) else following
    known = key in GROUPS or key in known_keys(schema)
    write = key if known else meant(key, schema) or "KEY"
    # The value belongs to the key itself, not to what is said about it.
    write = re.sub(r"^[\w.]+(?![\w.=])", lambda found: f"{found[0]}={value}", write)
    return (
        f"{name} is not a flag; write keys without dashes and with =: {write}; --help "
        "lists all keys"
    )


def _is_word(value: str) -> bool:
    """Whether Hydra reads a name rather than a number, list or boolean."""
    names = re.fullmatch(r"""(['"]?)([A-Za-z_][\w-]*)\1""", value)
    literals = ("true", "false", "null", "nan", "inf")
    return names is not None and value.lower() not in literals


def refusal(error: HydraException, schema: type[Config]) -> ConfigError:
    """Hydra's error, in one line with what is allowed.

    Args:
      schema: the config's dataclass, to suggest similar keys.
    """
    text, cause = str(error), error.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        if new := OPTIONS.get(group, {}).get(option):
            return ConfigError(f"{group}={option} is now called {group}={new}")
        if instead := newcomers.OPTIONS.get(group, {}).get(option.lower()):
            return ConfigError(f"{group}={option} is unknown; write {instead}")
        return ConfigError(f"{group}={option} is unknown; one of: {options}")
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return unknown_key(str(cause.full_key), schema)
    if in_file := re.match(r"In '(.*)': Config\w+Error .*full_key: (\S+)", text, re.S):
        return ConfigError(f"{in_file[1]}.yaml: {unknown_key(in_file[2], schema)}")
    if "Could not override" in text:  # a group that does not exist
        found = re.search(r"'([^']*)'", text)
        return unknown_key(found[1] if found else text, schema)
    if bare := re.search(r"override '([^'=]*)'\s+missing EQUAL", text):
        return ConfigError(
            f'{bare[1]} has no "="; write {_with_equal(bare[1], schema)}; --help lists '
            "all"
        )
    if "override_grammar" in text:
        text = text.partition("\nSee ")[0]
        text += "; write key=value, and quote special characters: \"key='a b'\""
    reason = str(cause).partition("\n")[0] if cause else ""
    if "is not a ListConfig" in reason:
        key, _, value = text.rpartition(" ")[2].partition("=")
        reason = f"a list is expected: '{key}=[{value}]'"
    text = text.removeprefix("Error merging override ")
    for pattern, takes in TAKES.items():
        if re.search(pattern, reason):
            below = text.partition("=")[0].lstrip("+") + "."
            keys = [key for key in known_keys(schema) if key.startswith(below)]
            reason = takes.format(keys=", ".join(keys[:3]))
    lines = [text, *([reason] if reason else [])]
    return ConfigError(": ".join(" ".join(line.split()) for line in lines))


def _with_equal(word: str, schema: type[Config]) -> str:
    """What a word without "=" may have meant: a key, a run folder, an experiment."""
    if word in known_keys(schema):
        return f"{word}=VALUE"
    if issubclass(schema, ParityConfig) and "/" in word:
        return f"a={word} b=ANOTHER to compare two run folders"
    known = (ROOT / "conf" / "experiment" / f"{word}.yaml").exists()
    return f"key=value, such as experiment={word if known else 'digits_cnn'}"


def meaning(error: Exception, arguments: list[str]) -> ConfigError | None:
    """Explains an exception that is not OmegaConf's own; None if it is a bug.

    A number too large for a float, or a key in one of the two groups that may be null.
    """
    key = re.search(r"full_key: (\S+)", str(error))
    if isinstance(error, OverflowError) and key:
        return ConfigError(f"{key[1]} is too large for a float")
    null = "NoneType" in str(error) or "full_key: precision.loss_scale" in str(error)
    for group, choice in NULL_GROUPS.items():
        if null and any(a.lstrip("+").startswith(f"{group}.") for a in arguments):
            return ConfigError(f"{group} is null here; its keys need {choice}")
    return None


def typed_config(composed: DictConfig, schema: type[Config]) -> Any:
    """A composed config as its dataclass, checked, as `+key=value` may add any key.

    Raises:
      ConfigError: for a key that the schema does not have, or a value it refuses.
    """
    for key in unknown_keys(composed, schema):
        raise unknown_key(key, schema)
    return to_config(composed, schema)


def unknown_key(key: str, schema: type[Config]) -> ConfigError:
    """The message for an unknown key, with the one that is meant or similar."""
    name, known = key.partition(".")[0], known_keys(schema)
    if KEYS.get(key) in known:
        return ConfigError(f"{key} is now called {KEYS[key]}")
    for script, other in SCHEMAS.items():
        if name in known_keys(other) and name not in known:
            return ConfigError(f"{name} is a key of launch/{script}.py alone")
    last = key.rpartition(".")[2]
    in_a_group = [k for k in known if k.endswith(f".{FIELDS.get(last, last)}")]
    near = in_a_group or get_close_matches(key, known, cutoff=0.75)
    near = meant(key, schema) or " or ".join(near[:3])
    hint = f"did you mean {near}? " if near else ""
    return ConfigError(f"{key} is not a key; {hint}--cfg job lists all keys")
