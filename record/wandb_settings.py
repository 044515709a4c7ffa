"""What W&B is told: by what was typed, else by its own variables, else by Duet.

`conf/tracking/wandb.yaml` takes WANDB_PROJECT, WANDB_ENTITY and WANDB_RUN_GROUP; the
rest of W&B's variables win over what is chosen here. Duet's alone are where its files
lie and what a resumed run is to it (WANDB_DIR, WANDB_RESUME): the run folder is whole,
and goes on as itself.
"""

import logging
import os
import socket
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from recipe.errors import ConfigError

NETWORK_SECONDS = 2.0  # for one connection, before W&B may count on a network
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
UPLOAD_SECONDS = 120.0  # an idle allocation costs more than a later `wandb sync`


def settings() -> dict[str, Any]:
    """Fields of `wandb.Settings`, of a run's own process."""
    chosen: dict[str, Any] = {
        "console": "off",  # the screen belongs to rich
        "disable_git": True,
        "disable_job_creation": True,
        "save_code": False,
        "x_disable_stats": True,  # a sampler beside a timed step would be timed
        "finish_timeout": UPLOAD_SECONDS,
        "finish_timeout_raises": True,
    }
    if "WANDB_SAVE_CODE" not in os.environ:
        chosen["disable_code"] = True
    return {name: value for name, value in chosen.items() if not _has_variable(name)}


def shared_settings() -> dict[str, Any]:
    """Of the whole process: the login speaks before a run has settings."""
    chosen = {"silent": True, "quiet": True}
    return {name: value for name, value in chosen.items() if not _has_variable(name)}


def _has_variable(field: str) -> bool:
    """Whether one of W&B's variables sets this field, `x_` being `_` to the older."""
    names = field, field.removeprefix("x")
    return any(f"WANDB_{name.upper()}" in os.environ for name in names)


def job_type() -> str:
    """What kind of run a training is, by which a report finds it again."""
    return os.environ.get("WANDB_JOB_TYPE") or "train"


def tags(typed: list[str]) -> list[str]:
    """Those that were typed, else the variable's."""
    given = os.environ.get("WANDB_TAGS", "").split(",")
    return typed or [tag.strip() for tag in given if tag.strip()]


def check_variables() -> None:
    """Refuse what W&B would refuse when the run has begun.

    Raises:
      ConfigError: naming the variable.
    """
    given = os.environ.get("WANDB_RUN_ID", "")
    if given != given.strip() or set(given) & set(":;,#?/'"):
        raise ConfigError(
            f"WANDB_RUN_ID={given!r} must be without : ; , # ? / ' and space around "
            "it, as W&B has it; or unset it, and each run folder draws its own"
        )
    for tag in tags([]):
        if len(tag) > 64:
            raise ConfigError(
                f"WANDB_TAGS: {tag!r} has {len(tag)} characters; W&B takes 64 at most"
            )
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in MODES:
        raise ConfigError(f"WANDB_MODE={mode} is unknown; one of: {', '.join(MODES)}")


def run_id(run_dir: Path) -> str:
    """The id under which this folder's run is known, however often it is resumed."""
    path = run_dir / "wandb_id"
    if not path.exists():
        drawn = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12]
        path.write_text(drawn + "\n")
    return path.read_text().strip()


def must_stay_here(configured_mode: str, base_url: str) -> bool:
    """Whether W&B is to be offline: nobody chose, and there is no key or no network."""
    if os.environ.get("WANDB_MODE") or configured_mode != "online":
        return False  # the user has decided
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        credentials = wbauth.authenticate_session(
            host=base_url, source="duet", prompt=False, update_session=False
        )
    except AuthenticationError as error:
        stays_offline(error)
        return True
    return credentials is None or not _reachable(base_url)


def stays_offline(cause: Exception) -> None:
    """Say why a run that was to go online does not."""
    logging.getLogger("duet").warning(
        "W&B is offline (%s: %s); the line at the run's end uploads it once that is "
        "mended",
        type(cause).__name__,
        cause,
    )


def _reachable(url: str) -> bool:
    """Whether a connection to the server, or the proxy before it, opens in time."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), NETWORK_SECONDS):
            return True
    except OSError:
        return False
