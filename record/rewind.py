"""Claim the run folder for one process: new, or rewound to where the run resumes.

Rows and checkpoints beyond the step that a run resumes from are removed, since it does
those steps again.
"""

import json

from recipe.config import Config, to_yaml
from record.checkpoint import CheckpointWriter
from record.disk import recording, write_whole
from record.folder import create_folder
from record.resume import Resume, refuse_finished
from record.rows import last_step, rows_until
from record.run import FINAL, LAST
from record.stopping import REQUEUE


def claim_folder(
    config: Config, resume: Resume | None, *, framework: str, world_size: int
) -> CheckpointWriter:
    """Claim the run folder, new or rewound: its path is the writer's `run`.

    Called on rank 0. The writer is entered; the caller closes it.

    Raises:
      RecordError: if the folder is occupied, another process writes it, or the disk
        refuses.
    """
    if resume is None or not (resume.folder / "config.yaml").exists():
        folder = create_folder(config, framework)
    else:
        folder = resume.folder
    writer = CheckpointWriter(folder, config.checkpoint.keep)
    writer.__enter__()
    try:
        if resume is not None:
            if (folder / "summary.json").exists():
                refuse_finished(folder)  # it may have been written since
            rewind(resume, config, writer, framework=framework, world_size=world_size)
    except BaseException:
        writer.close()
        raise
    return writer


def rewind(
    resume: Resume,
    config: Config,
    writer: CheckpointWriter,
    *,
    framework: str,
    world_size: int,
) -> None:
    """Rewind the run folder to a step.

    Called on rank 0, with the folder claimed by `writer`. If interrupted, it can be
    repeated.

    Raises:
      RecordError: if rows up to the step are missing, or on a disk error.
    """
    folder, step = resume.folder, resume.step
    rows = rows_until(resume.source / "metrics.jsonl", step)
    row = {
        "kind": "resume",
        "step": step,
        "framework": framework,
        "world_size": world_size,
        "source": str(resume.source),
        "left_out": list(resume.skipped),
        "differences": list(resume.differences),
        "again_until": max(step, last_step(folder / "metrics.jsonl")),
    }
    writer.discard_after(step)
    with recording(folder):
        for name in ("summary.json", FINAL, LAST, REQUEUE):
            (folder / name).unlink(missing_ok=True)
        content = rows + json.dumps(row).encode() + b"\n"
        write_whole(folder / "metrics.jsonl", content)
        write_whole(folder / "config.yaml", to_yaml(config).encode())
