"""Figures as inline SVG: frame with text alternative, axes, bars with the look of their kind."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taaf.deploy.views.html.markup import Markup, element, join

KINDS = ("measured", "estimated", "cited")
COLOURS = 6  # series colours c0..c5 of the style sheet, told apart also without colour vision


def figure(name: str, title: str, description: str, size: tuple[float, float], content: object, note: object = None) -> Markup:
    """An SVG picture in a frame that scrolls by itself where the window is too narrow for it.

    Parameters
    ----------
    name : str
        Identifier, unique in the page.
    title, description : str
        What a reader who does not see the picture is told.
    size : tuple
        Width and height in pixels.
    note : object
        Caption below the picture.
    """
    width, height = size
    svg = element(
        "svg",
        element("title", title, id=f"{name}-t"), element("desc", description, id=f"{name}-d"), content,
        viewBox=f"0 0 {width:g} {height:g}", role="img", aria_labelledby=f"{name}-t {name}-d",
        style=f"width:100%;max-width:{width:g}px;min-width:{min(width, 540):g}px",
    )  # fmt: skip
    frame = element("div", svg, class_="scroll", tabindex="0", role="region", aria_label=f"{title} (picture)")
    return element("figure", frame, None if note is None else element("figcaption", note), id=name)


def text(x: float, y: float, content: object, class_: str = "", anchor: str | None = None, **more: object) -> Markup:
    """SVG text at (x, y)."""
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """SVG line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


@dataclass(frozen=True)
class Scale:
    """Values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """Round values from low to high."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**k for k in range(first, last + 1, max(1, math.ceil((last - first) / 9)))]
        return linear_ticks(self.low, self.high, n)


def linear_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """At most about ``n`` round values in [low, high]."""
    raw = (high - low) / max(n, 1)
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Whole decades around the positive values."""
    positive = [v for v in values if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive)) - 0.05), math.ceil(math.log10(max(positive)) + 0.05)
    return Scale(10.0**low, 10.0 ** max(high, low + 1), start, end, log=True)


def linear_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """From zero to a round value above the largest."""
    top = max([*values, 0.0]) or 1.0
    step = linear_ticks(0, top)[1]
    return Scale(0.0, step * math.ceil(top / step - 1e-9), start, end)


def x_axis(scale: Scale, y: float, top: float, label: str, shown: Callable[[float], str]) -> Markup:
    """Grid lines from ``top`` to ``y``, tick labels and the axis' name with its unit."""
    parts = []
    for tick in scale.ticks():
        parts += [line(scale(tick), top, scale(tick), y, "grid"), text(scale(tick), y + 16, shown(tick), "tick", "middle")]
    middle = (scale.start + scale.end) / 2
    return join([*parts, line(scale.start, y, scale.end, y, "axis"), text(middle, y + 36, label, "label", "middle")])


def y_axis(scale: Scale, x: float, right: float, label: str, shown: Callable[[float], str]) -> Markup:
    """Grid lines from ``x`` to ``right``, tick labels left of ``x``, the name above."""
    parts = []
    for tick in scale.ticks():
        parts += [line(x, scale(tick), right, scale(tick), "grid"), text(x - 6, scale(tick) + 4, shown(tick), "tick", "end")]
    return join([*parts, line(x, scale.start, x, scale.end, "axis"), text(x, min(scale.start, scale.end) - 8, label, "label")])


def bar(x: float, y: float, width: float, height: float, series: int, kind: str = "measured") -> Markup:
    """A bar; estimated ones are hatched, cited ones only an outline."""
    box = {"x": float(x), "y": float(y), "width": float(max(width, 0.5)), "height": float(height)}
    solid = element("rect", class_=f"c{series % COLOURS} {kind}", **box)
    return solid if kind != "estimated" else join([solid, element("rect", class_="hatch", fill="url(#hatch)", **box)])


def legend(entries: Sequence[tuple[str, int, str]], x: float, y: float, step: float) -> Markup:
    """(name, series, kind) side by side, ``step`` pixels apart."""
    parts = []
    for i, (name, series, kind) in enumerate(entries):
        parts += [bar(x + i * step, y - 10, 14, 11, series, kind), text(x + i * step + 20, y, name, "tick")]
    return join(parts)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_, fill="none")


PATTERNS = element(
    "svg",
    Markup(
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line x1="0" y1="0" x2="0" y2="6" class="hatchline"/></pattern></defs>'
    ),
    width=0, height=0, aria_hidden="true", class_="patterns",
)  # fmt: skip
