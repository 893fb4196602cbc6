"""Chat templates, rendered in a process of their own, with limits.

A template is a program that came with a checkpoint. Jinja's sandbox keeps it from files and from Python, but not from
filling the memory or running without end; only the system can stop that. The process lives as long as its ``Template``.
"""

import contextlib
import json
import os
import subprocess
import sys
import weakref
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

MOST = 200_000  # characters of a template; DeepSeek's have a few thousand
SECONDS = 2  # of computing, to compile a template or to render it
MEMORY = 500_000_000  # bytes beside what Python and Jinja take
LONGEST = 1_000_000  # characters that a template may add to the messages


class Template:
    """The template ``source``, compiled; ``file`` is where it stands, for messages.

    Attributes:
        variables: the names that it reads.

    Raises:
        ValueError: it is too long, or no template; or compiling it hits a limit.
    """

    def __init__(self, file: Path, source: str):
        self.file, self.source = file, source
        if len(source) > MOST:
            raise ValueError(f"{file}: a chat template of {len(source):,} characters; {MOST:,} are the most")
        self._start()

    def render(self, values: dict[str, Any]) -> str:
        """The text that the template makes of a conversation.

        Raises:
            ValueError: what the template or the sandbox says against it, or a limit that it hit.
        """
        if self._process.poll() is not None:  # it hit a limit, or was interrupted
            self._start()
        return self._ask(values)

    def _start(self) -> None:
        # -P: no module of the current folder stands in for one of Python's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a chat is not for it
        )  # fmt: skip
        self._stdin, self._stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        weakref.finalize(self, _end, self._process)
        self.variables = frozenset(json.loads(self._ask(self.source)))

    def _ask(self, what: object) -> str:
        process, line = self._process, b""
        try:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.write(json.dumps(what).encode() + b"\n")
                self._stdin.flush()
                line = self._stdout.readline()
        finally:
            if not line.endswith(b"\n"):  # an answer that comes too late must not be taken for the next one's
                process.kill()
                process.wait()
        if process.returncode is not None:
            why = f"takes more than {SECONDS} s or too much memory"
            if process.returncode > 0:
                why = f"cannot be rendered: exit code {process.returncode}; is jinja2 installed?"
            raise ValueError(f"{self.file}: the chat template {why}")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(f"{self.file}: the chat template fails: {answer['error']}")
        return answer["text"]


def _end(process: subprocess.Popen) -> None:
    with process:  # closes its pipes, and waits for it
        process.kill()


# ------------------------------------------------------------------------------------------- the process


def main() -> None:
    """A template on the first line, the values of a rendering on each that follows, all JSON; an answer to each."""
    import jinja2
    from jinja2 import meta

    _limit_memory()
    template: jinja2.Template | None = None
    for line in sys.stdin.buffer:
        try:
            _limit_time(SECONDS)
            if template is None:
                environment, source = _environment(), json.loads(line)
                template = environment.from_string(source)
                text = json.dumps(sorted(meta.find_undeclared_variables(environment.parse(source))))
            else:
                text = template.render(json.loads(line))
                if len(text) > LONGEST + len(line):
                    raise ValueError(f"its text has {len(text):,} characters")
            answer = {"text": text}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY / 1e6:g} MB of memory"}
        except Exception as error:  # a template can raise anything
            name = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            at = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            answer = {"error": f"{name}{' '.join(str(error)[:300].split())}{at}"}
        _limit_time(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _environment() -> Any:
    """As transformers makes it (``apply_chat_template``), with what templates there may use."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the assistant said, for training; here it is just its content."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

        def _content(self, caller: Any) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:  # noqa: ANN001
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _limit_memory() -> None:
    if sys.platform != "linux":
        return  # nowhere else does the limit hold
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: float) -> None:
    """The system ends this process after so much computing; 0 calls that off. Windows has no such clock."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
