"""The network as a drawing: one column per branch, populations with their shapes, synapses on the wires, the host below."""

from typing import Any

from taaf.deploy.views.html.figures import figure, text
from taaf.deploy.views.html.markup import Markup, element, join

BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN = 310.0, 40.0, 34.0, 16.0
COLUMN = BOX_WIDTH + 90.0  # room for wires beside the boxes
MAX_NAME = 30


def network_figure(details: dict[str, Any]) -> Markup:
    """Branches side by side; if there is a head, it follows on the host."""
    branches: dict[str, Any] = details["branches"]
    parts, ends, told = [], [], []
    for i, (name, branch) in enumerate(branches.items()):
        x = MARGIN + i * COLUMN
        parts.append(_column(name, branch, x))
        bottom = _top(len(populations(branch)) - 1) + BOX_HEIGHT
        ends.append((x + BOX_WIDTH / 2, bottom))
        told.append(f"{name}: " + ", ".join(f"{p['name']} {shape(p['shape'])}" for p in populations(branch)))
    height = max(y for _, y in ends) + MARGIN
    width = MARGIN + len(branches) * COLUMN
    if details["head"] is not None:
        drawn, height = _host(details, ends, width)
        parts.append(drawn)
        told.append("host head: " + ", ".join(line for _, line in host_lines(details)))
    return figure(
        "fig-network", "Network graph", "; ".join(told), (width, height), join(parts),
        "Solid boxes: populations of neurons on the chip, with shape and number of neurons; on the wires their synapses. "
        "Dashed: input and head, on the host.",
    )  # fmt: skip


def shape(values: list[int]) -> str:
    """(64, 112, 112) as 64x112x112."""
    return "×".join(map(str, values))


def host_lines(details: dict[str, Any]) -> list[tuple[str, str]]:
    """Stages of the host head: title, what it does."""
    head = details["head"]
    decision = [("decision", f"1 of {head['classes']} classes")] if head["classes"] else []
    return [*((title, told) for title, told in head["stages"]), *decision]


def _top(row: int) -> float:
    return MARGIN + 22 + row * (BOX_HEIGHT + GAP)


def populations(branch: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch's populations, headed by its encoder on the host if it has one; each with what is told of it."""
    found = []
    for p in branch["populations"]:
        relays = f", {p['relays']} relay channels" if p["relays"] else ""
        told = f"{p['n_neurons']:,} neurons{relays}" if p["n_neurons"] else "spikes from the host"
        found.append({**p, "told": told})
    if encoder := branch["encoder"]:
        name = "real-valued input"
        found[0]["synapses"] = [{"source": name, "label": f"encoder on the host: {encoder['label']}"}]
        told = "numbers"
        found.insert(0, {"name": name, "shape": encoder["input_shape"], "n_neurons": 0, "synapses": [], "told": told})
    return found


def _column(name: str, branch: dict[str, Any], x: float) -> Markup:
    everything = populations(branch)
    rows = {p["name"]: i for i, p in enumerate(everything)}
    parts = [text(x, MARGIN + 8, f"{_cut(name)}: {branch['input_steps']} steps of input", "strong")]
    for p in everything:
        row = rows[p["name"]]
        beside = 0
        for synapse in p["synapses"]:
            source = rows[synapse["source"]]
            if source == row - 1:
                parts.append(_wire(x + BOX_WIDTH / 2, _top(source) + BOX_HEIGHT, _top(row), synapse["label"]))
            else:
                parts.append(_detour(x + BOX_WIDTH, source, row, synapse["label"], beside))
                beside += 1
        parts.append(_box(x, _top(row), p["name"], f"{shape(p['shape'])} · {p['told']}", host=not p["n_neurons"]))
    return join(parts)


def _host(details: dict[str, Any], ends: list[tuple[float, float]], width: float) -> tuple[Markup, float]:
    y = max(bottom for _, bottom in ends) + GAP + 4
    middle = width / 2 - 25
    parts = []
    for x, bottom in ends:
        path = f"M{x:.1f} {bottom:.1f}V{y - 18:.1f}H{middle:.1f}V{y - 6:.1f}"
        parts.append(element("path", d=path, class_="wire"))
    parts.append(_head_of_arrow(middle, y))
    lines = host_lines(details)
    for i, (title, line) in enumerate(lines):
        parts.append(_box(middle - 170, y, title, line, host=True, width=340))
        if i + 1 < len(lines):
            parts.append(_wire(middle, y + BOX_HEIGHT, y + BOX_HEIGHT + 18, ""))
        y += BOX_HEIGHT + 18
    return join(parts), y - 18 + MARGIN


def _box(x: float, y: float, title: str, line: str, host: bool, width: float = BOX_WIDTH) -> Markup:
    return element(
        "g",
        element("title", f"{title}: {line}"),
        element("rect", x=x, y=y, width=width, height=BOX_HEIGHT, rx=6, class_="box host" if host else "box"),
        text(x + width / 2, y + 17, _cut(title), "strong", "middle"),
        text(x + width / 2, y + 32, _cut(line, 52), "tick", "middle"),
    )


def _wire(x: float, start: float, end: float, label: str) -> Markup:
    wire = element("path", d=f"M{x:.1f} {start:.1f}V{end - 6:.1f}", class_="wire")
    return join([wire, _head_of_arrow(x, end), text(x + 9, (start + end) / 2 + 3, label, "tick")])


def _detour(x: float, source: int, target: int, label: str, beside: int) -> Markup:
    """Right of the boxes, past the populations in between."""
    start, end = _top(source) + BOX_HEIGHT - 12, _top(target) + 12
    out = x + 26 + 10 * beside
    wire = element("path", d=f"M{x:.1f} {start:.1f}H{out:.1f}V{end:.1f}H{x + 6:.1f}", class_="wire side")
    arrow = element("path", d=f"M{x:.1f} {end:.1f}l7 -4v8z", class_="arrow")
    return join([wire, arrow, text(out + 5, (start + end) / 2 + 4, label, "tick")])


def _head_of_arrow(x: float, y: float) -> Markup:
    return element("path", d=f"M{x:.1f} {y:.1f}l-4 -7h8z", class_="arrow")


def _cut(name: str, most: int = MAX_NAME) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
