"""The chat and the batch as a person at a terminal has them: a pseudo-terminal, real keys, real processes."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest


class Terminal:
    """``dsv3 generate`` in a pseudo-terminal."""

    def __init__(self, *args: str):
        master, slave = pty.openpty()
        self.fd, self.text, self.at = master, "", 0
        command = [sys.executable, "-m", "dsv3", "generate", "--ckpt-path", "tiny-r1", "--temperature", "0", *args]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def type(self, line: str) -> None:
        os.write(self.fd, (line + "\n").encode())

    def wait_for(self, words: str, seconds: float = 60) -> str:
        """Until ``words`` stand behind what was waited for last -> everything between."""
        end = time.monotonic() + seconds
        while words not in self.text[self.at :]:
            assert time.monotonic() < end, f"no {words!r} in {self.text[self.at :]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    assert words in self.text[self.at :], f"ended without {words!r}: {self.text[self.at :]!r}"
        found = self.text.index(words, self.at) + len(words)
        seen, self.at = self.text[self.at : found], found
        return seen

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        code = self.process.wait(30)
        os.close(self.fd)
        return code


@pytest.fixture
def terminal():
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal("--interactive", *args))
        opened[-1].wait_for(">>> ")
        return opened[-1]

    yield start
    for t in opened:
        if t.process.poll() is None:
            t.process.kill()


def test_a_conversation_with_its_commands(terminal):
    t = terminal("--stats")
    t.type("37 + 48 = ?")
    seen = t.wait_for(">>> ")
    assert "7+8+0=15" in seen
    assert "Answer: 85" in seen
    assert "tokens/s" in seen
    t.type("/think off")
    t.wait_for(">>> ")
    t.type("37 加 48 等于多少？")
    seen = t.wait_for(">>> ")
    assert "(thinking ...)" in seen
    assert "7+8+0=15" not in seen
    assert "85" in seen
    t.type("/nonsense")
    assert "/think off" in t.wait_for(">>> ")
    t.type("/clear")
    t.wait_for(">>> ")
    t.type("/exit")
    assert t.end() == 0


def test_ctrl_c_stops_the_answer_and_then_the_program(terminal):
    t = terminal("--attn", "naive")  # the slow form: the answer takes a while
    t.type("7278 + 4655 = ?")
    t.wait_for("= ?\r\n")
    t.wait_for("C")  # the answer has begun
    t.interrupt()
    t.wait_for("(stopped)")
    t.wait_for(">>> ")
    time.sleep(0.5)  # Python overlooks a signal that comes between its prompt and its waiting for a key
    t.interrupt()
    assert t.end() == 130
    assert "Traceback" not in t.text


def test_ctrl_d_leaves(terminal):
    t = terminal()
    os.write(t.fd, b"\x04")
    assert t.end() == 0


def test_a_conversation_that_fills_the_context_says_so(terminal):
    t = terminal("--max-seq-len", "40")
    t.type("What is 4821 - 977? " * 5)
    assert "/clear starts anew" in t.wait_for(">>> ")
    t.type("1 + 1 = ?")
    assert "1+1+0=02" in t.wait_for(">>> ")


def test_a_batch_says_why_an_answer_is_short(tmp_path):
    prompts = tmp_path / "prompts"
    prompts.write_text("37 + 48 = ?\n\n12 + 7 = ?\n", encoding="utf-8")
    run = [sys.executable, "-m", "dsv3.generate", "--ckpt-path", "tiny-r1", "--input-file", str(prompts)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for flags, words in ((["--max-new-tokens", "4"], "cut off after 4 tokens; --max-new-tokens"),
                         (["--max-seq-len", "20"], "the context of 20 tokens is full")):  # fmt: skip
        done = subprocess.run([*run, *flags], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert done.stderr.count(words) == 2
        assert done.stdout.count("Prompt: ") == 2
