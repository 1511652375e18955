"""One look for all plots: matplotlib figures as small SVGs whose colours are CSS variables and whose text is text.

A plot's units are CSS pixels: it is laid out 360 wide, so that a phone shows it at its natural size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree  # nosec B405

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 360


class Colour(NamedTuple):
    """A role's colour on a light and on a dark page."""

    light: str
    dark: str


# The data colours are told apart with every common colour blindness (after Okabe and Ito 2008: blue, vermilion, bluish
# green, reddish purple), darker on light pages and lighter on dark ones for contrast. Nothing is said by colour alone.
PALETTE = {
    "surface": Colour("#ffffff", "#12161c"),
    "panel": Colour("#f4f6f8", "#1a2029"),
    "ink": Colour("#191d23", "#e8ecf1"),
    "muted": Colour("#59626e", "#a2adba"),
    "grid": Colour("#dfe3e8", "#2d3642"),
    "faint": Colour("#c3cad3", "#485463"),
    "other": Colour("#7a8592", "#8c98a6"),
    "blue": Colour("#0a66c2", "#63b0ff"),
    "vermilion": Colour("#c8500a", "#ff9b5e"),
    "green": Colour("#00805f", "#43cfa5"),
    "purple": Colour("#a8448c", "#e79bd0"),
}

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a task's name is one
    "font.size": 11,
    "text.color": PALETTE["ink"].light,
    "axes.edgecolor": PALETTE["faint"].light,
    "axes.labelcolor": PALETTE["muted"].light,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.facecolor": "none",
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelpad": 5,
    "grid.color": PALETTE["grid"].light,
    "grid.linewidth": 1,
    "xtick.color": PALETTE["faint"].light,
    "ytick.color": PALETTE["faint"].light,
    "xtick.labelcolor": PALETTE["muted"].light,
    "ytick.labelcolor": PALETTE["muted"].light,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.major.pad": 5,
    "lines.solid_capstyle": "round",
}


def colour(role: str) -> str:
    """Return the colour that stands for a role of the palette while a plot is drawn."""
    return PALETTE[role].light


def variables(dark: bool) -> str:
    """Return the palette as CSS declarations."""
    return " ".join(f"--{role}: {pair.dark if dark else pair.light};" for role, pair in PALETTE.items())


def render(name: str, label: str, width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """Draw a figure of `width` by `height` pixels and return it as an SVG element for a page.

    Args:
        name: unlike that of any other plot of the page.
        label: what it shows, for those who cannot see it.
        width: pixels.
        height: pixels.
        paint: draws into the figure.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same plot whatever style the user has set
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # a point is a pixel
        paint(figure)
        file = io.BytesIO()
        # Neither a date nor a version: the same numbers give the same bytes.
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return _tidy(ElementTree.fromstring(file.getvalue()), label)  # nosec B314


def standalone(svg: str, width: int, height: int, comment: str) -> str:
    """Return an SVG element as a file of its own, on a background that follows the reader's light or dark setting."""
    style = (
        f"svg {{ {variables(dark=False)} font-family: {FONTS}; }} * {{ stroke-linejoin: round; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {variables(dark=True)} }} }}"
    )
    background = '<rect width="100%" height="100%" rx="8" style="fill: var(--surface)"/>'
    head, _, body = svg.partition(">")
    size = f' xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    return f"{head}{size}<!-- {comment} --><style>{style}</style>{background}{body}\n"


def axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Add axes with the given margins in pixels."""
    width, height = (72 * side for side in figure.get_size_inches())
    area = left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height
    return figure.add_axes(area)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places as little as possible (least squares) until they are `gap` apart, within `low` to `high`."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[float]] = []  # runs of places that touch, each place less its offset within all
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [_mean(block) for block in blocks for _ in block]
    most = high - gap * (len(wanted) - 1)
    places = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        places[index] = max(low, min(level[rank], most)) + rank * gap
    return places


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _tidy(root: ElementTree.Element, label: str) -> str:
    """Make matplotlib's document an element: no namespaces, no needless ids, CSS variables for colours."""
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: _value(value) for name, value in element.attrib.items()}
        if element.tag == "g":
            element.attrib.pop("id", None)
        if element.get("transform", "").startswith("rotate(0 "):
            del element.attrib["transform"]
        element.tail = None
        if element.tag != "text":
            element.text = None
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("style", "metadata")]:
            parent.remove(child)
    return _without_empty_groups(root)


def _without_empty_groups(root: ElementTree.Element) -> str:
    text = ElementTree.tostring(root, encoding="unicode")
    while (shorter := re.sub(r"<(g|defs) ?/>|<(g|defs)></\2>", "", text)) != text:
        text = shorter
    return text


def _value(value: str) -> str:
    for role, pair in PALETTE.items():
        value = value.replace(pair.light, f"var(--{role})")
    # The page's own fonts; matplotlib writes either the shorthand or two properties.
    value = re.sub(r"font: (?:(bold|\d{3}) )?([\d.]+px)[^;]*", _font, value)
    value = re.sub(r" ?font-family: [^;]*;?", "", value)
    value = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").removesuffix("."), value)
    return re.sub(r"\s+", " ", value.replace("-0 ", "0 ") if value.startswith("rotate") else value).strip()


def _font(match: re.Match[str]) -> str:
    return f"font-size: {match[2]}" + (f"; font-weight: {match[1]}" if match[1] else "")
