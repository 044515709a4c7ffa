"""Every fault, what is promised of it, how it is made, and how a run is to end then."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RECIPE = [
    *("train.steps=30", "train.log_every_steps=5", "train.evaluate_every_epochs=1"),
    *("checkpoint.every_steps=5", "checkpoint.every_minutes=null", "checkpoint.keep=9"),
    *("parallel.timeout_seconds=4", "parallel.start_timeout_seconds=60"),
]


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Args:
      name: what happens.
      promised: in words, for docs/reliability.md.
      code: Python that each rank hit runs first, over `tests/faults/inject.py`; {run}
        is the run folder.
      ranks: those hit; rank -1 is every one.
      overrides: of the run that is hit and of the one that resumes it.
      statuses: how each rank may leave; None for what was frozen and is killed.
      says: what some rank prints, a regular expression.
      asks: whether a marker is left that asks to be started again.
      damage: done to the run folder before the run is resumed.
      resumes: whether the run is to be resumed; else it is whole already.
      variables: of the environment.
    """

    name: str
    promised: str
    code: str = ""
    ranks: Sequence[int] = (-1,)
    overrides: Sequence[str] = ()
    statuses: Sequence[int | None] = ()
    says: str = ""
    asks: bool = False
    damage: Callable[[Path], object] | None = None
    resumes: bool = True
    seconds: float = 60.0
    variables: dict[str, str] = field(default_factory=dict)


PLACE = r"\(process \d+ on \S+\)"
ENDED = rf"error: rank {{}} {PLACE} has ended; (see \S+rank{{}}.log|it had no)"
SILENT = rf"error: rank {{}} {PLACE} has sent no heartbeat for 4 s; see"
STOPPED = r"stopped: asked to by (\w+|another rank); saved after step \d+"


def lost(name: str, code: str, rank: int) -> Fault:
    return Fault(
        f"SIGKILL of rank {rank} {name}",
        "the other rank names it and its log, and exits with status 1",
        code,
        ranks=[rank],
        statuses=[-9, 1] if rank == 0 else [1, -9],
        says=ENDED.format(rank, rank),
    )


def frozen(rank: int) -> Fault:
    return Fault(
        f"SIGSTOP of rank {rank} in a step",
        "after parallel.timeout_seconds the other names it and exits with status 1; "
        "thawed, it exits as well",
        "at_step(18, freeze)",
        ranks=[rank],
        statuses=[None, 1] if rank == 0 else [1, None],
        says=SILENT.format(rank),
    )


def stops(
    name: str, code: str, ranks: Sequence[int] = (-1,), status: int = 75
) -> Fault:
    return Fault(
        name,
        f"all ranks save after the same step, exit with status {status} and leave a "
        "file REQUEUE",
        code,
        ranks=ranks,
        statuses=[status, status] if ranks == (-1,) else [status, 75],
        says=STOPPED,
        asks=True,
    )


def leaves_at_once(name: str, code: str) -> Fault:
    return Fault(
        name,
        "the rank exits at once with status 143, nothing is half-written",
        code,
        statuses=[143, 143],
    )


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def truncate(run: Path) -> None:
    file = newest(run) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = newest(run) / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return damage


def unmark(run: Path) -> None:
    (newest(run) / "COMMITTED").unlink()


def unmark_all(run: Path) -> None:
    for path in (run / "checkpoints").glob("step-*"):
        (path / "COMMITTED").unlink()


def damaged(name: str, damage: Callable[[Path], object]) -> Fault:
    return Fault(
        name,
        "the newest good one is taken, and the log says why no newer one was",
        "at_step(28, kill)",
        ranks=[0],
        statuses=[-9, 1],
        damage=damage,
    )


def make_room(run: Path) -> None:
    (run.parent / "ballast").unlink()


def unwritable(
    name: str,
    kept: str,
    code: str,
    says: str,
    damage: Callable[[Path], object] | None = None,
) -> Fault:
    return Fault(
        name,
        f"all ranks stop with one line, status 2; {kept}",
        code,
        ranks=[0],
        statuses=[2, 2],
        says=f"error: cannot write .*{says}",
        damage=damage,
    )


TWICE = "one_after_another(terminate, sleep(2.3), terminate, sleep(9))"
TABLE = [
    lost("in a step", "at_step(18, kill)", 1),
    lost("in a step", "at_step(18, kill)", 0),
    lost("in start-up", "in_twin('start', one_after_another(sleep(2), kill))", 1),
    lost("in start-up", "in_twin('start', one_after_another(sleep(2), kill))", 0),
    lost("while data is loaded", "in_twin('load', kill)", 0),
    lost("while data is loaded", "in_twin('load', kill)", 1),
    lost("while steps are compiled or wrapped", "in_twin('parallelize', kill)", 1),
    lost("in an evaluation", "in_twin('evaluate', kill)", 1),
    lost("in a save", "at('record.checkpoint:write_file', kill, 8)", 0),
    lost(
        "between a checkpoint and its marker",
        "at('record.checkpoint:write_whole', kill, 3)",
        0,
    ),
    Fault(
        "SIGKILL of rank 1 while rank 0 saves",
        "rank 0 names it and its log, and exits with status 1",
        "at_step(18, kill) if rank "
        "else at('record.checkpoint:write_file', sleep(2), 7)",
        statuses=[1, -9],
        says=ENDED.format(1, 1),
    ),
    frozen(1),
    frozen(0),
    Fault(
        "rank 1 never comes",
        "after parallel.start_timeout_seconds rank 0 says so and exits with status 1",
        "os._exit(9)",
        ranks=[1],
        overrides=["parallel.start_timeout_seconds=6"],
        statuses=[1, 9],
        says="error: rank 1 has not connected within 6 s; it had no log",
    ),
    Fault(
        "one rank hangs in a step",
        "after parallel.timeout_seconds all exit with status 1, and each log says "
        "where its rank was",
        "at_step(18, sleep(600))",
        ranks=[1],
        statuses=[1, 1],
        says=r"error: the ranks are deadlocked: no progress for \d+ s; see",
    ),
    Fault(
        "one rank fails by a bug",
        "its traceback; the other rank names it, both exit with status 1",
        "at_step(18, fail(RuntimeError('a bug')))",
        ranks=[1],
        statuses=[1, 1],
        says=r"error: rank 1 .* has failed: RuntimeError: a bug; see",
        overrides=["parallel.timeout_seconds=30"],
    ),
    stops("SIGTERM in start-up", "in_twin('start', terminate)"),
    stops("SIGTERM while data is loaded", "in_twin('load', terminate)"),
    stops(
        "SIGTERM while steps are compiled or wrapped",
        "in_twin('parallelize', terminate)",
    ),
    stops(
        "Ctrl-C while steps are compiled or wrapped",
        "in_twin('parallelize', interrupt)",
        status=130,
    ),
    stops("SIGTERM in a step", "at_step(18, terminate)"),
    stops("SIGUSR1 to rank 1 alone in a step", "at_step(18, notify)", ranks=(1,)),
    stops("SIGTERM in an evaluation", "in_twin('evaluate', terminate)"),
    stops(
        "SIGTERM in a save",
        "at('record.checkpoint:write_file', terminate, 8)",
        ranks=(0,),
    ),
    stops("a file STOP appears", "at_step(18, touch('{run}/STOP'))", ranks=(0,)),
    leaves_at_once("two SIGTERMs, 2.3 s apart, in a step", f"at_step(18, {TWICE})"),
    Fault(
        "two SIGTERMs, 2.3 s apart, in a save",
        "the rank exits at once with status 143, nothing is half-written, and the "
        "other names it",
        f"at('record.checkpoint:write_file', {TWICE}, 8)",
        ranks=[0],
        statuses=[143, 1],
        says=ENDED.format(0, 0),
    ),
    damaged("the newest checkpoint is truncated", truncate),
    damaged(
        "a bit of the newest checkpoint's weights is flipped",
        flip("weights.safetensors"),
    ),
    damaged(
        "a bit of the newest checkpoint's manifest is flipped", flip("manifest.json")
    ),
    damaged("the newest checkpoint has no marker", unmark),
    damaged("no checkpoint has a marker", unmark_all),
    unwritable(
        "the disk is full while recording (ENOSPC)",
        "what is written is kept",
        "at_step(18, fill('{disk}'))",
        "No space left on device",
        make_room,
    ),
    unwritable(
        "the disk is full while saving (ENOSPC)",
        "older checkpoints are kept",
        "at('record.checkpoint:write_file', fill('{disk}'), 8)",
        "No space left on device",
        make_room,
    ),
    unwritable(
        "the disk fails while recording (EIO)",
        "what is written is kept",
        "at('record.recorder:strict_json', disk_fails, 18)",
        "Input/output error",
    ),
    unwritable(
        "the disk fails while saving (EIO)",
        "older checkpoints are kept",
        "at('record.checkpoint:write_file', disk_fails, 8)",
        "Input/output error",
    ),
    Fault(
        "the run folder is on a read-only file system",
        "refused with one line, status 2, before anything is made",
        "os.environ.get('RANK') == '0' and run('mount', '-o', 'remount,ro', '{disk}')()"
        "; sleep(1)()",
        statuses=[2, 2],
        says="error: .*(Read-only file system|cannot be written)",
        damage=lambda run: remount(run.parent),
    ),
    Fault(
        "the input of rank 1 is NaN",
        "all ranks stop after the window with status 1; the step is named",
        "not_a_number()",
        ranks=[1],
        statuses=[1, 1],
        says="error: the loss is nan at step 1, ",
        damage=shutil.rmtree,
    ),
    Fault(
        "the dataset is corrupt",
        "refused with one line that names the file, status 2",
        overrides=["data=mnist", "data.root={corrupt}"],
        statuses=[2, 2],
        says="error: .*idx",
        resumes=False,
    ),
    Fault(
        "the clock is set back by a day",
        "nothing: the run is whole",
        "at_step(18, set_clock_back(86400))",
        statuses=[0, 0],
        resumes=False,
    ),
]


def remount(folder: Path) -> None:
    import subprocess

    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
