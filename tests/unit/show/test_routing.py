"""What lesson 06 measures and shows: where tokens go, how evenly, and what a batch reads, on tiny-r1 itself."""

from dataclasses import replace

import pytest
import torch

from dsv3.config import ModelConfig
from dsv3.cost import weight_bytes
from dsv3.lab import probe, routing
from dsv3.lab.work import sums as sums_of
from dsv3.paths import TINY_R1
from dsv3.show import routing as show

R1 = ModelConfig.load("config_671B.json")


@pytest.fixture(scope="module")
def sums():
    return probe.solved(TINY_R1, 12)


def test_every_token_of_a_column_has_its_kind():
    text = "<｜User｜>37 加 48？<think>\nColumns: 12\n7+8+0=15:5\n4-8-0+10=6:6\n</think>\n"
    named = routing.kinds(text, [(i, i + 1) for i in range(len(text))])

    def of(part):
        return named[text.index(part) : text.index(part) + len(part)]

    digits = ["digit", "operator", "digit", "operator", "carry"]
    assert of("7+8+0=15:5") == [*digits, "= and :", "sum", "sum", "= and :", "result"]
    assert of("4-8-0+10=6:6") == [*digits, "lent", "lent", "lent", "= and :", "sum", "= and :", "result"]
    assert of("加") == ["Chinese"]
    assert set(of("Columns")) == {"English"}
    assert of("12\n") == ["other digits", "other digits", "new line"]
    assert set(of("<think>") + of("</think>") + of("<｜User｜>")) == {""}


def test_tokens_go_where_the_gates_send_them(llm, sums):
    found = routing.routed(llm.model, sums.tokens)
    cfg = llm.model.cfg
    assert len(found) == cfg.n_layers - cfg.n_dense_layers
    for weights, experts in found:
        assert experts.shape == (*sums.tokens.shape, cfg.n_activated_experts)
        assert torch.allclose(weights.sum(-1), torch.full(sums.tokens.shape, cfg.route_scale))
        assert (torch.nn.functional.one_hot(experts // 4, 4).amax(-2).sum(-1) <= cfg.n_limited_groups).all()
    assert not any(module._forward_hooks for module in llm.model.modules())
    whole = routing.spread(found[0], 16)
    assert torch.equal(whole.gather(1, found[0].experts[0]), found[0].weights[0])
    assert torch.equal((whole > 0).sum(1), torch.full((len(whole),), 4))


def test_loads_sum_to_one_and_are_even_without_a_choice():
    experts = torch.arange(16).repeat(3).view(4, 12)
    assert torch.allclose(routing.load(experts, 16), torch.full((16,), 1 / 16))
    assert routing.load(torch.tensor([[0, 1], [0, 2]]), 4).tolist() == [0.5, 0.25, 0.25, 0.0]


def test_kinds_share_out_all_choices_and_ahead_looks_at_the_next_token(llm, sums):
    experts = routing.routed(llm.model, sums.tokens)[0].experts
    names, share = routing.by_kind(experts, sums, 16)
    assert torch.allclose(share.sum(1), torch.full((len(names),), 4.0))
    assert share[names.index("digit")].max() > 0.9
    _, ahead = routing.by_kind(experts, sums, 16, ahead=1)
    assert ahead.max(1).values.mean() < share.max(1).values.mean()


def test_a_batch_reads_what_it_touches_and_at_most_the_model():
    work = sums_of(R1)
    one, every = work.weights_read(1), work.weights_read(100_000)
    assert one["routed"] / every["routed"] == pytest.approx(8 / 256)
    embedding = 129280 * 7168 * 2
    every["embedding"] = embedding
    assert sum(every.values()) == pytest.approx(weight_bytes(replace(R1, n_mtp_layers=0), "fp8"))


def test_figures_hold_their_data():
    share = torch.tensor([0.5, 0.25, 0.25, 0.0])
    bars = show.loads({"a": share}).axes[0].patches
    assert [bar.get_height() for bar in bars] == [50, 25, 25, 0]
    assert show.balance({"a": [3, 2, 1]}, 1.5, "a title").axes[0].lines[0].get_ydata().tolist() == [3, 2, 1]
    solved, busiest = show.signature({"on": (1.0, 1.2), "off": (0.5, 2.0)}).axes
    assert [bar.get_width() for bar in solved.patches] == [100, 50]
    assert [bar.get_width() for bar in busiest.patches] == [1.2, 2.0]
    drawn = show.choice(share, share + 0.1, torch.tensor([0, 2]), torch.tensor([1]), 2).axes[0]
    colours = [bar.get_facecolor() for bar in drawn.patches[-4:]]
    assert colours[0] == colours[2] != colours[1]
    assert len(show.heat(["a"], [share[None], share[None]], ["1", "2"], 2).axes) == 3
    whole, each = show.reading({1: (1e9, 3e9), 64: (6e9, 8e9)}).axes
    assert [list(line.get_ydata()) for line in whole.lines] == [[3, 8], [1, 6]]
    assert list(each.lines[0].get_ydata()) == [3, 0.125]


def test_the_explorer_follows_its_choices():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")

    def route(question):
        return torch.rand(2, len(question), 16), list(question)

    box = show.explorer(route, 4, "2 + 3 = ?")
    asked, layer = box.children[0].children
    assert layer.max == 2
    picture = box.children[1]
    seen = {bytes(picture.value)}
    for choice, value in ((layer, 2), (asked, "9 + 9 = ?")):
        choice.value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 3
