"""Where gloo would be unreachable from other nodes, its interface is derived."""

import socket

import pytest

from runtime import interfaces
from runtime.interfaces import gloo_interface, interface_of, source_address

ROUTES = {"coordinator": "10.0.0.7", interfaces.ELSEWHERE: "192.168.1.2"}
NAMES = {"10.0.0.7": "ib0", "192.168.1.2": "eth0"}


@pytest.fixture
def host(monkeypatch):
    """`host("127.0.1.1")`: what the host's own name resolves to, and its routes."""

    def host(of_name: str | None, routes: dict[str, str] = ROUTES) -> None:
        monkeypatch.setattr(interfaces, "_address", lambda name: of_name)
        monkeypatch.setattr(interfaces, "source_address", routes.get)
        own = {name: address for address, name in NAMES.items()}
        monkeypatch.setattr(interfaces, "addresses", lambda: {"lo": "127.0.0.1", **own})

    return host


def test_a_host_whose_name_others_can_reach_needs_none(host):
    host("10.0.0.7")
    assert gloo_interface("coordinator") is None


@pytest.mark.parametrize("own", ["127.0.1.1", "127.0.0.1", None])
def test_a_host_that_is_loopback_to_itself_takes_the_route_to_rank_0(host, own):
    host(own)
    assert gloo_interface("coordinator") == "ib0"


def test_on_rank_0s_own_node_the_default_route_is_taken(host):
    host("127.0.1.1", {**ROUTES, "coordinator": "127.0.0.1"})
    assert gloo_interface("coordinator") == "eth0"


def test_without_any_route_the_only_interface_is_taken_and_none_of_several(
    host, monkeypatch
):
    host("127.0.1.1", {})
    assert gloo_interface("coordinator") is None
    one = {"lo": "127.0.0.1", "hsn0": "10.0.0.7"}
    monkeypatch.setattr(interfaces, "addresses", lambda: one)
    assert gloo_interface("coordinator") == "hsn0"


def test_loopbacks_address_is_that_of_loopbacks_interface():
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == socket.if_indextoname(1)
    assert interface_of("192.0.2.77") is None
