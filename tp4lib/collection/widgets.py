"""Sliders for figures, in a live session only, so that runs without a reader stay fast."""

import inspect
import os
from collections.abc import Callable
from typing import Any

from tp4lib.base import packages


def live() -> bool:
    """Whether somebody may be there to move a slider: a Jupyter kernel that `tp4 reproduce` did not start."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return not os.environ.get("TP4_ASKED") and hasattr(get_ipython(), "kernel")


def sliders(draw: Callable[..., Any], **controls: Any) -> Any:
    """A widget that draws anew when one of its controls moves, and once at the start: at ``draw``'s defaults, else
    at the first value of each control.

    Args:
        draw: makes one matplotlib figure; every control is one of its arguments.
        controls: for each argument ``(low, high, step)`` for a slider, or a list to choose from (a slider over its
            entries where these are numbers).
    """
    with packages.needed():
        import ipywidgets
        import matplotlib.pyplot as plt

    def drawn(**values: Any) -> None:
        draw(**values)
        plt.show()
        plt.close("all")  # the sliders may be moved a hundred times

    arguments = inspect.signature(draw).parameters
    starts = {name: span[0] if arguments[name].default is inspect.Parameter.empty else arguments[name].default
              for name, span in controls.items()}  # fmt: skip
    knobs = {name: _knob(ipywidgets, name, span, starts[name]) for name, span in controls.items()}
    return ipywidgets.interactive(drawn, **knobs)


def explore(draw: Callable[..., Any], **controls: Any) -> None:
    """Show `sliders` in a live session; elsewhere say in one line where they appear."""
    if live():
        from IPython.display import display

        display(sliders(draw, **controls))
    else:
        print(f"In a live session (jupyter lab), sliders for {', '.join(controls)} appear here.")


def _knob(ipywidgets: Any, name: str, span: Any, start: Any) -> Any:
    words = dict(description=name, continuous_update=False)
    if isinstance(span, tuple):
        low, high, step = span
        kind = ipywidgets.IntSlider if all(isinstance(part, int) for part in span) else ipywidgets.FloatSlider
        return kind(value=start, min=low, max=high, step=step, **words)
    if all(isinstance(value, int | float) for value in span):
        return ipywidgets.SelectionSlider(options=span, value=start, **words)
    return ipywidgets.Dropdown(options=span, value=start, description=name)
