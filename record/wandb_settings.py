"""Settings of W&B: from the command line, else from its variables, else Duet's.

`conf/tracking/wandb.yaml` takes WANDB_PROJECT, WANDB_ENTITY and WANDB_RUN_GROUP; its
other variables win over what is chosen here. Only WANDB_DIR and WANDB_RESUME are
overruled: the run folder is self-contained, and resumes as the same run.
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

NETWORK_SECONDS = 2.0  # for one connection, to decide whether there is a network
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
UPLOAD_SECONDS = 120.0  # an idle allocation costs more than a later `wandb sync`


def settings() -> dict[str, Any]:
    """Fields of `wandb.Settings` for a run."""
    chosen: dict[str, Any] = {
        "console": "off",  # the terminal is rich's
        "disable_git": True,
        "disable_job_creation": True,
        "save_code": False,
        "x_disable_stats": True,  # a sampler would slow the steps that are timed
        "finish_timeout": UPLOAD_SECONDS,
        "finish_timeout_raises": True,
    }
    if "WANDB_SAVE_CODE" not in os.environ:
        chosen["disable_code"] = True
    return {name: value for name, value in chosen.items() if not _has_variable(name)}


def shared_settings() -> dict[str, Any]:
    """Settings of the whole process: the login prints before a run has settings."""
    chosen = {"silent": True, "quiet": True}
    return {name: value for name, value in chosen.items() if not _has_variable(name)}


def _has_variable(field: str) -> bool:
    """Whether one of W&B's variables sets this field; older ones say `_` for `x_`."""
    names = field, field.removeprefix("x")
    return any(f"WANDB_{name.upper()}" in os.environ for name in names)


def job_type() -> str:
    """The job type of a training, by which a report finds it."""
    return os.environ.get("WANDB_JOB_TYPE") or "train"


def tags(typed: list[str]) -> list[str]:
    """The tags from the command line, else from the variable."""
    given = os.environ.get("WANDB_TAGS", "").split(",")
    return typed or [tag.strip() for tag in given if tag.strip()]


def check_variables() -> None:
    """Refuse what W&B would refuse after the run has started.

    Raises:
      ConfigError: naming the variable.
    """
    given = os.environ.get("WANDB_RUN_ID", "")
    if given != given.strip() or set(given) & set(":;,#?/'"):
        raise ConfigError(
            f"WANDB_RUN_ID={given!r} must be without : ; , # ? / ' and space around "
            "it, as W&B has it; or unset it, and each run folder gets its own"
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
    """The id of this folder's run on W&B, the same however often it resumes."""
    path = run_dir / "wandb_id"
    if not path.exists():
        drawn = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12]
        path.write_text(drawn + "\n")
    return path.read_text().strip()


def must_stay_here(configured_mode: str, base_url: str) -> bool:
    """Whether W&B is to be offline: no mode is chosen, and no key or network."""
    if os.environ.get("WANDB_MODE") or configured_mode != "online":
        return False  # the user has chosen
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
    """Log why a run stays offline."""
    logging.getLogger("duet").warning(
        "W&B is offline (%s: %s); the line at the run's end uploads it once that is "
        "fixed",
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
