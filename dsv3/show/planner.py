"""The planner as a widget: menus and sliders over ``planner.plan``, the answer as text and as a figure beside them."""

from html import escape
from typing import TYPE_CHECKING

from ..engines.table import runners
from ..hubs.catalogue import models
from ..sizing.gpus import find_gpu, gpus
from ..sizing.needs import PRECISIONS, Split, Workload, auto_split
from ..sizing.planner import COUNTS, WORKLOAD, Counted, count, plan, subject
from ..sizing.report import text
from .plan import figure
from .style import png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox

CONTEXTS = tuple(2**n for n in range(9, 18))


def planner(model: str = "DeepSeek-R1", gpu: str = "H20-96G", n: int = 8) -> "VBox":
    """What ``model`` needs on ``n`` GPUs; every choice is counted anew, and one that cannot be says why.

    Its ``children`` are the row of choices, the text and the figure.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    names = [m.name for m in models() if m.counted]
    choices = {
        "model": widgets.Dropdown(options=names, value=model, description="model"),
        "precision": widgets.Dropdown(options=["as published", *PRECISIONS], description="precision"),
        "gpu": widgets.Dropdown(options=[g.name for g in gpus()], value=gpu, description="GPU"),
        "n": widgets.SelectionSlider(options=COUNTS, value=n, description="GPUs"),
        "context": widgets.SelectionSlider(options=CONTEXTS, value=WORKLOAD.context, description="context"),
        "batch": widgets.IntSlider(value=WORKLOAD.batch, min=1, max=256, description="sequences"),
    }
    answer, picture = widgets.HTML(), widgets.Image(format="png")
    counted: dict[tuple, Counted] = {}  # the slow part, for the models, precisions and splits seen so far

    def draw() -> None:
        try:
            chosen = subject(choices["model"].value)
            precision = choices["precision"].value
            precision = chosen.published if precision == "as published" else precision
            split = Split(tp=(auto := auto_split(chosen.cfg, precision, choices["n"].value)).tp, pp=auto.pp, ep=auto.tp)
            workload = Workload(context=choices["context"].value, batch=choices["batch"].value)
            key = (chosen.name, precision, split)
            if key not in counted:
                counted[key] = count(chosen, split, precision, workload)
            found = plan(chosen, find_gpu(choices["gpu"].value), split, precision, workload, counted[key])
        except ValueError as error:
            answer.value = f"<p>{escape(str(error))}</p>"
            picture.layout.display = "none"
            return
        shown = text(found, runners(found.gpu, found.precision, split.pp > 1))
        answer.value, picture.value = f"<pre>{escape(shown)}</pre>", png(figure(found))
        picture.layout.display = None

    follow(choices.values(), draw)
    return widgets.VBox([widgets.VBox(list(choices.values())), answer, picture])
