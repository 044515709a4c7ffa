"""A SLURM cluster of two nodes on this machine, real but for its hardware.

Debian's `slurm-wlm` and `munge` as root, without systemd, cgroups, a fixed port or a
change outside one folder in /tmp. The daemons live in namespaces of their own: a node's
host name and the others' addresses hold inside its jobs, and when the first process of
the PID namespace ends, so does every process of the cluster. Clients (`sbatch`,
`squeue`, submitit) run outside, with `env`.
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

NEEDED = (
    *("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo"),
    *("squeue", "scancel", "setpriv", "unshare"),
)
NODES = ("node1", "node2")
CPUS, GPUS = 4, 2  # of each node, as its jobs count them
NAMESPACES = (
    *("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc"),
    "--uts",
)
ENDED = {"CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT"}

# The cluster's first process; it ends when the pipe that it reads does. A slurmd that
# finds no controller sleeps before it tries again, so the port is waited for.
FIRST_PROCESS = r"""
export SLURM_CONF=$CLUSTER/slurm.conf
mount --bind "$CLUSTER/hosts" /etc/hosts && hostname controller || exit 1
munged -F --socket="$CLUSTER/munge.socket" --key-file="$CLUSTER/munge.key" \
  --log-file="$CLUSTER/munged.log" --pid-file="$CLUSTER/munged.pid" \
  --seed-file="$CLUSTER/munge.seed" --origin=127.0.0.1 </dev/null &
for _ in $(seq 500); do [ -S "$CLUSTER/munge.socket" ] && break; sleep 0.02; done
slurmctld -D -i </dev/null &
for _ in $(seq 500); do
  (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && break; sleep 0.02
done
for node in $NODES; do
  node=$node unshare --uts bash -c 'hostname "$node" && exec slurmd -D -N "$node"' \
    </dev/null &
done
cat >/dev/null
"""

# AuthInfo's cred_expire is also how long a requeued job waits, 120 s by default.
# Affinity (TaskPlugin) would fail, as the nodes have more CPUs than the machine.
SLURM_CONF = """\
ClusterName=duet
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny{listen}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
FirstJobId={first_job}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MinJobAge=3600
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=3
MailProg=/bin/true
GresTypes=gpu
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here, or None where one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root, for namespaces"
    missing = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if missing:
        return f"a SLURM cluster needs slurm-wlm and munge; missing: {missing}"
    probe = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    return f"no namespaces here: {probe.stderr.strip()}" if probe.returncode else None


def _path() -> str:
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, below those of outgoing calls."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10000, 20000)  # runtime/processes.py takes 20000 on
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)):
                ports.append(port)
    return ports


class SlurmCluster:
    """`with SlurmCluster(environment) as cluster: cluster.run("sinfo")`."""

    def __init__(self, environment: dict[str, str]):
        # Short, since sockets in it may have paths of 108 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="duet-slurm-", dir="/tmp"))
        self.env = environment | {
            "PATH": _path(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def _configure(self) -> int:
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        port, *ports = _free_ports(1 + len(NODES))
        # GPUs are devices that nothing opens: SLURM refuses a mere count of them.
        for index in range(GPUS):
            null = os.makedev(1, 3)
            os.mknod(folder / f"gpu{index}", 0o666 | stat.S_IFCHR, null)
        (folder / "gres.conf").write_text(
            f"NodeName={','.join(NODES)} Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n"
        )
        here = socket.gethostname()
        names = " ".join(["localhost", "controller", *NODES, here])
        (folder / "hosts").write_text(f"127.0.0.1 {names}\n")
        # srun listens where its host's name says; where that is not loopback, the
        # tasks' answers, which come from loopback, need it to listen everywhere.
        try:
            alone = socket.gethostbyname(here) == "127.0.0.1"
        except OSError:
            alone = False
        nodes = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={CPUS} RealMemory=8000 Gres=gpu:{GPUS} State=UNKNOWN"
            for node, port in zip(NODES, ports, strict=True)
        ]
        (folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                folder=folder,
                port=port,
                listen=",NoInAddrAny" if alone else "",
                # Coordinators' ports come from job ids: two clusters need other ones.
                first_job=random.randrange(1000, 60000),
                nodes="\n".join(nodes),
            )
        )
        return port

    def __enter__(self) -> Self:
        try:
            port = self._configure()
            with (self.folder / "daemons.log").open("w") as log:
                # pdeathsig: if this process is killed, unshare is, and so the cluster.
                self._daemons = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *NAMESPACES]
                    + ["bash", "-c", FIRST_PROCESS],
                    cwd="/",
                    env=self.env
                    | {"CLUSTER": str(self.folder), "PORT": str(port)}
                    | {"NODES": " ".join(NODES)},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            deadline = time.monotonic() + 60
            while self._idle() != len(NODES):
                if self._daemons.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no cluster:\n{self.logs()}")
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if daemons := getattr(self, "_daemons", None):
            daemons.kill()  # and with it the namespace's first process, and so all
            daemons.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _idle(self) -> int:
        done = self.run("sinfo", "-h", "-N", "-o", "%T", check=False)
        return done.stdout.split().count("idle")

    def run(
        self, *command: object, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A client's command, or any other that is to see the cluster."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.env | variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stderr}"
        return done

    def states(self, job: str) -> list[str]:
        """A job's state, or an array's, a state for each of its tasks."""
        listed = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T")
        return listed.stdout.split()

    def ended(self, job: str, seconds: float = 300) -> list[str]:
        """The states that a job and its tasks end in."""
        states, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = self.states(job)
            if states and ENDED.issuperset(states):
                return states
            time.sleep(0.1)
        raise AssertionError(f"job {job} still is {states}\n{self.logs()}")

    def processes(self) -> list[str]:
        """Command lines in the cluster, its daemons' among them."""
        lines = (p / "cmdline" for p in self._inside())
        return sorted(_read(line).replace("\0", " ").strip() for line in lines)

    def lose(self, node: str) -> None:
        """Set a node down; what its tasks were ends with it, as on a broken machine.

        Else SLURM ends it when the node is back, where the requeued job may be already.
        """
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        for process in self._inside():
            if f"SLURMD_NODENAME={node}\0" in _read(process / "environ"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)

    def _inside(self) -> list[Path]:
        """Of every process of the cluster, its folder in /proc."""
        own = os.readlink(f"/proc/{self._first()}/ns/pid")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended, or is not ours
                if os.readlink(process / "ns" / "pid") == own:
                    found.append(process)
        return found

    def _first(self) -> str:
        unshare = self._daemons.pid
        return Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]

    def clear(self) -> None:
        """End every job, and wait until none is listed."""
        jobs = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if jobs:
            self.run("scancel", "--signal=KILL", "--full", *jobs, check=False)
            self.run("scancel", *jobs, check=False)
        deadline = time.monotonic() + 30
        while self.run("squeue", "-h").stdout and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._idle() != len(NODES):  # drained by a task that would not end
            nodes = f"NodeName={','.join(NODES)}"
            self.run("scontrol", "update", nodes, "State=RESUME", check=False)

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        logs = sorted(self.folder.glob("*.log"))
        tails = (p.read_text(errors="replace").splitlines()[-15:] for p in logs)
        pairs = zip(logs, tails, strict=True)
        return "\n".join("\n".join([f"== {p.name}", *tail]) for p, tail in pairs)


def _read(file: Path) -> str:
    """Of /proc; empty where the process has ended."""
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace")
    return ""
