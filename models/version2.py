"""Reader of what versions up to 0.1 wrote: checkpoints and bundles of two branches, "event" or "visual" and "audio"."""

import re
from collections.abc import Mapping
from typing import Any

from taaf.models.errors import CheckpointError
from taaf.models.heads import as_stored

_DEFAULTS: dict[str, Any] = {
    "event_channels": 8, "block_channels": 16, "audio_inputs": 160, "audio_hidden": 128, "features": 128, "event_steps": 8,
    "audio_steps": 12, "aligned_steps": 6, "classes": 10, "attention": "taaf", "attention_on": "logits", "fusion": "concat",
    "alignment": "learned", "first_name": "event", "first_branch": "conv", "audio_branch": "dense", "event_size": 34,
    "resnet_width": 64, "frame_size": 224, "audio_bins": 257, "audio_frames": 188, "frame_scale": 32, "audio_scale": 8,
    "head": "taaf", "cross_modal": "residual", "residual_alpha": 1.5, "token_channels": 64, "stem_halvings": 3,
    "attention_heads": 8, "mlp_ratio": 4, "audio_levels": 4, "stem_downsampling": "stride", "surrogate_width": 0.5,
    "surrogate_scale": 1.0,
}  # fmt: skip
_REAL = ("resnet18", "sps_real")
_STEMS = ("sps", "sps_real")


def network_tables(model: Mapping[str, Any]) -> dict[str, Any]:
    """The old ``[model]`` table -> tables ``branches``, ``head`` and ``neuron``; raises `CheckpointError` on foreign keys."""
    if unknown := sorted(set(model) - set(_DEFAULTS)):
        raise CheckpointError(f"model config: unknown keys {unknown}")
    for key, value in model.items():
        if type(value) is not type(_DEFAULTS[key]):
            raise CheckpointError(f"model config: {key} (={str(value)[:40]!r}): expected {type(_DEFAULTS[key]).__name__}")
    c = _DEFAULTS | dict(model)
    first, second = c["first_branch"], c["audio_branch"]
    frames, spectrogram = [3, c["frame_size"], c["frame_size"]], [1, c["audio_bins"], c["audio_frames"]]
    events, flat = [2, c["event_size"], c["event_size"]], [c["audio_inputs"]]
    bands = [1, c["audio_inputs"] // max(1, c["audio_levels"]), c["audio_levels"]]
    shapes = (
        frames if first in _REAL else events,
        spectrogram if second in _REAL else bands if second == "sps" else flat,
    )
    kinds = ((first, c["frame_scale"], c["event_steps"]), (second, c["audio_scale"], c["audio_steps"]))
    branches = {
        name: _branch(kind, shape, steps, scale, c)
        for name, (kind, scale, steps), shape in zip((c["first_name"], "audio"), kinds, shapes, strict=True)
    }
    head = {k: c[k] for k in ("classes", "aligned_steps", "alignment", "fusion")} | {"type": c["head"]}
    own = ("attention", "attention_on") if c["head"] == "taaf" else _SCMRL
    neuron = {k: c[k] for k in ("surrogate_width", "surrogate_scale")}
    return {"branches": branches, "head": as_stored(head | {k: c[k] for k in own}), "neuron": neuron}


_SCMRL = ("cross_modal", "residual_alpha", "attention_heads", "mlp_ratio")


def _branch(kind: str, shape: list[int], steps: int, scale: int, c: Mapping[str, Any]) -> dict[str, Any]:
    table = {"shape": shape, "steps": steps, "scale": scale if kind in _REAL else 0}
    if kind in _STEMS:
        own = {"channels": c["token_channels"], "halvings": c["stem_halvings"], "downsampling": c["stem_downsampling"]}
        return {"network": "patch_stem", **table, **own}
    if kind == "resnet18":
        return {"network": kind, **table, "width": c["resnet_width"], "features": c["features"]}
    if kind == "conv":
        own = {"channels": c["event_channels"], "wide": c["block_channels"], "features": c["features"]}
        return {"network": kind, **table, **own}
    if kind == "dense":
        return {"network": kind, **table, "hidden": c["audio_hidden"], "features": c["features"]}
    raise CheckpointError(f"model config: branch kind {str(kind)[:40]!r} unknown")


_RENAMED = (
    (re.compile(r"^align\.(\w+)\.(weight|bias)$"), r"head.weights.align_\1_\2"),
    (re.compile(r"^(branches\.\w+)\.blocks\.(\d+)\.(conv1|conv2|shortcut|lif1|lif2)\."), "{0}.block{1}_{2}."),
    (re.compile(r"^(branches\.\w+)\.convs\.(\d+)\."), "{0}.conv{1}."),
    (re.compile(r"^(branches\.\w+)\.lifs\.(\d+)\."), "{0}.conv{1}_lif."),
)


def state_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The old names of parameters -> today's."""
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        match = pattern.match(name)
        if match is None:
            continue
        if "{" not in new:
            return pattern.sub(new, name)
        parts = [str(int(p) + 1) if p.isdigit() else p for p in match.groups()]  # counted from 1 now
        return new.format(*parts) + name[match.end() :]
    return name


def config_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole stored configuration: its ``model`` table replaced by today's."""
    rest = {k: v for k, v in config.items() if k != "model"}
    return {**rest, **network_tables(config["model"])}


def head_spec(head: Mapping[str, Any], branches: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What a version-2 manifest says of its head -> `taaf.models.heads.base.Head.spec`.

    Parameters
    ----------
    head, branches : mapping
        Of the manifest.
    shapes : mapping
        Modality -> shape of the branch's last layer.
    """
    names = head.get("modalities", ["event", "audio"])
    inputs = {m: {"shape": list(shapes[m]), "steps": branches[m]["input_steps"]} for m in names}
    kind = head.get("type", "taaf")
    keys = ("fusion", "attention", "attention_on") if kind == "taaf" else ("fusion", *_SCMRL)
    found = {"type": kind, "classes": head["classes"], "inputs": inputs, **{k: head[k] for k in keys}}
    return found | {"aligned_steps": head["aligned_steps"], "alignment": "learned"}  # it matters for training only
