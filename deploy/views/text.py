"""The deployment report as text. Measured, estimated and cited are kept apart."""

from typing import Any

WHERE = {"sim": "Lava runtime, Loihi simulator (fixed_pt)", "fast": "hw_sim exact engine", "loihi2": "Loihi 2"}


def render(report: dict[str, Any]) -> str:
    """The table `taaf-deploy` prints."""
    parts = [_summary(report)]
    if "layers" in report:
        parts += [layers_table(report), energy_table(report), _paper(report)]
    if "early_exit" in report:
        parts.append(_early_exit(report))
    if "energy_study" in report:
        from taaf.deploy.studies.energy_study import render_study

        parts.append(render_study(report["energy_study"]))
    return "\n\n".join(parts)


def _summary(r: dict[str, Any]) -> str:
    a, acc = r["agreement"], r["accuracy_percent"]
    lines = [
        f"{r['model']} on {WHERE[r['backend']]}",
        f"  bundle      {r['bundle']}",
        f"  windows     {r['samples']} of {origin(r['split'])}, {r['time_steps']:,} time steps, {r['seconds']['run']:.2f} s running",
    ]
    if acc:
        lines.append(f"  accuracy    {_accuracies(acc)}")
    if "accuracy_percent_all" in r:
        full = r["accuracy_percent_all"]
        lines.append(f"              {_accuracies(full)}   on all {r['samples_all']} (exact engine)")
    if r.get("guard_steps"):
        lines.append(
            f"  guard       {r['guard_steps']} step(s) before every window on the chip keep windows apart; not counted below"
        )
    compared = f"{a['neuron_steps_compared']:,} neuron-steps" if a["neuron_steps_compared"] else "spikes not recorded"
    verdict = "100 %" if a["exact"] else "BROKEN"
    lines.append(
        f"  agreement   {verdict} with the {a['with']}: {a['spike_mismatches']} of {compared} differ, "
        f"{a['decision_mismatches']} of {a['windows']} decisions differ"
    )
    if "early_exit" in r:
        lines.append(
            f"              early exit at confidence {r['early_exit']['confidence']:g}: decided after "
            f"{r['early_exit']['ran_mean_steps']:.2f} steps of input on average (and {r['early_exit']['depth']} "
            f"through the layers), {a['exit_step_mismatches']} windows at another step"
        )
    for x in r["saturation"]["layers"]:
        lines.append(
            f"  saturation  {x['layer']} may leave 24 bits (exported with --allow-saturation): u wrapped {x['wraps']:,} times, "
            f"v was clipped {x['clips']:,} times (exact engine)"
        )
    if layers := a["layer_mismatches"]:
        wrong = [f"{name} ({n})" for name, n in layers.items() if n]
        lines.append(
            f"              all {len(layers)} layers, spike by spike against the exact engine: {', '.join(wrong) or 'equal'}"
        )
    return "\n".join(lines)


def origin(split: str) -> str:
    """What the windows are."""
    return f"the {split} split" if split in ("test", "human") else split


def _accuracies(percent: dict[str, float]) -> str:
    if len(percent) == 2:  # of one modality "fused" is that modality
        return f"{percent['fused']:.1f} %"
    return "   ".join(f"{u}{'' if u == 'fused' else ' only'} {value:.1f} %" for u, value in percent.items())


def layers_table(r: dict[str, Any]) -> str:
    """Measured: neurons, spikes and operations of every layer."""
    n = r["samples"]
    head = f"  {'layer':22s} {'neurons':>8s} {'synapses':>9s} {'spikes':>10s} {'SynOps':>12s} {'dense':>12s} {'updates':>10s}"
    lines = [f"Measured, per window (counted from the {n} windows that ran)", head]
    rows = [(x["layer"], x) for x in r["layers"]] + [("total", {**r["totals"], "spikes_in": 0})]
    for name, x in rows:
        lines.append(
            f"  {name:22s} {x['n_neurons']:8,d} {x['n_synapses']:9,d} {x['spikes_out'] / n:10,.1f} "
            f"{x['effective_synops'] / n:12,.0f} {x['dense_synops'] / n:12,.0f} {x['neuron_updates'] / n:10,.0f}"
        )
    lines.append(f"  input spikes from the host: {r['totals']['spikes_in'] / n:,.1f} per window")
    if "host_macs_per_window" in r:
        lines.append(
            f"  host head: {r['host_macs_per_window']:,} multiply-accumulates per evaluation, one "
            f"{'per step until the decision' if 'early_exit' in r else 'per window'} (not part of the chip's energy)"
        )
        lines.append("    of them " + ", ".join(f"{part} {n:,}" for part, n in r["host_mac_parts"].items()))
    for branch, macs in r.get("encoder_macs_per_window", {}).items():
        lines.append(
            f"  host encoder of {branch}: {macs:,} integer multiply-accumulates per window (not part of the chip's energy)"
        )
    return "\n".join(lines)


def energy_table(r: dict[str, Any]) -> str:
    """Estimated: the counted operations under every convention."""
    lines = [
        "Estimated, per window: counted operations x published constants (no chip was measured)",
        f"  {'convention':32s} {'SNN':>12s} {'ANN twin':>12s}",
    ]
    for e in r["energy"]:
        ann = f"{e['ann_nj'] / 1000:9.4g} uJ" if e["ann_nj"] is not None else "-"
        lines.append(f"  {e['title']:32s} {e['snn_nj'] / 1000:9.4g} uJ {ann:>12s}")
    for range_ in r.get("energy_ranges", ()):
        for kind in ("dynamic", "total"):
            if ends := range_[f"{kind}_nj"]:
                name = f"{range_['title']}, {kind}"
                lines.append(f"  {name:32s} {ends[0] / 1000:9.4g} to {ends[1] / 1000:.4g} uJ")
    lines.append(
        f"  ANN twin: {r['ann_twin_macs_per_window']:,} multiply-accumulates (same synapses, real-valued, at every input step)"
    )
    lines += [f"  [{x['title']}] {'; '.join(range_notes(x))}" for x in r.get("energy_ranges", ())]
    lines += [f"  [{e['title']}] {e['includes']}; not: {e['excludes']}" for e in r["energy"]]
    return "\n".join(lines)


def range_notes(r: dict[str, Any]) -> list[str]:
    """What a range is, how well it predicts, and what it must not be taken for."""
    factors = [x["factor"] for x in r["left_out"] if x["left_out"] == "run"]
    low, high = r["one_synop_pj"]
    c = r["dynamic"]
    synop, step = (f"{a:.3g}-{b:.3g}" for a, b in (c["pj_per_synop"], c["nj_per_step"]))
    return [
        "no official energy per operation exists",
        f"derived from {r['n_measurements']} published measurements of {len(r['networks'])} other networks "
        f"({', '.join(r['networks'])}): dynamic {synop} pJ per effective SynOp + {step} nJ per time step",
        f"leave-one-out: a run predicted from the others is off by x {min(factors):.2g} to x {max(factors):.2g}, a network from the "
        f"other not at all (charged to SynOps alone, the measurements span {low:.2g} to {high:.2g} pJ)",
        "taaf-deploy --check-estimates shows them",
    ]


def _early_exit(r: dict[str, Any]) -> str:
    e = r["early_exit"]
    lines = [
        f"Early exit: what stopping a window would cost, {e['rule']} >= confidence (exact engine, {r['samples']} windows; counted "
        "until the stop, pipeline included; the run above keeps the window length and only silences its input)",
        f"  {'confidence':>12s} {'accuracy':>9s} {'as full':>8s} {'mean steps':>11s} {'SynOps':>10s} {'of full':>8s} {'updates':>9s}",
    ]
    full = e["full"]
    for x in [*e["curve"], full]:
        name = "never" if x is full else f"{x['confidence']:g}"
        mark = "*" if x["confidence"] == e["confidence"] else " "
        right = "      –  " if x["accuracy_percent"] is None else f"{x['accuracy_percent']:7.1f} %"
        lines.append(
            f" {mark}{name:>12s} {right} {x['same_as_full_percent']:6.1f} % {x['mean_steps']:11.2f} "
            f"{x['effective_synops']:10,.0f} {100 * x['effective_synops'] / full['effective_synops']:6.0f} % "
            f"{x['neuron_updates']:9,.0f}"
        )
    return "\n".join(lines)


def whose(paper: dict[str, Any]) -> str:
    """What network the cited figures belong to, seen from the one that ran."""
    return "the same architecture with the authors' weights and data" if paper["same_size"] else "another and larger network"


def _paper(r: dict[str, Any]) -> str:
    p = r["paper"]
    return "\n".join(
        [
            f"Cited, {whose(p)} (two spiking ResNet18, CREMA-D): {p['title']}",
            f"  SNN {p['snn']} {p['unit']}   ANN {p['ann']} {p['unit']}   (printed \"{p['printed_unit']}\")",
            f"  the unit must be {p['unit']}: {p['unit_reason']}",
        ]
    )
