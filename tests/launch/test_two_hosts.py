"""A run over two hosts without a common loopback, each 127.0.1.1 to itself."""

import os
import shutil
import subprocess
import sys

import pytest

from record.run import read_run
from tests.conftest import NO_GPU, ROOT, clean_environment

ADDRESSES = {"hosta": "10.201.0.1", "hostb": "10.201.0.2"}
STEP = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": ",".join(ADDRESSES),
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_LOCALID": "0",
}
ENTER = 'mount --bind "$HOSTS" /etc/hosts && hostname "$HOST" && exec "$@"'


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path):
    """Host -> the words that start a command there."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("two hosts need root, ip and unshare")
    spaces = {host: f"duet-{os.getpid()}-{host}" for host in ADDRESSES}
    try:
        for host, space in spaces.items():
            ip("netns", "add", space)
            others = [
                f"{own} {name}" for name, own in ADDRESSES.items() if name != host
            ]
            lines = [f"127.0.1.1 {host}", "127.0.0.1 localhost", *others]
            (tmp_path / f"hosts.{host}").write_text("\n".join(lines) + "\n")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    one, two = spaces.values()
    try:
        cable = ("type", "veth", "peer", "name", "port", "netns", two)
        ip("link", "add", "port", "netns", one, *cable)
        for host, space in spaces.items():
            ip("-n", space, "addr", "add", f"{ADDRESSES[host]}/24", "dev", "port")
            for device in "port", "lo":
                ip("-n", space, "link", "set", device, "up")
        enter = ("unshare", "--mount", "--uts", "sh", "-c", ENTER, "sh")
        yield {h: ["ip", "netns", "exec", space, *enter] for h, space in spaces.items()}
    finally:
        for space in spaces.values():
            subprocess.run(["ip", "netns", "del", space], check=False)


def test_two_hosts_that_are_loopback_to_themselves_train_one_run(hosts, tmp_path):
    run = tmp_path / "run"
    overrides = ["platform=cpu", "train.steps=3", f"run.dir={run}"]
    ranks = [
        subprocess.Popen(
            [*enter, sys.executable, "launch/pytorch.py", *overrides],
            cwd=ROOT,
            env=clean_environment()
            | NO_GPU
            | STEP
            | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)}
            | {"HOST": host, "HOSTS": str(tmp_path / f"hosts.{host}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, (host, enter) in enumerate(hosts.items())
    ]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    record = read_run(run)
    assert (record.summary["processes"], record.environment["host"]) == (2, "hosta")
    assert record.environment["network_settings"]["GLOO_SOCKET_IFNAME"] == "port"
