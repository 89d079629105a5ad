"""Energies under every convention beside the cited figures, and what each consists of."""

from collections.abc import Sequence
from typing import Any

from taaf.deploy.views.html.figures import bar, figure, legend, log_scale, text, x_axis
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.numbers import energy, number
from taaf.deploy.views.text import range_notes, whose
from taaf.hw_sim.energy import load_chip

ESTIMATED = element("span", "estimated", class_="badge estimated")
CITED = element("span", "cited", class_="badge cited")
_NJ = {"mJ": 1e6}
RANGES = ("dynamic", "total")
COMPONENTS = {"synapses": "effective_synops", "neurons": "neuron_updates", "spike messages": "spikes"}  # by counted quantity


def energy_figure(report: dict[str, Any]) -> Markup:
    """Logarithmic, because a small network and the cited large one lie many decades apart."""
    rows: list[tuple[str, list[float], int, str]] = []  # one value, or both ends of an interval
    for e in report["energy"]:
        rows.append((e["title"], [e["snn_nj"]], 0, "estimated"))
        if e["ann_nj"] is not None:
            rows.append((f"{e['title']}, ANN twin", [e["ann_nj"]], 1, "estimated"))
    for r in report.get("energy_ranges", ()):
        rows += [(f"{r['title']}, {kind}", r[f"{kind}_nj"], 0, "estimated") for kind in RANGES if r[f"{kind}_nj"]]
    if p := report.get("paper"):
        rows += [(f"paper's {u.upper()} (cited)", [p[u] * _NJ[p["unit"]]], 5, "cited") for u in ("snn", "ann")]
    left, row = 250.0, 24.0
    scale = log_scale([v for _, values, _, _ in rows for v in values], left, left + 420)
    bottom = 30 + row * len(rows)
    parts = [x_axis(scale, bottom, 22, "energy per window (log scale)", lambda v: energy(v).replace(".0", ""))]
    for i, (name, values, series, kind) in enumerate(rows):
        y = 26 + i * row
        x = scale(values[-1])
        begin = scale(values[0]) if len(values) > 1 else left
        parts += [
            text(left - 8, y + 13, name, "cited" if kind == "cited" else "", "end"),
            bar(begin, y, x - begin, row - 8, series, kind), text(x + 5, y + 13, spread(values), "tick"),
        ]  # fmt: skip
    parts.append(legend([("SNN", 0, "estimated"), ("ANN twin", 1, "estimated"), ("cited", 5, "cited")], left, 12, 110))
    told = "; ".join(f"{name} {spread(values)}" for name, values, _, _ in rows)
    note = "Hatched: estimated, counted operations × published constants; no chip was measured."
    if report.get("energy_ranges"):
        note += " A bar that floats is an interval, derived from published measurements of other networks."
    if "paper" in report:
        note += f" Dotted outline: cited from the paper, {whose(report['paper'])}; the distance is not a result."
    return figure("fig-energy", "Energy per window by convention", told, (left + 500, bottom + 44), join(parts), note)


def spread(values: Sequence[float]) -> str:
    """One energy, or the ends of an interval."""
    return " – ".join(energy(v) for v in values)


def component_figure(report: dict[str, Any]) -> Markup:
    """Shares of synapses, neurons and spike messages per convention, linear, each bar 100 %."""
    entries = report["energy"]
    left, width, row = 250.0, 420.0, 42.0
    parts: list[Markup] = [
        legend([(name, k, "estimated") for k, name in enumerate(COMPONENTS)], left, 12, 120),
    ]
    told = []
    for i, e in enumerate(entries):
        y, x = 26 + i * row, left
        parts.append(text(left - 8, y + 14, e["title"], "", "end"))
        sums = components(e)
        total = sum(sums.values()) or 1.0
        for name, nj in sums.items():
            share = nj / total
            parts.append(bar(x, y, share * width, 18, list(COMPONENTS).index(name), "estimated"))
            x += share * width
        shown = " · ".join(f"{name} {energy(nj)} ({nj / total:.0%})" for name, nj in sums.items())
        parts.append(text(left, y + 32, shown, "tick"))
        told.append(f"{e['title']}: {shown}")
    note = "Share of each component within its convention; what a convention leaves out is listed in the table."
    return figure(
        "fig-components", "Energy by component", "; ".join(told), (left + 490, 30 + row * len(entries)), join(parts), note
    )


def components(entry: dict[str, Any]) -> dict[str, float]:
    """nJ of synapses, neurons and spike messages, of those a convention has."""
    quantity = {t["what"]: t["quantity"] for t in load_chip(entry["convention"])["term"]}
    sums: dict[str, float] = {}
    for what, nj in entry["terms"]:
        name = next(name for name, start in COMPONENTS.items() if quantity[what].startswith(start))
        sums[name] = sums.get(name, 0.0) + nj
    return sums


def energy_table(report: dict[str, Any]) -> Markup:
    """SNN and ANN twin per convention, then what is cited."""
    rows = []
    for i, e in enumerate(report["energy"]):
        ann = "–" if e["ann_nj"] is None else number(e["ann_nj"], f"energy.{i}.ann_nj", energy(e["ann_nj"]))
        rows.append(
            element(
                "tr",
                element("th", e["title"], scope="row"),
                element("td", number(e["snn_nj"], f"energy.{i}.snn_nj", energy(e["snn_nj"]))),
                element("td", ann), element("td", ESTIMATED),
            )
        )  # fmt: skip
    for i, r in enumerate(report.get("energy_ranges", ())):
        for kind in (k for k in RANGES if r[f"{k}_nj"]):
            ends = [number(v, f"energy_ranges.{i}.{kind}_nj.{j}", energy(v)) for j, v in enumerate(r[f"{kind}_nj"])]
            rows.append(
                element(
                    "tr",
                    element("th", f"{r['title']}, {kind}", scope="row"),
                    element("td", ends[0], " – ", ends[1]), element("td", "–"), element("td", ESTIMATED),
                )
            )  # fmt: skip
    if p := report.get("paper"):
        rows.append(
            element(
                "tr",
                element("th", p["title"], scope="row"),
                element("td", number(p["snn"], "paper.snn", f"{p['snn']} {p['unit']}")),
                element("td", number(p["ann"], "paper.ann", f"{p['ann']} {p['unit']}")),
                element("td", CITED),
                class_="cited",
            )
        )
    heads = ("convention", "SNN", "ANN twin", "kind")
    twin = number(report["ann_twin_macs_per_window"], "ann_twin_macs_per_window")
    caption = join(
        ["Per window. ANN twin: the same synapses with real values at every input step, ", twin, " multiply-accumulates."]
    )
    header = element("thead", element("tr", *(element("th", h, scope="col") for h in heads)))
    content = element("table", element("caption", caption), header, element("tbody", *rows))
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label="Energy by convention")


def energy_notes(report: dict[str, Any]) -> Markup:
    """What each convention includes and leaves out, and what is said about the cited figures."""
    parts = []
    for e in report["energy"]:
        parts += [element("dt", e["title"]), element("dd", f"{e['includes']}; not: {e['excludes']}")]
    if p := report.get("paper"):
        told = f"{whose(p)}: two spiking ResNet18 on CREMA-D, printed “{p['printed_unit']}”: {p['unit_reason']}"
        parts += [element("dt", CITED, p["title"]), element("dd", told)]
    if "host_macs_per_window" in report:
        macs = {"head": report["host_macs_per_window"]}
        macs |= {f"encoder of {b}": n for b, n in report["encoder_macs_per_window"].items()}
        told = ", ".join(f"{name} {n:,}" for name, n in macs.items())
        parts += [element("dt", "Host"), element("dd", f"multiply-accumulates per window, in none of these figures: {told}")]
    for r in report.get("energy_ranges", ()):
        parts += [element("dt", r["title"]), element("dd", ". ".join(range_notes(r)))]
    return element("dl", *parts)
