"""The style of the charts: a color, a marker and a dash for each architecture."""

from src.reporting.data.runs import ARCHITECTURES

COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C17F00", "#3593CC", "#5F7285", "#948800", "#9157B5", "#9C6455",
    "#2C8577", "#868686",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "d", "8", "H", "p")
"""One color and one marker for each of ARCHITECTURES. The colors are near those of Okabe and Ito's palette for the
color-blind, and all have a contrast of at least 3:1 to the light and to the dark page."""
DASHES = (
    "solid", "9,3", "3,2", "9,3,2,3", "5,2", "12,3,3,3,3,3", "14,4", "6,2,2,2,2,2", "9,2,4,2", "4,4", "16,3,2,3",
    "3,2,9,2",
)  # fmt: skip
"""One for each of ARCHITECTURES: lengths of lines and gaps, in pixels."""
OTHER_MARKERS = ("*", "<", ">", "+")
INK, GRAY = "#222222", "#767676"


def style_of(architecture: str) -> tuple[str, str, str]:
    """Return color, marker and dash; an unknown name gets another marker, always the same."""
    if architecture in ARCHITECTURES:
        index = ARCHITECTURES.index(architecture)
        return COLORS[index], MARKERS[index], DASHES[index]
    number = sum(architecture.encode())
    return COLORS[number % len(COLORS)], OTHER_MARKERS[number % len(OTHER_MARKERS)], DASHES[number % len(DASHES)]
