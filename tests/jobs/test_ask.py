"""``dsv3 ask`` in a process of its own."""

import subprocess
import sys

import pytest
from jobs import dsv3, fails

from dsv3.lab.openai_server import ANSWER, THINKING, OpenAIServer, Script


@pytest.fixture
def server():
    with OpenAIServer(Script()).serving() as running:
        yield running


def test_the_verb_in_a_process_of_its_own(server):
    done = dsv3("ask", "37 + 48 = ?", "--base-url", server.url, "--temperature", 0)
    assert done.returncode == 0
    assert done.stdout == THINKING + "</think>" + ANSWER + "\n"
    assert server.requests[0]["temperature"] == 0


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_options_of_the_chat_template_are_sent(flag, server):
    options = ["--chat-template-kwargs", '{"thinking": true}']
    assert dsv3("ask", "?", "--base-url", server.url, flag, *options).returncode == 0
    assert dsv3("ask", "?", "--base-url", server.url, flag).returncode == 0
    told, plain = server.requests
    assert told["chat_template_kwargs"] == {"thinking": True}
    assert "chat_template_kwargs" not in plain
    done = dsv3("ask", "?", "--base-url", server.url, "--chat-template-kwargs", "{")
    assert done.returncode == 2
    assert "give JSON such as" in done.stderr.splitlines()[-1]


def test_without_openai():
    code = "import sys; sys.modules['openai'] = None; from dsv3 import ask, cli; cli.run(ask.main, ['?'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    fails(done, "ask", "pip install 'dsv3[serving]'")
