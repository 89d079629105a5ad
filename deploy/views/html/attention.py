"""alpha(t): how the head weighs the time steps, over all windows and per class."""

from typing import Any

from taaf.deploy.views.html.figures import Scale, figure, linear_scale, polyline, text, x_axis, y_axis
from taaf.deploy.views.html.markup import Markup, element, join

MAX_CLASSES = 30


def attention_figure(details: dict[str, Any]) -> Markup:
    """Mean of each output as a line, the fused one with its 10 % and 90 % quantiles."""
    outputs = details["alpha"]["outputs"]
    low, high = (outputs["fused"][k] for k in ("low", "high"))
    steps = len(low)
    x = Scale(1, max(steps, 2), 70, 520)
    y = linear_scale([*high, *(v for o in outputs.values() for v in o["mean"])], 250, 40)
    band = [(x(t + 1), y(v)) for t, v in enumerate(high)] + [(x(t + 1), y(v)) for t, v in reversed(list(enumerate(low)))]
    parts = [
        x_axis(x, 250, 40, "aligned time step t", lambda t: f"{t:g}" if t == int(t) else ""),
        y_axis(y, 70, 520, "alpha(t), sums to 1", lambda v: f"{v:g}"),
        element("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in band), class_="band"),
    ]
    for k, (name, o) in enumerate(outputs.items()):
        points = [(x(t + 1), y(v)) for t, v in enumerate(o["mean"])]
        parts.append(polyline(points, f"curve s{k}"))
        parts.append(polyline([(80, 300 + 18 * k), (112, 300 + 18 * k)], f"curve s{k}"))
        parts.append(text(120, 304 + 18 * k, f"{name}: {', '.join(f'{v:.3f}' for v in o['mean'])}", "tick"))
    told = "; ".join(f"{name} {', '.join(f'{v:.3f}' for v in o['mean'])}" for name, o in outputs.items())
    q = details["alpha"]["quantiles"]
    return figure(
        "fig-alpha", "Temporal attention alpha(t)", f"Mean over windows per time step: {told}",
        (560, 310 + 18 * len(outputs)), join(parts),
        f"Mean over {details['alpha']['windows']:,} windows; shaded: {q[0]:.0%} to {q[1]:.0%} quantile of the fused output.",
    )  # fmt: skip


def class_figure(details: dict[str, Any]) -> list[Markup]:
    """Fused alpha(t) per class as a map of cells, the value written in each; nothing where no window's class is known."""
    rows = [(k, r) for k, r in enumerate(details["alpha"]["outputs"]["fused"]["per_class"]) if r is not None][:MAX_CLASSES]
    if not rows:
        return []
    steps = len(rows[0][1])
    top = max(v for _, r in rows for v in r) or 1.0
    wide, high, left = 64.0, 24.0, 140.0
    parts = [text(left + (t + 0.5) * wide, 14, f"t = {t + 1}", "tick", "middle") for t in range(steps)]
    for i, (k, values) in enumerate(rows):
        y = 22 + i * high
        name = details["labels"][k]
        parts.append(text(left - 8, y + 16, name if len(name) <= 20 else name[:19] + "…", "", "end"))
        for t, v in enumerate(values):
            box = element(
                "rect",
                x=left + t * wide,
                y=y,
                width=wide - 2,
                height=high - 2,
                class_="c0",
                fill_opacity=f"{v / top * 0.85:.3f}",
            )
            strong = "strong t0" if v > 0.6 * top else ""
            parts += [box, text(left + (t + 0.5) * wide - 1, y + 15, f"{v:.2f}", strong, "middle")]
    told = "; ".join(f"{details['labels'][k]}: {', '.join(f'{v:.2f}' for v in r)}" for k, r in rows)
    found = figure(
        "fig-alpha-class", "alpha(t) of the fused output per class", told, (left + steps * wide + 16, 28 + len(rows) * high),
        join(parts), "Rows: true class, mean over its windows. Stronger colour: more attention.",
    )  # fmt: skip
    return [found]
