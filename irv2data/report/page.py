"""What pages share: how templates are filled, how text from files is shown, and how charts become part of the page.

A page is one file that asks for nothing: its base template forbids every request (Content-Security-Policy), charts are
SVG within it and pictures data URIs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irv2data.errors import UsageError

# Okabe and Ito's colours, which people who see few colours tell apart too; and marks, for those who see none.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = "osD^vPX"
INK, SOFT, LINE = "#1d2430", "#5b6573", "#d9dee5"
_DPI = 150  # of what is drawn as pixels within a chart


def require_report() -> None:
    """Raises a `UsageError` unless the libraries that make pages are installed."""
    try:
        import jinja2  # noqa: F401  # `render` and
        import matplotlib  # noqa: F401  # the charts import their parts
    except ImportError as error:
        raise UsageError("pages need the 'report' extra: pip install 'irv2data[report]'") from error


def render(template: str, **values: Any) -> str:
    """HTML of a template in `report/templates`; everything put into it is escaped.

    Args:
        template: Its file name.
        **values: What it shows; charts of `svg` as `markup` gives them.

    Raises:
        UsageError: Jinja2 or matplotlib is not installed.
    """
    require_report()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=lambda value: shown(value) if type(value) is str else value,  # not of what is markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def markup(charts: Mapping[str, str]) -> dict[str, Any]:
    """Charts of `svg`, which escapes their text itself, as a template takes them unescaped."""
    from markupsafe import Markup

    return {name: Markup(chart) for name, chart in charts.items()}


def shown(text: str) -> str:
    """A text as a page can show it: what turns its direction, controls, or is no character, as escapes.

    Names of files and classes come from anywhere. Surrogates (undecodable bytes) have no place in UTF-8, and a
    right-to-left override would make a name look like another one.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, without a display and without global state."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    axes = made.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=INK, length=0)
    return made, axes


def svg(figure: Any, label: str) -> str:
    """A figure as an SVG element.

    Args:
        figure: Of `figure`.
        label: What it shows, for whoever cannot see it; different for each chart of a page.
    """
    import matplotlib
    from markupsafe import escape
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class called $x_1$ is no formula
    written = io.StringIO()
    # Text stays text; and equal figures give equal files, with other names for their parts than other charts have.
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's fonts show the text; ours only measure it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(
            written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), transparent=True
        )
    element = written.getvalue()
    return element[element.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
