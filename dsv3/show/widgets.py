"""Sliders and menus: their package, and a picture that follows them."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from ipywidgets import Widget


def ipywidgets() -> "ModuleType":
    """The package of the sliders and menus.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import ipywidgets as widgets
    except ImportError:
        raise ImportError("ipywidgets is not installed: pip install 'dsv3[notebooks]'") from None
    return widgets


def follow(choices: "Iterable[Widget]", draw: Callable[[], None]) -> None:
    """Draw now, and again whenever one of the choices changes."""
    for choice in choices:
        choice.observe(lambda _: draw(), names="value")
    draw()
