"""What every lesson begins with: ``preflight`` says what this machine can do, and gives the lesson its parts.

Imports neither torch nor transformers: the lesson on downloading runs in 2 GB of RAM.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import types
from pathlib import Path
from typing import Any

from ..paths import TINY_R1, expand, home, short
from ..sizing.machine import Machine, cores, memory
from . import mine
from .judge import judge
from .part import Part

LESSONS = {
    "00": "start here",
    "01": "environment",
    "02": "download",
    "03": "FP8 casting",
    "04": "conversion",
    "05": "attention (MLA)",
    "06": "MoE routing",
    "07": "transformer",
    "08": "Triton kernels",
    "09": "generation",
    "10": "distributed",
    "11": "serving",
    "12": "how it was made",
}
RED, GREEN, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"
CURES = {
    "torch": "pip install torch",
    "triton": "pip install 'dsv3[kernels]' (Linux only)",
    "modelscope": "pip install 'dsv3[download]'",
    "openai": "pip install 'dsv3[serving]'",
    "transformers": "pip install transformers",
    "matplotlib": "pip install 'dsv3[notebooks]'",
    "ipywidgets": "pip install 'dsv3[notebooks]'",
}


def parts_of(number: str) -> tuple[list[Part], list[Part]]:
    """The parts of lesson ``"05"``, in its order, and the transfers at its end."""
    module = importlib.import_module(f"{__package__}.lesson_{number}")
    return list(module.PARTS), list(module.TRANSFERS)


class Parts:
    """A lesson's parts: the learner's own where they passed, the course's where not.

    Attributes:
        state: name -> ``"yours"``, ``"wrong"`` or ``"not yet"``.
        tried: name -> the latest answer that was wrong, for those who want to see what it costs.
    """

    def __init__(self, number: str):
        parts, transfers = parts_of(number)
        self.number = number
        self.spine = [part.name for part in parts or transfers]  # a lesson without a spine counts its transfers
        self.known = {part.name: part for part in [*parts, *transfers]}
        self.used = {name: part.solution for name, part in self.known.items()}
        self.state, self.tried = dict.fromkeys(self.known, "not yet"), dict[str, Any]()
        for name in self.known:
            self._from_file(name)

    def check(self, answer: Any) -> Any:
        """Judge an answer, keep its source if it is right; give what the cells below shall use, and say which.

        To be written above the answer, as a decorator. A wrong answer does not raise: the solution takes its place.
        """
        name = getattr(mine.plain(answer), "__name__", "")
        if name not in self.known:
            raise ValueError(f"lesson {self.number} has no part {name or answer!r}; it has {', '.join(self.known)}")
        part = self.known[name]
        self.state[name], self.used[name] = "not yet", part.solution
        verdict, hint = judge(part, answer)
        if verdict == "right":
            self.state[name], self.used[name] = "yours", answer
            came_of_it = mine.keep(self.number, part, answer)
            if came_of_it.startswith("Kept"):  # with its own helpers, whatever the notebook calls so later
                self.used[name] = mine.kept(self.number, part) or answer
            print(f"{GREEN}{name}: right{PLAIN} on {len(part.witnesses)} inputs. {came_of_it}", end=" ")
        elif verdict == "wrong":
            self.state[name], self.tried[name] = "wrong", answer
            print(f"{RED}{name}: wrong. {hint[0].upper()}{hint[1:]}.{PLAIN}")
            print("The cells below use the solution.", end=" ")
        elif self._from_file(name):
            where = short(mine.file_of(self.number, part))
            print(f"{name}: the stub is blank, so the one that you kept in {where} is used.", end=" ")
        else:
            print(f"{name}: not yet. The cells below use the solution.", end=" ")
        print(self.count())
        return self.used[name]

    def _from_file(self, name: str) -> bool:
        """Use what an earlier run kept, if it is there and right."""
        answer = mine.kept(self.number, self.known[name])
        if answer is not None:
            self.state[name], self.used[name] = "yours", answer
        return answer is not None

    def count(self) -> str:
        """``3 of 6 yours.``"""
        return f"{sum(self.state[name] == 'yours' for name in self.spine)} of {len(self.spine)} yours."

    def whose(self) -> str:
        """Which parts are the learner's, and where their source is."""
        yours = [name for name in self.spine if self.state[name] == "yours"]
        theirs = [name for name in self.spine if name not in yours]
        where = f" (in {mine.shown(mine.folder() / f'lesson_{self.number}')})" if yours else ""
        return f"yours: {', '.join(yours) or 'none'}{where}; the course's: {', '.join(theirs) or 'none'}"

    def parts(self, **instead: Any) -> types.SimpleNamespace:
        """All parts, own and borrowed, some of them replaced: ``parts(rope=lesson.tried["rope"])``."""
        return types.SimpleNamespace(**self.used | instead)

    def faulty(self, name: str, words: str) -> Any:
        """The part with that one of its plausible errors whose hint has these words: the control of a transplant."""
        (fault,) = (fault for fault in self.known[name].faults if words in fault.hint)
        return self.known[name].faulty(fault)

    @staticmethod
    def compare(what: str, ours: Any, theirs: Any) -> None:
        """The largest difference, beside the largest number; no assertion, so that a wrong part can be looked at."""
        print(f"{what}: largest difference {abs(ours - theirs).max():.0e} of {abs(theirs).max():.3g}")

    @staticmethod
    def guess(guess: Any, answer: float, unit: str) -> None:
        """A number guessed before a figure, beside what came out; ``...`` is no guess."""
        yours = "no guess" if guess is ... else f"you guessed {guess:,g} {unit}"
        print(f"{yours}; it is {answer:,.4g} {unit}")


class Lesson(Parts):
    """A lesson's parts and surroundings.

    Attributes:
        folder: for what the lesson writes; it exists.
        checkpoint: tiny-r1, or the folder that ``DSV3_CHECKPOINT`` names.
        missing: packages that are not installed; the cells that need them say so.
    """

    def __init__(self, number: str, folder: Path, checkpoint: Path, missing: tuple[str, ...]):
        super().__init__(number)
        self.folder, self.checkpoint, self.missing = folder, checkpoint, missing


def preflight(name: str, *, needs: tuple[str, ...] = (), ram_gb: float = 2, disk_gb: float = 0.1) -> Lesson:
    """Print what this machine has, what it lacks for a lesson and the cure; never stops anyone.

    Args:
        name: of the lesson, ``"03_fp8_casting"``; its folder is named so.
        needs: packages that the lesson imports.
        ram_gb, disk_gb: that it needs.
    """
    m = Machine()
    folder = home() / "lessons" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: {error.strerror}; set DSV3_HOME to a folder of yours") from None
    named = os.environ.get("DSV3_CHECKPOINT")
    checkpoint = expand(named, "DSV3_CHECKPOINT") if named else TINY_R1
    missing = tuple(package for package in needs if importlib.util.find_spec(package) is None)
    machine, limit = memory(m)
    available, free = limit or machine, shutil.disk_usage(folder).free
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_mib / 1024:.0f} GB)" for gpu in m.gpus or ())
    print(f"Python {platform.python_version()}, {platform.system()}, {cores(m):g} CPU cores")
    print(f"GPU     {gpus or 'none: everything here runs on the CPU'}")
    if available is not None:
        print(f"memory  {_enough(available, ram_gb, 'GB', 'close other notebooks, or take a machine with more')}")
    print(f"disk    {_enough(free, disk_gb, 'GB free', 'set DSV3_HOME to a larger disk')}, in {short(folder)}")
    if checkpoint != TINY_R1 and not (checkpoint / "config.json").is_file():
        print(f"model   DSV3_CHECKPOINT={named} has no config.json; tiny-r1 instead")
        checkpoint = TINY_R1
    else:
        print(f"model   {'tiny-r1, which comes with dsv3' if checkpoint == TINY_R1 else short(checkpoint)}")
    for package in missing:
        print(f"missing {package}: {CURES.get(package, f'pip install {package}')}")
    lesson = Lesson(name[:2], folder, checkpoint, missing)
    print(f"parts   {lesson.count()}")
    return lesson


def _enough(nbytes: int, gigabytes: float, what: str, cure: str) -> str:
    """``23.1 GB free, 2 needed``, and what to do if that is too little."""
    too_little = "" if nbytes >= gigabytes * 1e9 else f": too little, {cure}"
    return f"{nbytes / 1e9:,.1f} {what}, {gigabytes:g} needed{too_little}"


def progress() -> str:
    """The table of lesson 00: a row a lesson, how much of it is the learner's own, and what is next."""
    rows, yours, every = [f"{'lesson':20}{'yours':>8}  next"], 0, 0
    for number, title in LESSONS.items():
        state = Parts(number).state
        left = [name for name in state if state[name] != "yours"]
        count = f"{len(state) - len(left)} of {len(state)}" if state else "-"
        rows.append(f"{number} {title:17}{count:>8}  {left[0] if left else 'all yours' if state else ''}".rstrip())
        yours, every = yours + len(state) - len(left), every + len(state)
    return "\n".join([*rows, f"{yours} of {every} parts are yours, in {mine.shown(mine.folder())}"])
