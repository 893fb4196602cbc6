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
from ..said import Language, Said, capital, pad, say, told
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
    """The parts of lesson ``"05"``, in its order, and the transfers at its end.

    Raises:
        ValueError: there is no such lesson.
    """
    if number not in LESSONS:
        raise ValueError(f"no lesson {number!r}; there are {', '.join(LESSONS)}")
    module = importlib.import_module(f"{__package__}.lesson_{number}")
    return list(module.PARTS), list(module.TRANSFERS)


class Parts:
    """A lesson's parts: the learner's own where they passed, the course's where not.

    Attributes:
        language: of what it says.
        state: name -> ``"yours"``, ``"wrong"`` or ``"not yet"``.
        tried: name -> the latest answer that was wrong, for those who want to see what it costs.
    """

    def __init__(self, number: str, language: Language = "en"):
        parts, transfers = parts_of(number)
        self.number, self.language = number, language
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
            kept, came_of_it = mine.keep(self.number, part, answer)
            if kept:  # with its own helpers, whatever the notebook calls so later
                self.used[name] = mine.kept(self.number, part) or answer
            says = "{green}{name}: right{plain} on {n} inputs. {came_of_it}"
            found = Said(says, green=GREEN, name=name, plain=PLAIN, n=len(part.witnesses), came_of_it=came_of_it)
            print(self.told(found), end=" ")
        elif verdict == "wrong":
            self.state[name], self.tried[name] = "wrong", answer
            says = "{red}{name}: wrong. {hint}.{plain}"
            print(self.told(Said(says, red=RED, name=name, hint=capital(hint), plain=PLAIN)))
            print(self.told(Said("The cells below use the solution.")), end=" ")
        elif self._from_file(name):
            where = short(mine.file_of(self.number, part))
            says = "{name}: the stub is blank, so the one that you kept in {where} is used."
            print(self.told(Said(says, name=name, where=where)), end=" ")
        else:
            why = Said(" ({hint})", hint=hint) if hint else ""
            says = "{name}: not yet{why}. The cells below use the solution."
            print(self.told(Said(says, name=name, why=why)), end=" ")
        print(self.count())
        return self.used[name]

    def _from_file(self, name: str) -> bool:
        """Use what an earlier run kept, if it is there and right."""
        answer = mine.kept(self.number, self.known[name])
        if answer is not None:
            self.state[name], self.used[name] = "yours", answer
        return answer is not None

    def told(self, text: str) -> str:
        """A sentence in the reader's language."""
        return told(text, self.language)

    def count(self) -> str:
        """``3 of 6 yours.``"""
        yours = sum(self.state[name] == "yours" for name in self.spine)
        return self.told(Said("{yours} of {n} yours.", yours=yours, n=len(self.spine)))

    def whose(self) -> str:
        """Which parts are the learner's, and where their source is."""
        yours = [name for name in self.spine if self.state[name] == "yours"]
        theirs = [name for name in self.spine if name not in yours]
        where = Said(" (in {folder})", folder=mine.shown(mine.folder() / f"lesson_{self.number}")) if yours else ""
        names = {"yours": ", ".join(yours) or Said("none"), "theirs": ", ".join(theirs) or Said("none")}
        return self.told(Said("yours: {yours}{where}; the course's: {theirs}", where=where, **names))

    def parts(self, **instead: Any) -> types.SimpleNamespace:
        """All parts, own and borrowed, some of them replaced: ``parts(rope=lesson.tried["rope"])``."""
        return types.SimpleNamespace(**self.used | instead)

    def faulty(self, name: str, words: str) -> Any:
        """The part with that one of its plausible errors whose hint has these words: the control of a transplant."""
        (fault,) = (fault for fault in self.known[name].faults if words in fault.hint)
        return self.known[name].faulty(fault)

    def compare(self, what: str, ours: Any, theirs: Any) -> None:
        """The largest difference, beside the largest number; no assertion, so that a wrong part can be looked at."""
        most, largest = abs(ours - theirs).max(), abs(theirs).max()
        says = "{what}: largest difference {most:.0e} of {largest:.3g}"
        print(self.told(Said(says, what=what, most=most, largest=largest)))

    def guess(self, guess: Any, answer: float, unit: str) -> None:
        """A number guessed before a figure, beside what came out; ``...`` is no guess."""
        of = Said(unit)
        yours = Said("no guess") if guess is ... else Said("you guessed {guess:,g} {unit}", guess=guess, unit=of)
        print(self.told(Said("{yours}; it is {answer:,.4g} {unit}", yours=yours, answer=answer, unit=of)))


class Lesson(Parts):
    """A lesson's parts and surroundings.

    Attributes:
        folder: for what the lesson writes; it exists.
        course: the course's folder of lessons; a translation stands in a folder below it.
        checkpoint: tiny-r1, or the folder that ``DSV3_CHECKPOINT`` names.
        missing: packages that are not installed; the cells that need them say so.
    """

    def __init__(self, number: str, language: Language, folder: Path, checkpoint: Path, missing: tuple[str, ...] = ()):
        super().__init__(number, language)
        self.folder, self.course, self.checkpoint, self.missing = folder, mine.course(), checkpoint, missing


def preflight(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    ram_gb: float = 2,
    disk_gb: float = 0.1,
    language: Language = "en",
) -> Lesson:
    """Print what this machine has, what it lacks for a lesson and the cure; never stops anyone.

    Args:
        name: of the lesson, ``"03_fp8_casting"``; its folder is named so.
        needs: packages that the lesson imports.
        ram_gb, disk_gb: that it needs.
        language: of all that the lesson says.
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
    lesson = Lesson(name[:2], language, folder, checkpoint, missing)
    machine, limit = memory(m)
    available, free = limit or machine, shutil.disk_usage(folder).free
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_mib / 1024:.0f} GB)" for gpu in m.gpus or ())
    python, system = platform.python_version(), platform.system()
    lines = [
        Said("Python {python}, {system}, {cores:g} CPU cores", python=python, system=system, cores=cores(m)),
        Said("GPU     {gpus}", gpus=gpus or Said("none: everything here runs on the CPU")),
    ]
    if available is not None:
        cure = Said("close other notebooks, or take a machine with more")
        lines.append(Said("memory  {enough}", enough=_enough(available, ram_gb, Said("GB"), cure)))
    room = _enough(free, disk_gb, Said("GB free"), Said("set DSV3_HOME to a larger disk"))
    lines.append(Said("disk    {room}, in {folder}", room=room, folder=short(folder)))
    if checkpoint != TINY_R1 and not (checkpoint / "config.json").is_file():
        lines.append(Said("model   DSV3_CHECKPOINT={named} has no config.json; tiny-r1 instead", named=named))
        lesson.checkpoint = TINY_R1
    else:
        what = Said("tiny-r1, which comes with dsv3") if checkpoint == TINY_R1 else short(checkpoint)
        lines.append(Said("model   {what}", what=what))
    for package in missing:
        command = CURES.get(package, f"pip install {package}")
        lines.append(Said("missing {package}: {command}", package=package, command=command))
    lines.append(Said("parts   {count}", count=lesson.count()))
    print(*map(lesson.told, lines), sep="\n")
    return lesson


def _enough(nbytes: int, gigabytes: float, what: Said, cure: Said) -> Said:
    """``23.1 GB free, 2 needed``, and what to do if that is too little."""
    too_little = "" if nbytes >= gigabytes * 1e9 else Said(": too little, {cure}", cure=cure)
    says = "{there:,.1f} {what}, {needed:g} needed{too_little}"
    return Said(says, there=nbytes / 1e9, what=what, needed=gigabytes, too_little=too_little)


def progress(language: Language = "en") -> str:
    """The table of lesson 00: a row a lesson, how much of it is the learner's own, and what is next."""
    head = (pad(say(language, "lesson"), 20), pad(say(language, "yours"), -8), "  ", say(language, "next"))
    rows, yours, every = ["".join(head)], 0, 0
    for number, title in LESSONS.items():
        state = Parts(number).state
        left = [name for name in state if state[name] != "yours"]
        count = say(language, "{n} of {all}", n=len(state) - len(left), all=len(state)) if state else "-"
        following = left[0] if left else say(language, "all yours") if state else ""
        rows.append(f"{number} {pad(say(language, title), 17)}{pad(count, -8)}  {following}".rstrip())
        yours, every = yours + len(state) - len(left), every + len(state)
    where = mine.shown(mine.folder())
    last = say(language, "{yours} of {every} parts are yours, in {where}", yours=yours, every=every, where=where)
    return "\n".join([*rows, last])
