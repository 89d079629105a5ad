"""The report of a bare NetX file as text: what ran, on which spikes, who agreed with whom; no accuracy, no cited figures."""

from typing import Any

from taaf.deploy.views.text import energy_table, layers_table


def render_net(report: dict[str, Any]) -> str:
    """What `taaf-deploy FILE.net` prints."""
    parts = [_summary(report), layers_table(report), energy_table(report)]
    if "energy_study" in report:
        from taaf.deploy.studies.energy_study import render_study

        parts.append(render_study(report["energy_study"]))
    return "\n\n".join(parts)


def _summary(r: dict[str, Any]) -> str:
    where = {"sim": "Lava runtime, Loihi simulator (fixed_pt), stock NetX", "fast": "hw_sim exact engine"}[r["backend"]]
    given, shape = r["input"], "x".join(map(str, r["input"]["shape"]))
    source = f"spikes of {given['file']}" if not given["generated"] else (
        f"generated noise, Bernoulli spikes at rate {given['rate']:g}, seed {given['seed']}: not data of any task"
    )  # fmt: skip
    lines = [
        f"{r['file']} on {where}",
        f"  network     {len(r['layers'])} layers of neurons, input {shape}, output {r['output']['layer']} "
        f"{'x'.join(map(str, r['output']['shape']))} ({r['file_layers']} layers of the file)",
        f"  input       {source}",
        f"  windows     {r['samples']} of {r['steps_per_window']} steps, each from rest, {r['time_steps']:,} time steps, "
        f"{r['seconds']['run']:.2f} s",
    ]
    lines += [f"  note        {note}" for note in r["notes"]]
    a = r["agreement"]
    lines.append(f"  agreement   {_verdict(a['reference'], 'integer reference = exact engine')}")
    if "lava" in a:
        alone = f", one network for each of {a['lava']['networks']} windows" if a["lava"]["networks"] > 1 else ""
        lines.append(f"              {_verdict(a['lava'], 'Lava = exact engine')}{alone}")
    return "\n".join(lines)


def _verdict(a: dict[str, Any], who: str) -> str:
    wrong = [f"{name} ({n})" for name, n in a["layer_mismatches"].items() if n]
    told = f"BROKEN in {', '.join(wrong)}" if wrong else "every spike of every layer"
    return f"{who}: {told}, {a['windows']} windows, {a['neuron_steps_compared']:,} neuron-steps compared"
