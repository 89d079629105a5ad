"""Summary, agreement and provenance: what ran, whether it agrees, where every number comes from."""

from typing import Any

from taaf.deploy.views.html.energy import CITED, ESTIMATED, RANGES
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.numbers import engineering, number
from taaf.deploy.views.html.tables import table
from taaf.deploy.views.text import WHERE, origin
from taaf.hw_sim.energy import CONVENTIONS, load_chip
from taaf.hw_sim.measurements.loihi2_range import loihi2_range


def title(report: dict[str, Any]) -> str:
    """What ran where."""
    return f"{report.get('model') or report['file']} on {WHERE[report['backend']]}"


def cards(report: dict[str, Any]) -> Markup:
    """The few numbers one wants first."""
    a, n = report["agreement"], report["samples"]
    found = [_card("agreement", "every spike equal" if a["exact"] else "BROKEN", "good" if a["exact"] else "bad")]
    for u, percent in report.get("accuracy_percent", {}).items():
        name = "accuracy, fused" if u == "fused" else f"{u} only"
        found.append(_card(name, number(percent, f"accuracy_percent.{u}", f"{percent:.1f} %")))
    split = "windows" + (f" of {origin(report['split'])}" if "split" in report else "")
    found.append(_card(split, number(n, "samples", f"{n:,}")))
    if "totals" in report:
        for name, field in (("SynOps per window", "effective_synops"), ("spikes per window", "spikes_out")):
            value = report["totals"][field] / n
            found.append(_card(name, number(value, f"totals.{field}", engineering(value), per="samples")))
    found.append(_card("time steps run", number(report["time_steps"], "time_steps", f"{report['time_steps']:,}")))
    return element("div", *found, class_="cards")


def _card(name: str, value: object, look: str = "") -> Markup:
    return element("div", element("b", value), element("span", name), class_=f"card {look}".strip())


def verdict(report: dict[str, Any]) -> Markup:
    """The agreement in one sentence per comparison."""
    a = report["agreement"]
    if "reference" in a:  # a bare .net
        lines = [f"Integer reference = exact engine on {a['reference']['windows']} windows: {_judged(a['reference'])}."]
        if "lava" in a:
            lines.append(f"Lava = exact engine on {a['lava']['windows']} windows: {_judged(a['lava'])}.")
        return join(element("p", x) for x in lines)
    compared = f"{a['neuron_steps_compared']:,} neuron-steps" if a["neuron_steps_compared"] else "spikes not recorded"
    return element(
        "p", "With the ", a["with"], ": ", number(a["spike_mismatches"], "agreement.spike_mismatches"), f" of {compared} and ",
        number(a["decision_mismatches"], "agreement.decision_mismatches"), f" of {a['windows']:,} decisions differ; largest "
        f"difference of a logit {a['max_logit_difference']:.2g}.",
    )  # fmt: skip


def _judged(compared: dict[str, Any]) -> str:
    wrong = sum(compared["layer_mismatches"].values())
    told = f"{wrong:,} differ" if wrong else "equal"
    return f"{compared['neuron_steps_compared']:,} neuron-steps, {told}"


def agreement_table(report: dict[str, Any]) -> Markup:
    """One row per layer and comparison."""
    a, rows = report["agreement"], []
    if "reference" in a:
        for key, who in (("reference", "integer reference"), ("lava", "Lava runtime")):
            for layer, wrong in a.get(key, {}).get("layer_mismatches", {}).items():
                rows.append((layer, f"{who} = exact engine", wrong, f"agreement.{key}.layer_mismatches.{layer}"))
    for layer, wrong in a.get("layer_mismatches", {}).items():
        rows.append((layer, "Lava runtime = exact engine", wrong, f"agreement.layer_mismatches.{layer}"))
    if not rows:
        return element(
            "p", "This backend is the exact engine itself, so its inner layers are not compared here; the export compared every "
            "layer with the trained model and the integer reference. With ", element("code", "--backend sim"), " the layers "
            "recorded on the Lava runtime are listed.",
        )  # fmt: skip
    body = [
        (layer, who, number(wrong, path, f"{wrong:,}"), "✗ differs" if wrong else "✓ equal") for layer, who, wrong, path in rows
    ]
    return table("Spikes that differ, per layer", ("layer", "compared", "differ", "verdict"), body)


def provenance_part(report: dict[str, Any], details: dict[str, Any]) -> Markup:
    """Command, files, versions, then every constant with its kind and source."""
    p = details["provenance"]
    facts: list[tuple[object, object]] = [("command", element("code", p["command"])), ("Python", p["python"])]
    for key, name in (("bundle", "bundle"), ("file", "file"), ("sha256", "SHA-256 of the file")):
        if key in report:
            facts.append((name, element("code", report[key])))
    if "checkpoint_sha256" in report:
        facts.append(("SHA-256 of the checkpoint", element("code", report["checkpoint_sha256"])))
    facts.append(("run with", _versions(p["tools"])))
    if p["exported_with"]:
        facts.append(("exported with", _versions(p["exported_with"])))
    if "input" in report:
        i = report["input"]
        told = f"generated noise, rate {i['rate']:g}, seed {i['seed']}: not data of any task" if i["generated"] else i["file"]
        facts.append(("input", told))
    facts.append(("running", f"{report['seconds']['run']:.2f} s"))
    parts = [table("This run", ("what", "value"), facts, wide={1})]
    if p["files"]:
        rows = [(name, element("code", value)) for name, value in p["files"].items()]
        parts.append(_folded("Files of the bundle", table("SHA-256, verified when read", ("file", "SHA-256"), rows, wide={1})))
    if p["compiler"]:
        parts.append(_folded("What the compiler said", element("ul", *(element("li", line) for line in p["compiler"]))))
    return join([*parts, element("h3", "Constants"), constants_table(cited="paper" in report)])


def _folded(name: str, content: Markup) -> Markup:
    return element("details", element("summary", name), content)


def _versions(tools: dict[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in tools.items())


def constants_table(cited: bool) -> Markup:
    """Every constant an energy was made with."""
    rows: list[tuple[object, ...]] = []
    for name in CONVENTIONS:
        chip = load_chip(name)
        for t in chip["term"]:
            rows.append((f"{t['pj']:g} pJ", t["what"], chip["title"], CITED, chip["source"]))
        if "ann_mac_pj" in chip:
            rows.append((f"{chip['ann_mac_pj']:g} pJ", "multiply-accumulate (ANN twin)", chip["title"], CITED, chip["source"]))
    r = loihi2_range()
    for kind in RANGES:
        c = r.coefficients(kind)
        for what, unit, ends in (("effective SynOp", "pJ", c.pj_per_synop), ("time step", "nJ", c.nj_per_step)):
            if ends is not None:
                rows.append((f"{ends[0]:.3g} – {ends[1]:.3g} {unit}", f"{what}, {kind}", r.title, ESTIMATED, r.source))
    if cited:
        p = load_chip("taaf_paper")
        rows += [(f"{p[u]} {p['unit']}", f"{u.upper()}, printed “{p['printed_unit']}”", p["title"], CITED, p["source"])
                 for u in ("snn", "ann")]  # fmt: skip
    caption = "Published values, each cited, and a range derived from such; what is computed from counts with them is marked estimated"
    return table(caption, ("value", "what", "convention", "kind", "source"), rows, wide={4})
