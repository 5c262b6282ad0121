"""How pictures look, and how they leave as SVG for a page or as a file; matplotlib, an extra, is imported on first use.

Text and lines of a picture within a page take the page's colours, so that it reads on light and on dark. This module
does not know what is drawn.
"""

import functools
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

# Of about the same lightness: they stand out from white and from near-black, and differ for the colour-blind.
_POLICIES = {"fcfs": "#8b93a1", "ssjf": "#2f7de1", "aged-ssjf": "#0f9b8e", "sjf": "#e07b0d", "auto": "#9163e0"}
_OTHERS = ("#d6517d", "#6a9a1f", "#2aa0c8", "#b08a1e", "#c2554a", "#7a7fd6")
SHORT, LONG = "#2f7de1", "#e07b0d"

INK, SOFT, LINE = "#1f2430", "#5b6472", "#dfe3e8"
_PAGE_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}

_FORMATS = (".png", ".svg", ".pdf")

_STYLE: dict[Any, Any] = {  # matplotlib's keys are literals, too many to name
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "butt",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "ssjf",  # the same picture gives the same file
}


def colour_of(policy: str, position: int = 0) -> str:
    """The policy's colour, the same in every picture; one by position for names without a fixed one."""
    return _POLICIES.get(policy.partition(":")[0], _OTHERS[position % len(_OTHERS)])


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a function that draws under the common style, and leave matplotlib's own settings as they were.

    Raises:
        ConfigError: matplotlib is not installed.
    """

    @functools.wraps(draw)
    def drawing(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            import matplotlib as mpl  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError("drawing needs matplotlib; install it with: pip install 'ssjf[plot]'") from None
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawing


@styled
def svg(figure: "Figure") -> str:
    """The picture as an <svg> element for a page: it scales with the page and takes its font and colours.

    The page defines the variables ``--ink``, ``--soft`` and ``--line``.
    """
    import matplotlib as mpl  # noqa: PLC0415

    buffer = io.StringIO()
    nobody = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays text: it can be searched, and is small
        figure.savefig(buffer, format="svg", metadata=nobody)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # As wide as its text is in proportion to the page's; on a phone so small at most that it still reads.
    inches = figure.get_figwidth()
    size = f"max-width: {6.3 * inches:.1f}rem; min-width: {3.6 * inches:.1f}rem"
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg ", f'<svg role="img" style="{size}" ', 1)
    # Names within one page must differ between its pictures.
    unique = "p" + hashlib.sha256(text.encode()).hexdigest()[:6]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", text)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text


def saved(draw: Callable[[], "Figure"], path: Path) -> str:
    """Draw and write a picture beside results that are there all the same; its name, or why there is none."""
    try:
        save(draw(), path)
    except (ConfigError, OSError) as error:
        return f"no {path.name} ({error})"
    return path.name


def check_picture(path: Path) -> None:
    """Find out before a long run whether a picture can have such a name.

    Raises:
        ConfigError: it cannot.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--picture {path}: a picture's name ends in {', '.join(_FORMATS)}")


@styled
def save(figure: "Figure", path: Path) -> None:
    """Write the picture, on white, in the format that the path's ending names."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=160, facecolor="white", metadata=metadata)
