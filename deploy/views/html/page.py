"""The page: sections in order, each only if there is something to show; no script, and the policy forbids any."""

from typing import Any

from taaf.deploy.views.html.activity import MEASURED, activity_figure, activity_table, raster_figure
from taaf.deploy.views.html.attention import attention_figure, class_figure
from taaf.deploy.views.html.cores import core_part
from taaf.deploy.views.html.energy import CITED, ESTIMATED, component_figure, energy_figure, energy_notes, energy_table
from taaf.deploy.views.html.figures import PATTERNS
from taaf.deploy.views.html.markup import Markup, element, join
from taaf.deploy.views.html.network import host_lines, network_figure, populations, shape
from taaf.deploy.views.html.study import study_part
from taaf.deploy.views.html.style import STYLE
from taaf.deploy.views.html.summary import agreement_table, cards, provenance_part, title, verdict
from taaf.deploy.views.html.tables import table

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(report: dict[str, Any], details: dict[str, Any]) -> str:
    """The whole file.

    Parameters
    ----------
    report : dict
        What ``--json`` prints, of a bundle or of a NetX file.
    details : dict
        Of `taaf.deploy.views.details`.
    """
    sections = [s for s in _sections(report, details) if s is not None]
    links = element("ul", *(element("li", element("a", name, href=f"#{key}")) for key, name, _ in sections))
    body = [
        PATTERNS,
        element("header", element("h1", title(report)), element("p", _lead(report), class_="lead"), _kinds()),
        element("nav", links, aria_label="Sections"),
        element("main", *(element("section", element("h2", name), *parts, id=key) for key, name, parts in sections)),
    ]
    head = [
        element("meta", charset="utf-8"), element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"taaf: {title(report)}"), element("style", Markup(STYLE)),
    ]  # fmt: skip
    return "<!doctype html>\n" + element("html", element("head", *head), element("body", *body), lang="en") + "\n"


def _sections(report: dict[str, Any], details: dict[str, Any]) -> list[tuple[str, str, list[Markup]] | None]:
    counted = "layers" in report
    paper = "paper" in report
    return [
        ("summary", "Summary", [cards(report), verdict(report), *_notes(report, details)]),
        ("network", "Network", [network_figure(details), _shapes(details)]),
        ("raster", "Spikes of one window", [raster_figure(details)]),
        ("activity", "Firing rates and SynOps per layer", [activity_figure(report), activity_table(report)]) if counted else None,
        ("energy", "Energy" + (" and the paper’s 18.5 and 49.91" if paper else ""),
         [energy_figure(report), component_figure(report), energy_table(report), energy_notes(report)]) if counted else None,
        ("study", "Energy study: the paper’s comparison", study_part(report["energy_study"])) if "energy_study" in report else None,
        ("cores", "Core map", core_part(details["core_maps"])),
        ("alpha", "Temporal attention", [attention_figure(details), *class_figure(details)]) if details["alpha"] else None,
        ("agreement", "Agreement", [verdict(report), agreement_table(report)]),
        ("provenance", "Provenance", [provenance_part(report, details)]),
    ]  # fmt: skip


def _lead(report: dict[str, Any]) -> str:
    where = report.get("bundle") or report["file"]
    return f"{where}, backend {report['backend']}, {report['samples']:,} windows"


def _kinds() -> Markup:
    told = ((MEASURED, "counted from the spikes of this run"), (ESTIMATED, "counts × published constants"),
            (CITED, "from a publication, not ours"))  # fmt: skip
    return element("p", *(element("span", mark, meaning) for mark, meaning in told), class_="kinds")


def _notes(report: dict[str, Any], details: dict[str, Any]) -> list[Markup]:
    found = [*report.get("notes", [])]
    if details.get("generated"):
        found.append("The inputs are generated: spikes, operations and agreement are real, the accuracy means nothing")
    if "accuracy_percent_all" in report:
        a = report["accuracy_percent_all"]
        found.append(
            f"On all {report['samples_all']:,} windows (exact engine): " + ", ".join(f"{u} {v:.1f} %" for u, v in a.items())
        )
    for x in report.get("saturation", {}).get("layers", []):
        found.append(f"{x['layer']} may leave 24 bits: u wrapped {x['wraps']:,} times, v was clipped {x['clips']:,} times")
    if "early_exit" in report:
        e = report["early_exit"]
        found.append(f"Early exit at confidence {e['confidence']:g}: decided after {e['ran_mean_steps']:.2f} steps on average")
    return [element("ul", *(element("li", x) for x in found))] if found else []


def _shapes(details: dict[str, Any]) -> Markup:
    rows: list[tuple[object, ...]] = []
    for name, branch in details["branches"].items():
        for p in populations(branch):
            synapses = "; ".join(f"{s['label']} from {s['source']}" for s in p["synapses"]) or p["told"]
            rows.append((f"{name}.{p['name']}", shape(p["shape"]), f"{p['n_neurons']:,}" if p["n_neurons"] else "–", synapses))
    if details["head"] is not None:
        rows += [(what, "host", "–", line) for what, line in host_lines(details)]
    folded = table("Populations and their synapses", ("population", "shape", "neurons", "synapses"), rows, wide={3})
    return element("details", element("summary", "The same as a table"), join([folded]))
