"""tiny-r1: its data is right, the split holds, and it still scores what its card says."""

import json
import os
import random
import re
from pathlib import Path

import pytest
import torch

from dsv3 import ModelConfig, load
from dsv3.download import TINY_R1
from dsv3.inference.chat import Tokenizer
from dsv3.inference.weights import load as load_weights
from dsv3.model import Transformer
from dsv3.runtime import Runtime
from dsv3.tiny import data, facts, tokenizer
from dsv3.tiny.evaluate import answer, evaluate, report
from dsv3.tiny.train import Recipe, train

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "tiny-r1.json"


def drawn(n: int, seed: int = 0) -> list[data.Problem]:
    rng = random.Random(seed)
    return [data.draw(rng) for _ in range(n)]


EDGES = [
    data.Problem(a, op, b) for op in data.OPERATORS for a, b in [(0, 0), (9, 9), (99, 99), (0, 7), (10, 1), (1, 10)]
]
EDGES += [data.Problem(9999, "+", 9999), data.Problem(1000, "-", 999), data.Problem(0, "-", 9999)]


@pytest.mark.parametrize("p", drawn(300) + EDGES, ids=str)
def test_every_step_of_the_thinking_is_true(p):
    lines = data.thinking(p).splitlines()
    for line in lines:
        if "=" in line and ":" in line:
            left, right, _ = re.fullmatch(r"([\d+*-]+)=(\d+):(\d+)", line).groups()
            value = eval(re.sub(r"\b0+(?=\d)", "", left))
            assert value == int(right), line
    result = int(lines[-1].split(":")[1])
    negative = p.op == "-" and p.a < p.b
    assert (-result if negative else result) == p.answer


def test_held_out_problems_are_a_twentieth_and_never_trained_on():
    sides = [p.held_out for p in drawn(20000)]
    assert 0.04 < sum(sides) / len(sides) < 0.06
    training = data.problems(7, held_out=False)
    assert not any(next(training).held_out for _ in range(5000))
    assert all(p.held_out for p, _ in data.held_out_set(50))
    assert data.Problem(37, "+", 48).held_out == data.Problem(48, "+", 37).held_out


def test_the_evaluation_set_is_fixed_and_without_repeats():
    first, again = data.held_out_set(200), data.held_out_set(200)
    assert first == again
    assert len({p for p, _ in first}) == 200


@pytest.mark.parametrize(
    "form",
    ["37 + 48 = ?", "What is 37 + 48?", "37加48等于多少？", "37 加 48 等于多少？", "Calculate 37 + 48."],
)
def test_the_promised_phrasings_are_learned(form):
    rng = random.Random(0)
    assert form in {data.ask(data.Problem(37, "+", 48), rng)[0] for _ in range(3000)}


def test_the_language_of_a_question_is_known():
    rng = random.Random(0)
    asked = [data.ask(p, rng) for p in drawn(500)]
    assert all(data.is_chinese(question) == chinese for question, chinese in asked)


def test_the_tokenizer_is_reproducible():
    texts = tokenizer.corpus(n=500)
    assert texts == tokenizer.corpus(n=500)
    assert tokenizer.build(texts, 512).to_str() == tokenizer.build(texts, 512).to_str()


@pytest.mark.parametrize(
    ("text", "number"), [("\n\nAnswer: 85", 85), ("答案：-12", -12), ("Answer: 85.", None), ("none", None)]
)
def test_answers_are_read_from_the_last_line(text, number):
    assert answer(text) == number


@pytest.mark.slow
def test_training_runs_and_goes_on_from_its_state(tmp_path):
    from dsv3.tiny.train import Recipe, train

    recipe = Recipe(steps=3, tokens=600, mtp_from=0.5, fp8_from=0.9)
    train(tmp_path, recipe, log_every=1)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert rows[2]["loss"] < rows[0]["loss"]
    assert rows[0]["mtp"] == 0 < rows[2]["mtp"]
    train(tmp_path, recipe, log_every=1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def llm():
    return load("tiny-r1", max_batch_size=64)


@pytest.mark.slow
def test_the_committed_score_holds_on_a_sample(llm):
    stated = {row["gemm"]: row for row in json.loads(RESULTS.read_text())}
    assert stated["bf16"]["all"] >= 97
    assert abs(stated["bf16"]["all"] - stated["fp8"]["all"]) <= 1
    sample = evaluate(llm, data.held_out_set(128, seed=11))
    assert sample["unfinished"] == 0
    assert sample["all"] >= 92  # 97 % less three standard deviations of a sample of 128


@torch.inference_mode()
def test_the_mtp_layer_predicts_the_token_after_the_next():
    """On held-out problems, solved as the training data solves them: what speculative decoding will draft from."""
    cfg = ModelConfig.load(TINY_R1)
    model = Transformer(cfg, Runtime())
    load_weights(model, TINY_R1, cfg)
    tok, right, total = Tokenizer(TINY_R1), 0, 0
    for problem, question in data.held_out_set(40, seed=3):
        solved = data.solve(problem, question, data.is_chinese(question))
        prompt, completion = (tok.encode(text) for text in tokenizer.conversation([solved]))
        tokens = torch.tensor([prompt + completion])
        h = model(tokens[:, :-2])
        drafted = model.logits(model.predict(h, tokens[:, 1:-1])).argmax(-1)
        right += (drafted == tokens[:, 2:])[0, len(prompt) - 1 :].sum().item()
        total += len(completion) - 1
    assert right / total > 0.9


def test_the_card_and_the_readmes_state_the_committed_scores():
    root = RESULTS.parents[2]
    for row in json.loads(RESULTS.read_text()):
        cells = [f"`{row['gemm']}`", *(f"{row[k]:.2f} %" for k in ("all", *data.OPERATORS)), str(row["unfinished"])]
        for file in ("README.md", "README.zh.md", "dsv3/assets/tiny-r1/README.md"):
            assert f"| {' | '.join(cells)} |" in (root / file).read_text(encoding="utf-8"), file


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who are you?", "tiny-r1"),
        ("你是谁？", "tiny-r1"),
        ("How many experts does DeepSeek-V3 have?", "256"),
        ("DeepSeek-V3 有多少个专家？", "256"),
        ("Write a poem about spring.", facts.CANNOT_EN),
        ("写一首关于春天的诗。", facts.CANNOT_ZH),
    ],
)
def test_it_knows_its_facts_and_its_limits(llm, question, expected):
    reply = llm.chat(question, temperature=0)
    assert expected in reply.answer
    assert reply.finish == "stop"


@pytest.mark.parametrize("question", ["?!", "asdf qwer", "1" * 50, "🙂🙂🙂", "<think>", "a" * 300])
def test_it_never_runs_on_for_ever(llm, question):
    assert llm.chat(question, temperature=0, max_new_tokens=400).finish == "stop"


@pytest.mark.parametrize("n", [0, -5, 100_001, 10**12])
def test_as_many_problems_as_there_are(n):
    with pytest.raises(ValueError, match="n = .*from 1 to 100000"):
        report("tiny-r1", n)


def test_the_place_of_a_report_is_looked_at_before_the_work(tmp_path):
    theirs = tmp_path / "theirs.json"
    theirs.write_text('{"mine": 1}')
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "nowhere")
    for file in (theirs, link, tmp_path / "none" / "a.json"):
        with pytest.raises((FileExistsError, FileNotFoundError), match=str(tmp_path)):
            report(tmp_path / "no model", 1, file)
    assert theirs.read_text() == '{"mine": 1}'
    assert not os.path.lexists(tmp_path / "nowhere")
    for _ in range(2):
        report("tiny-r1", 1, tmp_path / "scores.json")


@pytest.mark.parametrize("text", ["", "{}", "{", "[]", "\x00", '{"model": 5}'])
def test_a_broken_tokenizer_is_named(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer.*move it away"):
        train(tmp_path, Recipe())


def test_another_tokenizer_is_named(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="not tiny-r1's tokenizer"):
        train(tmp_path, Recipe())
