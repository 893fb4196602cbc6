"""Lesson 11's toy server, its measurements, and the chooser of commands."""

import json
import urllib.request
from pathlib import Path

import pytest

from dsv3 import load
from dsv3.config import ModelConfig
from dsv3.engines.client import Client
from dsv3.engines.table import ENGINES
from dsv3.lab import openai_server, serving
from dsv3.show import serving as show
from dsv3.sizing.gpus import gpus
from dsv3.sizing.offload import reported

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "decode-cpu.json"
SUM = "37 + 48 = ?"


@pytest.fixture(scope="module")
def llm():
    return load("tiny-r1")


@pytest.mark.parametrize("dialect", ["reasoning_content", "reasoning", "none"])
def test_the_official_client_gets_what_the_model_says(llm, dialect):
    own = llm.chat(SUM)
    with openai_server.toy_server(llm, dialect) as url:
        client = Client(url)
        whole = client.ask(SUM, temperature=0)
        pieces = list(client.stream(SUM, temperature=0))
    for answer in (whole, client.latest):
        assert (answer.thinking.strip(), answer.answer.strip()) == (own.thinking.strip(), "Answer: 85")
        assert (answer.tokens, answer.finish) == (own.tokens, "stop")
    assert len(pieces) > 20


def test_its_dialects_differ_in_the_fields(llm):
    body = {"model": openai_server.NAME, "messages": [{"role": "user", "content": SUM}]}
    for dialect, fields in (("reasoning", {"role", "content", "reasoning"}), ("none", {"role", "content"})):
        with openai_server.toy_server(llm, dialect) as url:
            request = urllib.request.Request(url + "/chat/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request) as reply:
                assert set(json.load(reply)["choices"][0]["message"]) == fields


def test_a_cut_answer_and_a_wrong_request_are_told(llm):
    with openai_server.toy_server(llm) as url:
        client = Client(url)
        cut = client.ask(SUM, temperature=0, max_tokens=5)
        assert (cut.finish, cut.tokens, cut.answer) == ("length", 5, "")
        assert "it serves tiny-r1" in serving.refusal(lambda: client.ask(SUM, model="other"))
        assert "refused (400)" in serving.refusal(lambda: client.ask([{"role": "user"}], model=openai_server.NAME))
        assert client.ask(SUM, temperature=0).answer.strip() == "Answer: 85"
    assert "no server answers there" in serving.refusal(lambda: client.ask(SUM))


def test_requests_are_timed_each_in_its_turn(llm):
    with openai_server.toy_server(llm) as url:
        requests = serving.measure(url, [SUM] * 3, 3, temperature=0)
    assert all(r.sent <= r.first <= r.end for r in requests)
    by_end = sorted(requests, key=lambda r: r.end)
    assert all(earlier.end <= later.first for earlier, later in zip(by_end, by_end[1:], strict=False))
    found = serving.summary(requests)
    assert found["tokens_per_s"] == pytest.approx(sum(r.answer.tokens for r in requests) / found["seconds"])
    panels = show.timeline({"three": requests}).axes
    assert [bar.get_width() for bar in panels[0].patches[1::2]] == pytest.approx([r.end - r.first for r in requests])


@pytest.mark.parametrize("engine", [e.name for e in ENGINES])
@pytest.mark.parametrize("machines", [1, 2])
def test_every_engine_has_a_command_for_one_and_two_machines(engine, machines):
    text = serving.command(engine, "H200-141G", machines)
    assert "refused" not in text
    assert "DeepSeek-R1" in text.splitlines()[-2] or "DeepSeek-R1" in text


def test_what_cannot_work_is_refused_with_the_reason():
    assert "does not fit 8 x H100-80G" in serving.command("vllm", "H100-80G")
    assert "refused: LMDeploy on A100-80G" in serving.command("lmdeploy", "A100-80G", 2)
    assert "refused" not in serving.command("vllm", "H100-80G", 2)


def test_the_chooser_follows_its_menus():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")
    chooser = show.chooser(serving.command, {e.title: e.name for e in ENGINES}, [gpu.name for gpu in gpus()])
    menus, text = chooser.children
    engine, gpu, machines, drafts = menus.children
    assert "sglang serve" in text.value
    engine.value = "vllm"
    assert "vllm serve" in text.value
    drafts.value = 2
    assert "num_speculative_tokens" in text.value
    gpu.value = "RTX-4090"
    assert "refused" in text.value
    gpu.value, machines.value = "H100-80G", 2
    assert "pipeline-parallel-size 2" in text.value


def test_the_recorded_figure_shows_what_was_recorded():
    result = json.loads(RESULTS.read_text())
    works, tools = ("tiny-r1 BF16, batch 1", "tiny-r1 BF16, batch 8"), ("transformers", "vllm")
    bars = [bar.get_height() for bar in show.recorded(result, works, tools).axes[0].patches]
    rows = {(r["work"], r["tool"]): r["tokens_per_s"] for r in result["rows"] if "tool" in r}
    assert bars == [rows[work, tool] for work in works for tool in tools]


def test_the_grid_says_what_goes_and_why_not():
    figure = show.verdicts(
        {"8 x H200": {"SGLang": "", "vLLM": "no FP8"}, "8 x A100": {"SGLang": "too small", "vLLM": ""}}
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["goes", "no FP8", "too small", "goes"]


def test_what_is_reported_stands_beside_the_bound():
    (ax,) = show.reported({1: 800, 8: 1600}, {"SGLang": {8: 597}}).axes
    bound, dot = ax.lines
    assert [list(values) for values in bound.get_data()] == [[1, 8], [800, 1600]]
    assert [list(values) for values in dot.get_data()] == [[8], [597]]


def test_reports_of_machines_with_ram_stand_inside_their_bounds():
    rows = reported(ModelConfig.load("config_671B.json"), "Q4_K_M")
    figure = show.beside_bounds(rows)
    bounds, seen = ([bar.get_width() for bar in bars] for bars in figure.axes[0].containers[:2])
    assert bounds == [limit for _, limit in rows]
    assert seen == [report.tokens_per_s for report, _ in rows]
    assert "0.40 to 0.50" in figure.get_suptitle()
