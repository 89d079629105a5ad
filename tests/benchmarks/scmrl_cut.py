"""Where to cut S-CMRL between chip and host: spikes that would cross per time step, on real windows of EAD-mini.

    uv run python tests/benchmarks/scmrl_cut.py runs/scmrl/model.pt [--windows 200]

Cut "x": the tokens cross ([p | x], the stem's last layer), q, k and v are computed on the host. Cut "q, k, v, x": they are
spiking 1x1 convolutions on the chip, with the trained weights, at the chip's own steps; the tokens cross as well, because the
residual and the MLP need them. Counted from spikes; prints a table, asserts nothing.
"""

import argparse
from pathlib import Path

import torch

from taaf.models.checkpoint import load_model
from taaf.models.cross_modal import tokens_of
from taaf.models.fused_lif import host_lif
from taaf.models.heads.scmrl import ScmrlHead
from taaf.training.datasets.ead_mini import load_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--windows", type=int, default=200)
    args = parser.parse_args()
    model, _ = load_model(args.model)
    part = load_split("test", slice(args.windows))
    with torch.no_grad():
        features = model.features({m: torch.from_numpy(x).float() for m, x in part.inputs().items()})
    assert isinstance(model.head.head, ScmrlHead)
    layers, channels = model.head.deployed().projections, model.head.head.channels
    names = list(features)
    total = {"x": 0.0, "qkv": 0.0}
    for own, other in zip(names, reversed(names), strict=True):
        spikes = features[own].double()  # (N, 2 C n, T)
        steps = spikes.shape[-1]
        tokens = tokens_of(spikes.transpose(1, 2), channels)
        reads = [f"{own}_{kind}_q" for kind in ("spatial", "temporal")]
        reads += [f"{other}_{kind}_{r}" for kind in ("spatial", "temporal") for r in "kv"]
        found = {name: float(host_lif(layers[name](tokens)).sum()) / len(part) / steps for name in reads}
        x = float(spikes.sum()) / len(part) / steps
        extra = len(reads) * tokens.shape[2] * channels
        print(f"{own}: {tokens.shape[2]} tokens of {channels} channels, {steps} steps; per step over the channel:")
        print(f"  x          {x:9.1f} spikes")
        print(f"  q, k, v, x {x + sum(found.values()):9.1f} spikes ({extra:,} neurons more on the chip)")
        print(f"  SynOps of q, k, v: {x * len(reads) * channels:,.0f} per step more on the chip")
        print("  " + ", ".join(f"{n} {v:.1f}" for n, v in found.items()))
        total["x"] += x
        total["qkv"] += sum(found.values())
    print(f"both: x {total['x']:.1f}, q, k, v, x {total['x'] + total['qkv']:.1f} spikes per step: "
          f"{(total['x'] + total['qkv']) / total['x']:.2f} times the traffic")  # fmt: skip


if __name__ == "__main__":
    main()
