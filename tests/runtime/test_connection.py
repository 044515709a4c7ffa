"""Where rank 0 listens: for other nodes everywhere, for its own node on loopback."""

import json
import os
import socket
import subprocess
import sys

import pytest

from runtime.connection import accept, listen
from runtime.processes import Processes
from tests.conftest import ROOT, clean_environment


def rank_zero(host: str) -> Processes:
    # Of this port, which JAX would take, others follow.
    return Processes("slurm", 0, 2, 0, f"{host}:{20000 + os.getpid() % 12000}", "a")


def test_with_several_nodes_rank_0_accepts_on_addresses_that_its_name_has_not():
    with listen(rank_zero("localhost")) as listener:
        port = listener.getsockname()[1]
        for address in "127.0.0.1", "127.0.1.1":
            socket.create_connection((address, port), timeout=5).close()


def test_on_one_node_rank_0_accepts_on_loopback_alone():
    with listen(rank_zero("127.0.0.1")) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.1.1", port), timeout=5)


# A rank of another node, to which the name of rank 0's resolves differently.
ELSEWHERE = """
import json, socket, sys
from runtime.connection import connect
from runtime.processes import Processes

resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **most: resolve(sys.argv[2], *more, **most)
found = connect(Processes(**json.loads(sys.argv[1]) | {"rank": 1}))
print(found[1]["rank"] if found else None)
"""


@pytest.mark.parametrize("resolved", ["127.0.0.9", "::1"])
def test_another_node_connects_by_the_address_that_it_knows(resolved):
    if resolved == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    processes = rank_zero("localhost")
    with listen(processes) as listener:
        listener.settimeout(60)
        place = json.dumps(
            {"launcher": "slurm", "count": 2}
            | {"coordinator": processes.coordinator, "launch": "a"}
        )
        rank = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, place, resolved],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        found = accept(listener, processes)
        assert found is not None and found[1]["rank"] == 1
        assert rank.communicate(timeout=60)[0] == "0\n"
        found[0].close()


def test_without_ipv6_rank_0_listens_on_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen(rank_zero("localhost")) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
