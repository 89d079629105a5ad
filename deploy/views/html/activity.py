"""What was counted: the spikes of one window, firing rates and operations of every layer."""

from typing import Any

from taaf.deploy.views.html.figures import Scale, bar, figure, line, linear_scale, log_scale, text, x_axis
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.numbers import engineering, number, percent

MEASURED = element("span", "measured", class_="badge measured")


def raster_figure(details: dict[str, Any]) -> Markup:
    """Every population a lane, time to the right; spikes of evenly spaced neurons."""
    r = details["raster"]
    steps, row_height, left = max(len(x["per_step"]) for x in r["layers"]), 3.0, 170.0
    scale = Scale(0, steps, left, left + min(max(steps * 36.0, 180.0), 432.0 if steps <= 36 else 860.0))
    cell = (scale.end - scale.start) / steps
    y, parts = 12.0, []
    for layer in r["layers"]:
        height = max(len(layer["rows"]) * row_height, 26.0)
        row = height / len(layer["rows"])
        parts.append(element("rect", x=left, y=y, width=scale.end - left, height=height, class_="lane"))
        marks = "".join(
            f"M{scale(t):.1f} {y + k * row:.1f}h{max(cell - 1, 0.6):.1f}v{max(row - 0.6, 0.6):.1f}h-{max(cell - 1, 0.6):.1f}z"
            for k, t in layer["spikes"]
        )
        parts.append(element("path", d=marks, class_="spike"))
        shown = "all" if len(layer["rows"]) == layer["n_neurons"] else f"{len(layer['rows'])} of"
        parts.append(text(left - 8, y + 11, layer["layer"], "strong", "end"))
        parts.append(text(left - 8, y + 24, f"{shown} {layer['n_neurons']:,} neurons", "tick", "end"))
        parts.append(text(scale.end + 8, y + 11, f"{sum(layer['per_step']):,} spikes", "tick"))
        y += height + 10
    ticks = Scale(0, steps, scale.start, scale.end)
    parts.append(x_axis(ticks, y, y, "time step of the window", lambda t: f"{t:g}" if t == int(t) else ""))
    told = "; ".join(f"{x['layer']} {sum(x['per_step'])} spikes" for x in r["layers"])
    return figure(
        "fig-raster", "Spike raster of one window", f"Spikes per population in window {r['window']}: {told}",
        (scale.end + 110, y + 44), join(parts), _raster_note(details),
    )  # fmt: skip


def _raster_note(details: dict[str, Any]) -> str:
    r = details["raster"]
    told = f"Window {r['window']}, {r['origin']}."
    if details["labels"]:
        found = {k: details["labels"][r[k]] for k in ("label", "decision") if r[k] >= 0}
        told += f" Its class is “{found['label']}”." if "label" in found else ""
        told += f" The decision is “{found['decision']}”." if "decision" in found else ""
    cut = any(x["all_steps"] > len(x["per_step"]) for x in r["layers"])
    return (
        told
        + " Of large populations, evenly spaced neurons are drawn; the count on the right is of all."
        + (" Only the first steps are drawn." if cut else "")
    )


def activity_figure(report: dict[str, Any]) -> Markup:
    """Firing rate and effective SynOps of every layer, side by side."""
    layers, n = report["layers"], report["samples"]
    rates = [x["spikes_out"] / max(x["neuron_updates"], 1) for x in layers]
    synops = [x["effective_synops"] / n for x in layers]
    left, width, gap, row = 170.0, 210.0, 110.0, 22.0
    bottom = 34 + row * len(layers)
    rate = linear_scale([100 * r for r in rates], left, left + width)
    ops = log_scale(synops, left + width + gap, left + 2 * width + gap)
    parts = [
        text(left, 14, "firing rate", "strong"), text(ops.start, 14, "effective SynOps", "strong"),
        x_axis(rate, bottom, 24, "spikes per 100 neurons and step (%)", lambda v: f"{v:g}"),
        x_axis(ops, bottom, 24, "per window (log scale)", engineering),
    ]  # fmt: skip
    for i, (x, r, s) in enumerate(zip(layers, rates, synops, strict=True)):
        y = 28 + i * row
        parts += [
            text(left - 8, y + 12, x["layer"], "", "end"),
            bar(left, y, rate(100 * r) - left, row - 7, 0), text(rate(100 * r) + 4, y + 12, percent(r), "tick"),
            bar(ops.start, y, ops(s) - ops.start if s else 0, row - 7, 2), text(ops(s) + 4, y + 12, engineering(s), "tick"),
            line(left, y + row - 3, left, y + row - 3, "grid"),
        ]  # fmt: skip
    told = "; ".join(f"{x['layer']}: rate {percent(r)}, {s:,.0f} SynOps" for x, r, s in zip(layers, rates, synops, strict=True))
    return figure(
        "fig-activity", "Firing rates and SynOps per layer", told, (ops.end + 80, bottom + 44), join(parts),
        "Rate: spikes divided by neurons and steps. A SynOp is one spike through one non-zero synapse.",
    )  # fmt: skip


def activity_table(report: dict[str, Any]) -> Markup:
    """The counts behind the figure, per window."""
    n = report["samples"]
    heads = ("layer", "neurons", "synapses", "spikes", "rate", "SynOps", "dense", "updates")
    rows = [_row(x, x["layer"], f"layers.{i}", n) for i, x in enumerate(report["layers"])]
    return element(
        "div",
        element(
            "table",
            element("caption", MEASURED, f"Per window, counted from the {n:,} windows that ran"),
            element("thead", element("tr", *(element("th", h, scope="col") for h in heads))),
            element("tbody", *rows),
            element("tfoot", _row(report["totals"], "total", "totals", n)),
        ),
        class_="scroll", tabindex="0", role="region", aria_label="Counts per layer",
    )  # fmt: skip


def _row(x: dict[str, Any], name: str, path: str, n: int) -> Markup:
    def per_window(field: str, digits: int = 0) -> Markup:
        value = x[field] / n
        return element("td", number(value, f"{path}.{field}", f"{value:,.{digits}f}", per="samples"))

    rate = x["spikes_out"] / max(x["neuron_updates"], 1)
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", number(x["n_neurons"], f"{path}.n_neurons", f"{x['n_neurons']:,}")),
        element("td", number(x["n_synapses"], f"{path}.n_synapses", f"{x['n_synapses']:,}")),
        per_window("spikes_out", 1),
        element("td", number(rate, f"{path}.spikes_out", percent(rate), per=f"{path}.neuron_updates")),
        per_window("effective_synops"), per_window("dense_synops"), per_window("neuron_updates"),
    )  # fmt: skip
