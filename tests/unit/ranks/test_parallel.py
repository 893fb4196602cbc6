"""Joining a group, text between ranks, divergence; two real processes over gloo where it matters."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from jobs import linux
from small import SMALL

from dsv3.inference.divergence import first_difference
from dsv3.inference.weights import fingerprints
from dsv3.lab.jobs import free_port
from dsv3.lab.threads import on_ranks
from dsv3.model import Transformer
from dsv3.ranks import store as stores
from dsv3.ranks.parallel import Parallel, agree
from dsv3.ranks.watch import Timeouts
from dsv3.runtime import Runtime


@pytest.mark.parametrize(
    "text",
    ["silent", "silent=0", "patience=3", "start=soon", "silent=-1", "start=nan", "start=1e400", "silent=1e9",
     "start=inf", "collective=-inf", "start=-nan"],
)  # fmt: skip
def test_wrong_timeouts(text, monkeypatch):
    monkeypatch.setenv("DSV3_TIMEOUTS", text)
    with pytest.raises(ValueError, match="give seconds as start=20,silent=15"):
        Timeouts.from_environment()
    monkeypatch.setenv("DSV3_TIMEOUTS", "silent=2.5,start=600")
    assert Timeouts.from_environment() == Timeouts(start=600, silent=2.5)


@pytest.fixture
def store():
    return stores.open_store("127.0.0.1", free_port(), True, 5)


def test_who_is_missing_is_named(store):
    store.set("ranks/2", "4")
    with pytest.raises(ConnectionError, match=r"rank 1, 3 of 4 did not come within 0\.2 s; DSV3_TIMEOUTS=start="):
        stores.check_in(store, "rank", 0, 4, 0.2)


def test_the_same_number_twice_and_another_count(store):
    def come(number: int, size: int) -> str:
        try:
            stores.check_in(store, "node", number, size, 1)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(come, (0, 1), (2, 3))
    assert (first, second) == ("node 1 counts 3 nodes, this one 2", "node 0 counts 2 nodes, this one 3")
    with pytest.raises(ValueError, match="there is another node 0"):
        stores.check_in(store, "node", 0, 2, 1)


def test_somebody_elses_port():
    with pytest.raises(ConnectionError, match=r"nobody answers at 127\.0\.0\.1:1 within 0\.3 s"):
        stores.open_store("127.0.0.1", 1, False, 0.3)


@linux
@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize(
    ("held", "host"),
    [("::1", "::1"), ("::", "::1"), ("::1", "localhost"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")],
)
def test_a_port_in_use(held, host, listens):
    family = socket.AF_INET6 if ":" in held else socket.AF_INET
    if held == "::1" and host == "localhost" and ("::1") not in {i[4][0] for i in socket.getaddrinfo(host, None)}:
        pytest.skip("localhost is 127.0.0.1 only here, whose port is free")
    with socket.socket(family) as other:
        other.bind((held, 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"port {port} is in use on {host}"):
            stores.open_store(host, port, True, 20)


def test_an_address_of_another_machine():
    with pytest.raises(ConnectionError, match=r"192\.0\.2\.1 does not lead to this machine"):
        stores.open_store("192.0.2.1", free_port(), True, 20)  # an address that nobody has, RFC 5737


def test_text_waits_for_as_long_as_it_takes(store):
    ranks = [Parallel(rank, 2, store) for rank in (0, 1)]
    heard = []
    listener = threading.Thread(target=lambda: heard.append(ranks[1].broadcast_text(None)))
    listener.start()
    time.sleep(3 * stores.POLL)
    assert not heard
    assert ranks[0].broadcast_text("你好\n") == "你好\n"
    listener.join(10)
    assert heard == ["你好\n"]
    assert Parallel().broadcast_text("alone") == "alone"


@pytest.mark.parametrize(
    ("odd", "words"),
    [({"a": "1", "b": "3"}, "b = 2 on rank 0, b = 3 on rank 2"), ({"a": "1"}, "b = 2 on rank 0, nothing on rank 2")],
)
def test_agreement_names_item_rank_and_both_values(odd, words):
    usual = {"a": "1", "b": "2"}

    def compare(tp):
        agree(tp, usual, "config")
        try:
            agree(tp, odd if tp.rank == 2 else usual, "config")
        except ValueError as error:
            return str(error)

    assert set(on_ranks(4, compare)) == {f"ranks differ in their config: {words}"}


def test_the_first_difference():
    layers = ["embed", "layers.0", "layers.1"]
    same = ["a", "b", "c"]
    assert first_difference(layers, [same] * 3) is None
    assert "after layers.1, the first such layer: rank 1 against" in first_difference(layers, [same, ["a", "b", "x"]])
    assert "after layers.0, the first such layer: rank 0 against" in first_difference(
        layers, [["a", "x", "y"], same, same]
    )
    assert "3 on rank 0, 2 on rank 1" in first_difference(layers, [same, same[:2]])


def test_every_rank_has_the_same_fingerprints(small_weights):
    changed = small_weights | {"layers.1.ffn_norm.weight": small_weights["layers.1.ffn_norm.weight"] + 1}

    def work(tp, weights):
        model = Transformer(replace(SMALL, dtype="bf16"), Runtime(dtype=torch.float32, tp=tp))
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(weights[name])
        return fingerprints(model)

    first, second = on_ranks(2, lambda tp: work(tp, small_weights))
    assert first == second
    assert set(first) == {name for name, weight in small_weights.items() if weight.dim() == 1}
    other = work(Parallel(), changed)
    assert [name for name in first if first[name] != other[name]] == ["layers.1.ffn_norm.weight"]


def test_captured_graphs_are_emptied_before_ranks_part():
    """One that nobody holds any more is not kept for that."""

    class Graph:
        emptied = 0

        def reset(self) -> None:
            self.emptied += 1

    tp, held, dropped = Parallel(1, 2), Graph(), Graph()
    with_device = replace(tp, device="cuda")
    for graph in (held, dropped):
        with_device.graphs.add(graph)
    del dropped, graph
    assert len(tp.graphs) == 1
    tp.let_go()
    assert held.emptied == 1
