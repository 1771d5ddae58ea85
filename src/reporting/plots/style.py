"""The style of the charts: a color and a marker for each architecture."""

from src.reporting.data.runs import ARCHITECTURES

COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800", "#7B3FA0", "#8C564B",
    "#004D40", "#999999",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "d", "8", "H", "p")
"""One color (Okabe and Ito's palette, made for the color-blind, and more) and one marker for each of ARCHITECTURES."""
OTHER_MARKERS = ("*", "<", ">", "+")
INK, GRAY = "#222222", "#777777"


def style_of(architecture: str) -> tuple[str, str]:
    """Return color and marker; an unknown name gets another marker, always the same."""
    if architecture in ARCHITECTURES:
        index = ARCHITECTURES.index(architecture)
        return COLORS[index], MARKERS[index]
    number = sum(architecture.encode())
    return COLORS[number % len(COLORS)], OTHER_MARKERS[number % len(OTHER_MARKERS)]
