"""``dsv3 explain`` in a process of its own."""

import os
import subprocess
import sys

from jobs import dsv3

from dsv3.explain import appendix, failures

FP8 = 'ValueError("type fp8e4nv not supported in this architecture.")'


def explain(*args, stdin=None, **env):
    """The command with no other language than ``env`` asks for -> exit code and standard output, bytes."""
    plain = {k: v for k, v in os.environ.items() if k not in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")}
    run = [sys.executable, "-m", "dsv3", "explain", *args]
    done = subprocess.run(run, input=stdin, capture_output=True, timeout=60, env=plain | env)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_the_command():
    done = dsv3("explain", FP8, "--lang", "en")
    assert done.returncode == 0
    first, _, command, _, thread = done.stdout.splitlines()
    assert first.startswith("FP8 on a card without FP8 units: Ampere")
    assert command == "    dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16"
    assert thread == "https://github.com/deepseek-ai/DeepSeek-R1/issues/588"
    piped = dsv3("explain", "--lang", "en", stdin="Traceback\nRuntimeError: 0 active drivers ([]). There is one.\n")
    assert piped.stdout.startswith("Triton without a GPU: ")
    assert dsv3("explain", stdin=" \n").returncode == 2
    listed = dsv3("explain", "--list", "--lang", "en")
    assert listed.stdout.strip() == appendix()
    assert len(listed.stdout.splitlines()) == len(failures()) + 2


def test_the_languages():
    for args, env in [(["--lang", "zh"], {"LC_ALL": "C"}), ([], {"LANG": "zh_CN.UTF-8"}), ([], {"LANGUAGE": "zh:en"})]:
        code, out = explain(*args, FP8, PYTHONIOENCODING="utf-8", **env)
        assert code == 0
        first, _, command, _, _ = out.decode().splitlines()
        assert first.startswith("Ampere 及更早的卡")
        assert command.startswith("    dsv3 fp8_cast_bf16 ")
    assert explain(FP8, LANG="en_US.UTF-8")[1].startswith(b"FP8 on a card")
    code, out = explain("no idea", LANG="C")
    assert (code, out.startswith(b"not known")) == (1, True)
    code, out = explain("no idea", LANG="zh_CN.UTF-8", PYTHONIOENCODING="utf-8")
    assert (code, out.decode().startswith("没有收录")) == (1, True)
    code, out = explain("--list", "--lang", "zh", PYTHONIOENCODING="utf-8")
    assert out.decode().strip() == appendix("zh")


def test_an_output_that_cannot_write_chinese():
    assert explain(FP8, "--lang", "zh", PYTHONIOENCODING="ascii") == explain(FP8, "--lang", "en")
    assert explain(FP8, "--lang", "zh", PYTHONIOENCODING="gbk")[1].decode("gbk").startswith("Ampere 及更早的卡")


def test_bytes_that_are_not_utf8():
    code, out = explain(stdin=b"\xff\xfe CUDA out of memory \x80")
    assert code == 0
    assert out.startswith(b"out of GPU memory")
