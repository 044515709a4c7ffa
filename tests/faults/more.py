"""Faults that take more than one run, or another way to start one."""

import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from record.run import read_run
from report.parity.differences import (
    leaf_differences,
    losses,
    relative_difference,
)
from tests.conftest import NO_GPU, ROOT, clean_environment
from tests.faults.forks import SCRIPTS
from tests.faults.ranks import Forks
from tests.faults.rows import HEAD, SAME, Bench, Seen, expect, same_bits, short
from tests.faults.table import RECIPE

CANARY = "0123456789abcdef0123456789abcdef01234567"
BOUND = 1e-10  # of the contract, in fp64
FP64 = ["precision=fp64", "optim=adamw"]
EVERY_SEVEN = ["parallel=local_sgd", "parallel.every=7"]
STREAMING = [
    *("parallel=diloco", "parallel.every=9", "parallel.fragments=2"),
    *("parallel.delay=3", "parallel.mix=0.5", "optim=adamw"),
]


@dataclass(frozen=True)
class More:
    """A row whose fault is code of its own.

    Args:
      happens: makes it happen, and tells what was seen.
    """

    name: str
    promised: str
    happens: Callable[[Bench], Seen]


def fresh(bench: Bench, name: str) -> Path:
    run = bench.folder / name
    shutil.rmtree(run, ignore_errors=True)
    return run


def trained(bench: Bench, run: Path, *overrides: str, processes: int = 2) -> str:
    ranks = bench.forks.start(*overrides, f"run.dir={run}", processes=processes)
    statuses = ranks.wait()
    ranks.end()
    expect(statuses == [0] * processes, f"left with {statuses}\n{ranks.said()}")
    return ranks.said()


def killed(
    bench: Bench,
    run: Path,
    *overrides: str,
    processes: int = 2,
    where: str = "at_step(18, kill)",
) -> None:
    """A run ended by SIGKILL in step 18, with checkpoints up to 15, or elsewhere."""
    code = HEAD.format(rank=0) + where
    ranks = bench.forks.start(
        *overrides, f"run.dir={run}", processes=processes, faults={0: code}
    )
    statuses = ranks.wait()
    ranks.end()
    expect(statuses[0] == -9, f"left with {statuses}\n{ranks.said()}")


def difference(one: Path, other: Path) -> float:
    first, second = read_run(one), read_run(other)
    curve = relative_difference(losses(first), losses(second)).max()
    return max(curve, *leaf_differences(first.weights, second.weights).values())


def within(bench: Bench, one: Path, other: Path) -> str:
    apart = difference(one, other)
    expect(apart <= BOUND, f"{apart:.1e} apart")
    return f"{apart:.1e} from the uninterrupted run at most"


def elsewhere(processes: int, *changes: str) -> Callable[[Bench], Seen]:
    """Killed on two ranks and resumed on others, or under another strategy, in fp64."""

    def happens(bench: Bench) -> Seen:
        whole, run = fresh(bench, "whole64"), fresh(bench, "elsewhere")
        trained(bench, whole, *RECIPE, *FP64)
        killed(bench, run, *RECIPE, *FP64)
        trained(bench, run, *RECIPE, *FP64, *changes, processes=processes)
        return Seen(within(bench, whole, run))

    return happens


def in_the_other_framework(bench: Bench) -> Seen:
    """Every 20 steps in the other one; stopped by a file each time."""
    other = {"torch": "jax", "jax": "torch"}[bench.forks.framework]
    recipe = [*RECIPE, *FP64, "train.steps=100"]
    whole, run = fresh(bench, "whole100"), fresh(bench, "swapped")
    trained(bench, whole, *recipe, processes=1)
    with Forks(other, bench.forks.data) as others:
        for turn in range(5):
            forks = (bench.forks, others)[turn % 2]
            step = 20 * (turn + 1)
            code = HEAD.format(rank=0) + f"at_step({step}, touch('{run}/STOP'))"
            ranks = forks.start(
                *recipe,
                f"run.dir={run}",
                processes=1,
                faults={0: code} if step < 100 else {},
            )
            statuses = ranks.wait()
            ranks.end()
            expect(statuses == [75 if step < 100 else 0], ranks.said())
    went_on = [(r["step"], r["framework"]) for r in read_run(run).of_kind("resume")]
    expect([step for step, _ in went_on] == [20, 40, 60, 80], f"{went_on}")
    return Seen(f"swapped after steps 20, 40, 60, 80; {within(bench, whole, run)}")


def two_in_one_folder(bench: Bench) -> Seen:
    run = fresh(bench, "shared")
    done = run.with_name("second has ended")
    done.unlink(missing_ok=True)
    code = HEAD.format(rank=0) + f"at_step(18, wait_for('{done}'))"
    first = bench.forks.start(
        *RECIPE,
        "parallel.timeout_seconds=120",
        "parallel.start_timeout_seconds=120",
        f"run.dir={run}",
        faults={0: code},
    )
    while not (run / "metrics.jsonl").exists():
        expect(first.wait(0.05) == [None, None], first.said())
    second = bench.forks.start(*RECIPE, f"run.dir={run}")
    statuses = second.wait(110)
    second.end()
    done.touch()
    said = second.said()
    line = re.search("error: .* is being written by process .*", said)
    expect(statuses == [2, 2] and line is not None, f"{statuses}\n{said}")
    expect(first.wait() == [0, 0], first.said())
    same_bits(bench.whole, run)
    assert line is not None
    return Seen(f"the first run: {SAME}", message=short(line[0], bench, run))


def other_world_of_local_norm(bench: Bench) -> Seen:
    recipe = [
        *("experiment=cifar10_resnet9", "data=synthetic", "model.width=0.0625"),
        *("task.image_shape=[16,16,3]", "train.global_batch_size=16"),
        *("data.train_examples=640", "data.test_examples=32", "model.norm.sync=false"),
        *(*RECIPE, "train.steps=20"),
    ]
    run = fresh(bench, "local")
    killed(bench, run, *recipe)
    ranks = bench.forks.start(*recipe, f"run.dir={run}", processes=1)
    statuses = ranks.wait()
    ranks.end()
    expect(statuses == [2], ranks.said())
    expect("world_size is 1, was 2" in ranks.said(), ranks.said())
    return Seen(
        "refused",
        exits=("2",),
        message="world_size is 1, was 2, and model.norm.sync=false …",
    )


def between_rounds(where: str, *keys: str) -> Callable[[Bench], Seen]:
    """Replicas of local SGD that are killed and resume from a step between rounds."""

    def happens(bench: Bench) -> Seen:
        recipe = [*RECIPE, *keys]
        whole, run = fresh(bench, "whole-local"), fresh(bench, "local-sgd")
        trained(bench, whole, *recipe)
        killed(bench, run, *recipe, where=where)
        said = trained(bench, run, *recipe)
        same_bits(whole, run)
        found = re.search(r"resumes (after step \d+)", said)
        expect(found is not None, said)
        assert found is not None
        return Seen(SAME, resumed=found[1])

    return happens


def other_world_of_replicas(bench: Bench) -> Seen:
    recipe, run = [*RECIPE, *EVERY_SEVEN], fresh(bench, "local-sgd")
    killed(bench, run, *recipe)
    ranks = bench.forks.start(*recipe, f"run.dir={run}", processes=1)
    statuses = ranks.wait()
    ranks.end()
    expect(statuses == [2], ranks.said())
    reason = "world_size is 1, was 2, and parallel=local_sgd trains a replica on each"
    expect(reason in ranks.said(), ranks.said())
    return Seen("refused", exits=("2",), message=f"{reason} device …")


def restarts(bench: Bench) -> Seen:
    """torchrun restarts both ranks, twice, without a run.dir."""
    place = fresh(bench, "torchrun")
    place.mkdir()
    fault = HEAD.format(rank=0) + (
        "tries = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "if os.environ['RANK'] == str(tries): at_step((13, 23, 99)[tries], kill)"
    )
    script = ROOT / "tests" / "faults" / "faulty.py"
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "DUET_FAULT": fault}
    done = subprocess.run(
        [
            *(bench.python, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", "--max-restarts=2", str(script)),
            *(str(ROOT / SCRIPTS[bench.forks.framework]), *RECIPE),
            "parallel.timeout_seconds=60",
        ],
        cwd=place,
        env=clean_environment() | NO_GPU | loopback | {"DUET_DATA": str(place)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    said = done.stdout + done.stderr
    expect(done.returncode == 0, said)
    (run,) = place.glob("runs/*")
    steps = [row["step"] for row in read_run(run).of_kind("resume")]
    expect(len(steps) == 2, f"resumed after {steps}\n{said}")
    same_bits(bench.whole, run)
    return Seen(SAME, resumed=f"after steps {steps[0]} and {steps[1]}, in one folder")


def refuses(connection: socket.socket) -> None:
    with connection:
        connection.recv(1 << 16)
        body = b'{"errors":[{"message":"user is not logged in"}]}'
        head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)


def answers_never(connection: socket.socket) -> None:
    with connection:
        time.sleep(600)


def wandb(behaves: Callable[[socket.socket], None] | None) -> Callable[[Bench], Seen]:
    """A run mirrored to a server that is none, refuses, or stays silent."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            assert behaves is not None
            threading.Thread(target=behaves, args=(connection,), daemon=True).start()

    def happens(bench: Bench) -> Seen:
        run = fresh(bench, "mirrored")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            if behaves is None:
                server.close()
            else:
                threading.Thread(target=serve, args=(server,), daemon=True).start()
            begin = time.monotonic()
            ranks = bench.forks.start(
                *(*RECIPE, "tracking=wandb", f"run.dir={run}"),
                WANDB_MODE="",
                WANDB_API_KEY=CANARY,
                WANDB_BASE_URL=f"http://127.0.0.1:{port}",
                HOME=str(bench.folder),
            )
            statuses = ranks.wait(300)
            took = time.monotonic() - begin
            ranks.end()
        said = ranks.said()
        expect(statuses == [0, 0], f"left with {statuses}\n{said}")
        same_bits(bench.whole, run)
        expect(CANARY not in said, "the key was printed")
        files = [path for path in run.rglob("*") if path.is_file()]
        holds = [path for path in files if CANARY.encode() in path.read_bytes()]
        expect(not holds, f"the key is in {holds}")
        return Seen(f"{SAME}; the key is in no file", seconds=round(took, 1))

    return happens


def killed_at_random(times: int) -> Callable[[Bench], Seen]:
    """One run of digits_cnn, SIGKILLed again and again, both ranks or one of them."""

    def happens(bench: Bench) -> Seen:
        draw = random.Random(0)
        recipe = [
            *("experiment=digits_cnn", "train.steps=600", "train.log_every_steps=2"),
            *("checkpoint.every_steps=4", "train.evaluate_every_epochs=5"),
            # No launcher ends a rank whose fellow has died before they met.
            *("parallel.timeout_seconds=20", "parallel.start_timeout_seconds=30"),
        ]
        whole, run = fresh(bench, "whole-cnn"), fresh(bench, "killed")
        trained(bench, whole, *recipe)
        last, hit = 0, Counter[str]()
        for kill in range(times):
            # Further each time, so that it ends; anywhere, also in start-up and saves.
            where, step = "a step", last + draw.randint(1, 24)
            delay = draw.random() / 50  # of the next few steps and saves
            code = f"at_step({step}, later({delay:.4f}, kill))"
            if draw.random() < 0.2:
                where = draw.choice(["start", "load", "parallelize"])
                code = f"in_twin('{where}', later({10 * delay:.3f}, kill))"
            ranks = bench.forks.start(
                *recipe,
                f"run.dir={run}",
                faults={
                    rank: HEAD.format(rank=rank) + code
                    for rank in draw.choice([{0}, {1}, {0, 1}])
                },
            )
            statuses = ranks.wait()
            ranks.end()
            expect(
                -9 in statuses and set(statuses) <= {-9, 1},
                f"kill {kill + 1}, {where}: left with {statuses}\n{ranks.said()}",
            )
            hit[where] += 1
            marked = run.glob("checkpoints/step-*/COMMITTED")
            last = max((int(path.parent.name[5:]) for path in marked), default=0)
        trained(bench, run, *recipe)
        same_bits(whole, run)
        places = ", ".join(f"{count} in {where}" for where, count in hit.items())
        return Seen(f"killed {places}, up to step {last}; then {SAME}")

    return happens


MORE = [
    More(
        "resumed on one rank instead of two, fp64",
        "the uninterrupted run within 1e-10",
        elsewhere(1),
    ),
    More(
        "resumed under parallel=fsdp, fp64",
        "the uninterrupted run within 1e-10",
        elsewhere(2, "parallel=fsdp"),
    ),
    More(
        "resumed in the other framework every 20 steps, fp64",
        "the unswapped run within 1e-10",
        in_the_other_framework,
    ),
    More(
        "resumed on one rank instead of two, model.norm.sync=false",
        "refused, since it would be another run",
        other_world_of_local_norm,
    ),
    More(
        "SIGKILL of rank 0 in a round of local SGD, steps after a checkpoint",
        "resumed between two rounds, the uninterrupted run bit for bit",
        between_rounds("in_twin('finish_step', kill, 2)", *EVERY_SEVEN),
    ),
    More(
        "SIGKILL of rank 0 while a fragment of DiLoCo is under way",
        "resumed between two rounds, the uninterrupted run bit for bit",
        between_rounds("at_step(17, kill)", *STREAMING),
    ),
    More(
        "resumed on one rank instead of two, parallel=local_sgd",
        "refused, since each device has a replica",
        other_world_of_replicas,
    ),
    More(
        "two runs are given one folder",
        "the second is refused with status 2, the first continues",
        two_in_one_folder,
    ),
    More(
        "a rank is killed, twice, under torchrun --max-restarts=2, without run.dir",
        "torchrun's restart resumes in the same folder by itself",
        restarts,
    ),
    More(
        "W&B cannot be reached",
        "the run is whole, and its key in no file",
        wandb(None),
    ),
    More(
        "W&B refuses the key",
        "the run is whole, and its key in no file",
        wandb(refuses),
    ),
    More(
        "W&B never answers",
        "the run is whole, and its key in no file",
        wandb(answers_never),
    ),
    More(
        "50 random kills of one digits_cnn run, seed 0",
        "it finishes, and is the uninterrupted run",
        killed_at_random(50),
    ),
]
