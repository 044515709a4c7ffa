"""The run folder claimed by one process: new, or rewound to where the run resumes.

What a resumed run does again replaces what was written of it before: rows and
checkpoints beyond the step it resumes from are removed.
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
    """The run folder, new or rewound, and claimed: its path is the writer's `run`.

    Rank 0 calls it. The writer is entered; whoever has it closes it.

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
    """Make the run folder that of a run which has reached the step, and no further.

    Rank 0 calls it, with the folder claimed by `writer`. Interrupted at any point, it
    can be done again.

    Raises:
      RecordError: if the rows that lead to the step are not there, or the disk refuses.
    """
    folder, step = resume.folder, resume.step
    rows = rows_until(resume.source / "metrics.jsonl", step)
    row = {
        "kind": "resume",
        "step": step,
        "framework": framework,
        "world_size": world_size,
        "source": str(resume.source),
        "left_out": list(resume.left_out),
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
