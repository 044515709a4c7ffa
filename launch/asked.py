"""Keys of scripts that compose no recipe: `run=DIR formats=[onnx,pt2]`."""

from difflib import get_close_matches
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.config import known_keys
from recipe.errors import ConfigError


def asked(arguments: list[str], schema: type, usage: str) -> Any:
    """The arguments as a dataclass.

    Args:
      schema: the dataclass; a field without a value, `MISSING`, has to be given.
      usage: what --help prints.

    Raises:
      ConfigError: naming the argument, and what is allowed.
      SystemExit: after --help.
    """
    keys = known_keys(schema)
    if {"-h", "--help"} & {*arguments}:
        print(usage.strip())
        raise SystemExit(0)
    for argument in arguments:
        key, equal, _ = argument.partition("=")
        if not equal or key not in keys:
            near = get_close_matches(key.lstrip("-"), keys, 1, 0.6)
            hint = f"did you mean {near[0]}=...? " if near else ""
            raise ConfigError(
                f"{argument}: {hint}keys are {', '.join(f'{k}=' for k in keys)}; "
                "--help explains them"
            )
    try:
        merged = OmegaConf.merge(schema, OmegaConf.from_dotlist(arguments))
        values = OmegaConf.to_container(merged)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(" ".join(str(error).partition("\n")[0].split())) from error
    assert isinstance(values, dict)
    given = {str(key): value for key, value in values.items()}
    if missing := [key for key, value in given.items() if value == MISSING]:
        raise ConfigError(f"give {', '.join(f'{key}=...' for key in missing)}")
    return schema(**given)
