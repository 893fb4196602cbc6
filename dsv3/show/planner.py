"""The planner as a widget: menus and sliders over ``planner.plan`` and ``offload.plans``, the answer as text and, for
GPUs alone, as a figure beside them.

The figure's words are English in every language: no Chinese font is sure to be there.
"""

import re
from html import escape
from typing import TYPE_CHECKING

from ..engines.table import runners
from ..hubs.catalogue import models
from ..said import Language, Said, told
from ..sizing import offload
from ..sizing.gpus import find_gpu, gpus
from ..sizing.needs import PRECISIONS, Split, Workload, auto_split
from ..sizing.planner import COUNTS, WORKLOAD, Counted, Subject, count, plan, subject
from ..sizing.report import text
from .plan import figure
from .style import png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox

CONTEXTS = tuple(2**n for n in range(9, 18))
RAMS = (64, 128, *offload.RAMS, 1024)
# Everything that the widget says itself; the answers are those of ``dsv3 plan``.
WORDS = {
    "model": Said("model"),
    "precision": Said("precision"),
    "gpu": Said("GPU"),
    "n": Said("GPUs"),
    "ram": Said("RAM, GB"),
    "context": Said("context"),
    "batch": Said("sequences"),
    "published": Said("as published"),
    "no ram": Said("not used"),
    "no gpu": Said("0 GPUs: choose how much RAM there is"),
}


def planner(
    model: str = "DeepSeek-R1",
    gpu: str = "H20-96G",
    n: int = 8,
    ram: int | None = None,
    language: Language = "en",
) -> "VBox":
    """What ``model`` needs on ``n`` GPUs, or with its routed experts in ``ram`` GB of RAM beside them; every choice is
    counted anew, and one that cannot be says why.

    With RAM the files are GGUF, so the precision is not asked. Its ``children`` are the row of choices, the text and
    the figure.

    Raises:
        ImportError: ipywidgets is not installed.
        ValueError: ``model``, ``gpu``, ``n`` or ``ram`` is not among the choices.
    """
    widgets, words = ipywidgets(), {key: told(word, language) for key, word in WORDS.items()}
    names = [m.name for m in models() if m.counted]
    options: dict[str, dict] = {
        "model": {"options": names, "value": model},
        "precision": {"options": [(words["published"], None), *((p, p) for p in PRECISIONS)], "value": None},
        "gpu": {"options": [g.name for g in gpus()], "value": gpu},
        "n": {"options": (0, *COUNTS), "value": n},
        "ram": {"options": [(words["no ram"], None), *((str(gb), gb) for gb in RAMS)], "value": ram},
        "context": {"options": CONTEXTS, "value": WORKLOAD.context},
    }
    for name, given in options.items():
        values = [option[1] if isinstance(option, tuple) else option for option in given["options"]]
        if given["value"] not in values:
            raise ValueError(f"{name} = {given['value']!r:.60}: one of {', '.join(map(str, values))}")
    kinds = {"n": widgets.SelectionSlider, "context": widgets.SelectionSlider}
    choices = {k: kinds.get(k, widgets.Dropdown)(description=words[k], **given) for k, given in options.items()}
    choices["batch"] = widgets.IntSlider(value=WORKLOAD.batch, min=1, max=256, description=words["batch"])
    answer, picture = widgets.HTML(), widgets.Image(format="png")
    counted: dict[tuple, Counted] = {}  # the slow part, for the models, precisions and splits seen so far

    def on_gpus(chosen: Subject, workload: Workload) -> str:
        if not choices["n"].value:
            raise ValueError(WORDS["no gpu"])
        precision = choices["precision"].value or chosen.published
        split = Split(tp=(auto := auto_split(chosen.cfg, precision, choices["n"].value)).tp, pp=auto.pp, ep=auto.tp)
        key = (chosen.name, precision, split)
        if key not in counted:
            counted[key] = count(chosen, split, precision, workload)
        found = plan(chosen, find_gpu(choices["gpu"].value), split, precision, workload, counted[key])
        picture.value, picture.layout.display = png(figure(found)), None
        return text(found, runners(found.gpu, found.precision, split.pp > 1), language=language)

    def with_ram(chosen: Subject, workload: Workload) -> str:
        number = choices["n"].value
        card = find_gpu(choices["gpu"].value) if number else None
        machine = offload.Machine(gpu=card, gpus=number, ram_gb=choices["ram"].value)
        found = offload.plans(chosen.name, chosen.cfg, machine, workload)
        return offload.text(found, offload.reported(chosen.cfg), language)

    def draw() -> None:
        beside = choices["ram"].value is not None
        choices["precision"].disabled, picture.layout.display = beside, "none"
        try:
            chosen = subject(choices["model"].value)
            workload = Workload(context=choices["context"].value, batch=choices["batch"].value)
            shown = (with_ram if beside else on_gpus)(chosen, workload)
        except ValueError as error:
            answer.value = f"<p>{escape(told(error.args[0], language))}</p>"
            return
        linked = re.sub(r"https://\S+", r'<a href="\g<0>" target="_blank">\g<0></a>', escape(shown))
        answer.value = f"<pre>{linked}</pre>"

    follow(choices.values(), draw)
    return widgets.VBox([widgets.VBox(list(choices.values())), answer, picture])
