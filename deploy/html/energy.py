"""Energies under every convention beside the cited figures, and what each consists of."""

from typing import Any

from taaf.deploy.html.figures import bar, figure, legend, line, log_scale, text, x_axis
from taaf.deploy.html.markup import Markup, element, join
from taaf.deploy.html.numbers import energy, number

ESTIMATED = element("span", "estimated", class_="badge estimated")
CITED = element("span", "cited", class_="badge cited")
_NJ = {"mJ": 1e6}
_COMPONENT = {"effective": 0, "neuron_": 1, "spikes": 2}  # colour by what the term counts


def energy_figure(report: dict[str, Any]) -> Markup:
    """Logarithmic, because a small network and the cited large one lie many decades apart."""
    rows: list[tuple[str, float, int, str]] = []
    for e in report["energy"]:
        rows.append((e["title"], e["snn_nj"], 0, "estimated"))
        if e["ann_nj"] is not None:
            rows.append((f"{e['title']}, ANN twin", e["ann_nj"], 1, "estimated"))
    if p := report.get("paper"):
        rows += [(f"paper's {u.upper()} (cited)", p[u] * _NJ[p["unit"]], 5, "cited") for u in ("snn", "ann")]
    left, row = 250.0, 24.0
    scale = log_scale([v for _, v, _, _ in rows], left, left + 420)
    bottom = 30 + row * len(rows)
    parts = [x_axis(scale, bottom, 22, "energy per window (log scale)", lambda v: energy(v).replace(".0", ""))]
    for i, (name, value, series, kind) in enumerate(rows):
        y = 26 + i * row
        x = scale(value)
        parts += [
            text(left - 8, y + 13, name, "cited" if kind == "cited" else "", "end"),
            bar(left, y, x - left, row - 8, series, kind), text(x + 5, y + 13, energy(value), "tick"),
        ]  # fmt: skip
    parts.append(legend([("SNN", 0, "estimated"), ("ANN twin", 1, "estimated"), ("cited", 5, "cited")], left, 12, 110))
    told = "; ".join(f"{name} {energy(value)}" for name, value, _, _ in rows)
    note = "Hatched: estimated, counted operations × published constants; no chip was measured."
    if "paper" in report:
        note += " Dotted outline: cited from the paper, of another and larger network; the distance is not a result."
    return figure("fig-energy", "Energy per window by convention", told, (left + 500, bottom + 44), join(parts), note)


def component_figure(report: dict[str, Any]) -> Markup:
    """Shares of the components per convention, linear, each bar 100 %."""
    entries = report["energy"]
    left, width, row = 250.0, 420.0, 40.0
    parts: list[Markup] = []
    told = []
    for i, e in enumerate(entries):
        y, x = 26 + i * row, left
        parts.append(text(left - 8, y + 14, e["title"], "", "end"))
        total = sum(nj for _, nj in e["terms"]) or 1.0
        for what, nj in e["terms"]:
            share = nj / total
            series = _series(e["convention"], what)
            parts.append(element("g", element("title", f"{what}: {energy(nj)}"), bar(x, y, share * width, 18, series, "estimated")))
            x += share * width
        parts.append(line(left, y - 2, left, y + 20, "axis"))
        shown = " · ".join(f"{_brief(what)} {energy(nj)}" for what, nj in e["terms"])
        parts.append(text(left, y + 31, shown, "tick"))
        told.append(f"{e['title']}: {shown}")
    parts.append(legend([("synapses", 0, "estimated"), ("neurons", 1, "estimated"), ("spike messages", 2, "estimated")], left, 12, 120))
    height = 30 + row * len(entries)
    return figure("fig-components", "Energy by component", "; ".join(told), (left + 530, height), join(parts), (
        "Share of each component within its convention. " + "The components a convention leaves out are listed below."
    ))  # fmt: skip


def _series(convention: str, what: str) -> int:
    from taaf.hw_sim.energy import load_chip

    quantity = next((t["quantity"] for t in load_chip(convention)["term"] if t["what"] == what), "")
    return next((colour for start, colour in _COMPONENT.items() if quantity.startswith(start)), 3)


def _brief(what: str) -> str:
    return what.split(" (")[0].split(", active")[0]


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
                element("td", ann), element("td", ESTIMATED), element("td", f"{e['includes']}; not: {e['excludes']}", class_="wide"),
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
                element("td", f"two spiking ResNet18 on CREMA-D; printed “{p['printed_unit']}”: {p['unit_reason']}", class_="wide"),
                class_="cited",
            )
        )
    heads = ("convention", "SNN", "ANN twin", "kind")
    return element(
        "div",
        element(
            "table",
            element("caption", "Per window. The ANN twin computes the same synapses with real values at every input step: ",
                    number(report["ann_twin_macs_per_window"], "ann_twin_macs_per_window"), " multiply-accumulates."),
            element("thead", element("tr", *(element("th", h, scope="col") for h in heads), element("th", "includes", scope="col", class_="wide"))),
            element("tbody", *rows),
        ),
        class_="scroll", tabindex="0", role="region", aria_label="Energy by convention",
    )  # fmt: skip
