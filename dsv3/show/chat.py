"""A chat in a notebook: a text field, the answer as it comes, the thinking folded, and how likely each token was."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from html import escape
from typing import TYPE_CHECKING, Any

from ..inference.chat import split_thinking
from ..inference.sampling import Sampling
from ..lab.generation import Choice, choices, tokens
from ..said import Language, say
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import HTML, VBox

    from ..llm import LLM

PAUSE = 0.05  # seconds between two updates at least: Jupyter drops messages that come too fast
PRE = "white-space: pre-wrap; font-family: monospace; line-height: 1.4; margin: 0"


def chat(llm: "LLM", language: Language = "en", **options: Any) -> "VBox":
    """A conversation with ``llm``; Enter or "Send" asks, "Clear" forgets. ``options`` are those of ``Sampling``.

    Its ``children`` are the conversation, the row of controls, and what the latest answer's tokens competed with.

    Raises:
        ImportError: ipywidgets is not installed.
        ValueError, TypeError: an option that is out of its range, or none.
    """
    widgets, sampling = ipywidgets(), Sampling(**options)
    example = say(language, "a sum, such as 37 + 48 = ?")
    field = widgets.Text(placeholder=example, layout=widgets.Layout(flex="1 1 auto"))
    send = widgets.Button(description=say(language, "Send"), button_style="primary")
    clear = widgets.Button(description=say(language, "Clear"))
    heat = widgets.FloatSlider(sampling.temperature, min=0, max=3, step=0.1, description=say(language, "temperature"))
    heat.style.description_width = "initial"
    field.add_class("dsv3-chat-input")
    send.add_class("dsv3-chat-send")
    talk, below = widgets.VBox(), widgets.VBox()
    messages: list[dict[str, str]] = []

    def ask(_: object = None) -> None:
        question = field.value.strip()
        if not question or send.disabled:
            return
        send.disabled, field.value = True, ""
        thinking, answer = widgets.HTML(), widgets.HTML()
        thinking.add_class("dsv3-chat-thinking")
        answer.add_class("dsv3-chat-answer")
        asked = widgets.HTML(f"<b>{escape(question)}</b>")
        talk.children = (*talk.children, asked, thinking, answer)
        try:
            here = replace(sampling, temperature=heat.value)
            found = turn(llm, messages, question, thinking, answer, here, language)
            below.children = (alternatives(found, language),) if found else ()
        finally:
            send.disabled = False

    def forget(_: object = None) -> None:
        messages.clear()
        talk.children = below.children = ()

    send.on_click(ask)
    clear.on_click(forget)
    field.on_msg(lambda _, content, buffers: ask() if content.get("event") == "submit" else None)
    return widgets.VBox([talk, widgets.HBox([field, send, clear, heat]), below])


def turn(
    llm: "LLM",
    messages: list[dict[str, str]],
    question: str,
    thinking: "HTML",
    answer: "HTML",
    sampling: Sampling,
    language: Language = "en",
) -> list[Choice]:
    """Ask, show the model's turn as it comes, and add both to ``messages`` -> how likely each of its tokens was.

    Of the model's turn only the answer is kept; without one, nothing of the turn is.
    """
    asked = [*messages, {"role": "user", "content": question}]
    new: list[int] = []
    text, shown, note = "", 0.0, ""
    opened = llm.opens_thinking(asked)
    prompt: list[int] = []

    def kept(coming: Iterator[int]) -> Iterator[int]:
        for token in coming:
            new.append(token)
            yield token

    try:
        prompt, coming = tokens(llm, asked, **asdict(sampling))
        for piece in llm.tokenizer.stream(kept(coming)):
            text += piece
            if time.monotonic() - shown > PAUSE:
                shown = time.monotonic()
                _show(thinking, answer, *split_thinking(text, opened), len(new), language=language)
    except ValueError as error:  # the conversation fills the context
        note = say(language, "{error}; Clear starts anew", error=str(error))
    except KeyboardInterrupt:
        note = say(language, "(stopped)")
    thought, said = split_thinking(text, opened)
    if not note and new[-1] not in llm.tokenizer.eos_ids:
        note = say(language, "(cut off after {n} tokens)", n=len(new))
    _show(thinking, answer, thought, said, len(new), note, language)
    if said.strip():
        messages += [asked[-1], {"role": "assistant", "content": said.strip()}]
    return choices(llm, prompt, new)


def _show(
    thinking: "HTML",
    answer: "HTML",
    thought: str,
    said: str,
    count: int,
    note: str = "",
    language: Language = "en",
) -> None:
    """Fill the two fields; the thinking can be unfolded with a click."""
    fold = say(language, "thinking")
    folded = f"<details><summary>{fold}</summary><div style='{PRE}'>{escape(thought.strip())}</div></details>"
    thinking.value = folded if thought.strip() else ""
    waiting = "" if said.strip() or note else say(language, "... {n} tokens", n=count)
    answer.value = f"<div style='{PRE}'>{escape(said.strip())}{waiting} {escape(note)}</div>"


def alternatives(found: list[Choice], language: Language = "en") -> "VBox":
    """A completion, shaded where the model doubted, and a slider: which tokens competed for each place.

    Its ``children`` are the text, the slider and the table. The slider begins where the doubt is greatest.
    """
    widgets = ipywidgets()
    least = min(range(len(found)), key=lambda i: found[i].probability)
    place = widgets.IntSlider(least, min=0, max=len(found) - 1, description="token", layout={"width": "60%"})
    text, table = widgets.HTML(), widgets.HTML()

    def draw() -> None:
        chosen = found[place.value]
        spans = (_span(c, i == place.value) for i, c in enumerate(found))
        text.value = f"<div style='{PRE}'>{''.join(spans)}</div>"
        rows = (
            f"<tr><td><code>{'<b>' if other == chosen.text else ''}{escape(other)}</code></td>"
            f"<td style='text-align: right; padding-left: 1em'>{_percent(share)}</td></tr>"
            for other, share in chosen.others
        )
        taken = say(language, "chosen:")
        table.value = f"<table>{''.join(rows)}</table><p>{taken} <code>{escape(chosen.text)}</code></p>"

    follow((place,), draw)
    return widgets.VBox([text, place, table])


def _span(choice: Choice, here: bool) -> str:
    """A token: the darker its ground, the likelier another one would have been; a frame around the place."""
    shade = min((1 - choice.probability) ** 0.25, 1)  # one in ten thousand is seen already
    frame = "outline: 2px solid #d55e00;" if here else ""
    style = f"background: rgba(230, 159, 0, {shade:.2f}); {frame}"
    text = escape(choice.text.replace("␣", " "))
    broken = "\n" if choice.text.endswith("\\n") else ""
    return f"<span style='{style}' title='{_percent(choice.probability)}'>{text}</span>{broken}"


def _percent(share: float) -> str:
    return f"{share:.2%}" if share > 1e-4 else f"{share:.0e}"
