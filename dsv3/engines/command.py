"""An engine's command: its words, why each is there, and the same as text for a shell."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..outside import printable, secret
from ..sizing.gpus import GPU, PER_MACHINE
from ..sizing.machine import Machine
from ..sizing.needs import Precision
from .options import Serve

if TYPE_CHECKING:
    from .checkpoints import Served


PYTHON = "python3"  # of the environment on the PATH, where none is named


@dataclass(frozen=True)
class Flag:
    """Words of a command that belong together.

    Attributes:
        why: what they do, in a few words.
        source: where the engine defines them: a file, or the page that shows them.
    """

    words: tuple[str, ...]
    why: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """What starts a server.

    Attributes:
        checked: the engine and the version in which the flags were looked up.
        program: the words before the flags.
        env: variables to set, with their values.
        key: (the variable that the engine reads, the variable that holds the key); the value is copied at the start.
        before, after: commands that must run first, and one that undoes them.
        files: texts to write beside it, by name, in the folder where it runs.
        notes: what to know about it.
    """

    checked: str
    program: tuple[str, ...]
    flags: tuple[Flag, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, str] | None = None
    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """All words of the program and its flags."""
        return self.program + tuple(word for flag in self.flags for word in flag.words)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """``env`` with what the engine needs.

        Raises:
            ValueError: the variable of the key is empty or not set, or holds what can be no key.
        """
        found = dict(env) | dict(self.env)
        if self.key:
            theirs, ours = self.key
            if not env.get(ours):
                raise ValueError(
                    f"--api-key-env {ours}: that variable is not set; export {ours}=$(openssl rand -hex 24)"
                )
            found[theirs] = secret(f"--api-key-env {ours}", env[ours])
        return found

    def line(self, joint: str = " ", before: str = "") -> str:
        """The command for a shell, its variables in front; ``joint`` stands between flags, ``before`` the program."""
        env = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        if self.key and self.key[0] != self.key[1]:
            env.append(f'{self.key[0]}="${self.key[1]}"')
        program, *words = self.program
        if re.match(r"%|\w+\+?=", program):  # alone it would be a job or a setting
            program = "./" + program
        head = " ".join([*env, before + shlex.join([program, *words])])
        return joint.join([head, *(shlex.join(flag.words) for flag in self.flags)])

    def preparation(self) -> str:
        """Shell lines that come first: files, and the commands before."""
        files = [f"cat > {shlex.quote(name)} << 'EOF'\n{text}EOF\n" for name, text in self.files.items()]
        return "".join(files + [shlex.join(words) + "\n" for words in self.before])

    def text(self) -> str:
        """The command as one would type it, a comment for each flag above it; bash runs it as it stands."""
        lines = [comment(note) for note in self.notes]
        lines.append(f"# Flags as in {self.checked}:\n")
        lines += [f"#   {shlex.join(f.words)}: {f.why} [{f.source}]\n" for f in self.flags]
        return "".join(lines) + self.preparation() + self.line(" \\\n    ") + "\n"


def comment(text: str) -> str:
    """A line of a shell script that does nothing, whatever ``text`` is."""
    return f"# {printable(text)}\n"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An inference engine as dsv3 knows it.

    Attributes:
        name: of ``--engine``.
        title: as it calls itself.
        package: its distribution on PyPI; None: it is no Python package.
        version: that its flags, port and limits were looked up in.
        known: how: the wheel's source, or documentation of a date.
        install: commands that install it in an environment of its own.
        console: the script that starts it.
        image: a container image with it, for Kubernetes; None: none that was looked up.
        port: the one that it takes by itself.
        health: the path that answers 200 when it can serve.
        spread: who starts the ranks of other machines: the same command on each, Ray, or MPI.
        build: the command for this node.
        limits: what it cannot do, of the options and the checkpoint, each with the reason.
        help: the words after ``console`` that print its flags.
        split: an order for one GPU -> the same as it is usually spread over so many machines (ENGINES.md).
        runs: whether it takes a precision on a GPU, in pipeline stages or not, and what to know about it; None: it does
            not run on NVIDIA's GPUs.
        arguments: the keyword arguments with which its Python class does the same, those that are None left out
            (``offline``); None: not known here.
        gguf: whether it reads GGUF files, and no Hugging Face folders.
        here: what this machine rules out, beside its GPUs, each with the reason.
        tells_thinking: whether it tells thought from answer itself, by one rule for all families.
    """

    name: str
    title: str
    package: str | None
    version: str
    known: str
    install: tuple[str, ...]
    console: str
    image: str | None
    port: int
    health: str
    spread: Literal["nodes", "ray", "mpi"]
    build: Callable[[Serve], Command]
    limits: Callable[[Serve, "Served"], Iterable[str]]
    help: tuple[str, ...]
    split: Callable[[Serve, int], Serve]
    runs: Callable[[GPU, Precision, bool], tuple[bool, str]] | None = None
    arguments: Callable[[Serve], dict[str, Any]] | None = None
    gguf: bool = False
    here: Callable[[Serve, "Served", Machine], Iterable[str]] | None = None
    tells_thinking: bool = False


REASONING, TOOLS = "thinking and answer apart", "calls of tools apart from the text"  # what the parsers are for
CODE = "the model's repository has Python files, its tokenizer's, which the engine runs"


def beside(python: str | None, console: str) -> str:
    """The console script of the interpreter's environment; just its name without one, to be found on the PATH."""
    return str(Path(python).parent / console) if python else console


def keyed(serve: Serve, start: str, flag: str) -> tuple[str, ...]:
    """A program for engines that take the key as a flag only: Python adds it inside, where no process list shows it.

    ``start`` are the statements that start the engine with ``sys.argv``.
    """
    code = f'import os, sys; sys.argv += ["{flag}", os.environ["{serve.api_key_env}"]]; {start}'
    return (serve.python or PYTHON, "-c", code)


def on_machines(serve: Serve, machines: int, *, tp: int, pp: int = 1, dp: int = 1) -> Serve:
    """``serve`` shared out so, over ``machines`` of which the first is called node0."""
    return replace(serve, tp=tp, pp=pp, dp=dp, nnodes=machines, master_addr="node0" if machines > 1 else None)


def tensor_parallel(serve: Serve, machines: int) -> Serve:
    """The split that cuts every layer over all GPUs."""
    return on_machines(serve, machines, tp=PER_MACHINE * machines)
