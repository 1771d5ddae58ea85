"""What the figures of a report share: colours and markers, axes, and labels that do not touch."""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from src.reporting.data.runs import ARCHITECTURES

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800", "#7B3FA0", "#8C564B",
    "#004D40", "#999999",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "d", "8", "H", "p")
"""One colour and one marker for each of ARCHITECTURES."""
OTHER_MARKERS = ("*", "<", ">", "+")
INK, FAINT = "#222222", "#777777"
DPI = 130


def style_of(architecture: str | None) -> tuple[str, str]:
    """Return colour and marker; a name that we do not know gets a marker of its own, always the same."""
    name = str(architecture)
    if name in ARCHITECTURES:
        index = ARCHITECTURES.index(name)
        return COLOURS[index], MARKERS[index]
    number = sum(name.encode())
    return COLOURS[number % len(COLOURS)], OTHER_MARKERS[number % len(OTHER_MARKERS)]


def label_right(panel: Axes, labels: list[tuple[str, float, str]]) -> None:
    """Write name and loss beside the right edge at each level, moved apart where they would touch.

    A level outside the axis is named at the edge that it lies beyond, with an arrow.
    """
    low, high = panel.get_ylim()
    labels = sorted(labels, key=lambda label: -label[1])
    gap = 0.055
    places = [min(1.0, max(0.0, (loss - low) / (high - low))) for _, loss, _ in labels]
    for index in range(1, len(places)):
        places[index] = min(places[index], places[index - 1] - gap)
    floor = 0.0
    for index in reversed(range(len(places))):
        places[index] = max(places[index], floor)
        floor = places[index] + gap
    for (name, loss, colour), place in zip(labels, places, strict=True):
        arrow = "↑ " if loss > high else "↓ " if loss < low else ""
        panel.annotate(
            f"{arrow}{name} {loss:.2f}", (1, place), xytext=(5, 0), xycoords="axes fraction",
            textcoords="offset points", va="center", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def style_panel(panel: Axes) -> None:
    """Draw a faint grid behind the curves, and no frame."""
    panel.set_axisbelow(True)
    panel.grid(color="#e6e6e6", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Name all handles below the figure, in as many lines as its width takes."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    ncols = max(1, min(len(handles), int(figure.get_figwidth() / (0.55 + 0.085 * longest))))
    figure.legend(handles=list(handles), loc="outside lower left", ncols=ncols, frameon=False)


def style_axes(panel: Axes, axis: str, starts: list[float]) -> None:
    """starts: x of each run's first validation; a log axis begins a little before, where curves enter the range."""
    style_panel(panel)
    if axis == "wall_time_s":
        panel.set_xlim(left=0)
        return
    panel.set_xscale("log")
    if starts and min(starts) > 0:
        panel.set_xlim(left=min(starts) / 1.5)
    first, last = panel.get_xlim()
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if last < 400 * first else (1.0,), numticks=8))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(EngFormatter(sep="") if axis == "tokens" else FuncFormatter(_power_of_ten))


def time_unit(longest: float) -> tuple[str, float]:
    """Choose the unit of a time axis: its name and its seconds."""
    units = [(" (s)", 1.0, 180.0), (" (min)", 60.0, 3 * 3600.0), (" (h)", 3600.0, float("inf"))]
    return next(((name, seconds) for name, seconds, limit in units if not longest > limit))


def _power_of_ten(value: float, _: object = None) -> str:
    """Write 2e12 as 2 times 10 to the 12."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def empty_figure(message: str) -> Figure:
    figure = Figure(figsize=(8, 1.6), dpi=DPI)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=FAINT, fontsize=13)
    return figure
