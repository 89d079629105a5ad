"""The deployment bundle: a directory with a manifest, one NetX file per branch, the head and expected results.

    manifest.json   format, branches (files, shapes, windows, phases), head, labels, SHA-256 of every file, tools
    event.net audio.net   loadable by stock lava-dl; named after the branches, one or more
    encoder_visual.npz    where a branch takes real numbers: the convolution that encodes them on the host
    head.npz        alignment, classifier and attention as plain arrays
    golden.npz      expected feature spikes and logits of the verified windows, from the trained model
    windows.npz     the verified windows themselves, where no data set gives them

Files are verified against the manifest before anything is parsed. Nothing is pickled.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taaf.export.bundle.manifest import FORMAT, READABLE, manifest_problems, modalities_of
from taaf.export.intervals import LayerIntervals, analyse
from taaf.export.targets.netx.read import read_netx
from taaf.models import version2
from taaf.models.config import MAX_STEPS, InputSpec
from taaf.models.encoder import HostEncoder
from taaf.models.errors import BundleError, TaafError
from taaf.models.files.npz import read_npz
from taaf.models.files.placeholders import placeholder
from taaf.models.files.writing import sha256
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph

MAX_FILE_BYTES = 1 << 30
MAX_MANIFEST_BYTES = 1 << 24
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory."""

    path: Path
    manifest: dict[str, Any]
    graphs: dict[str, Graph]
    head: HostHead
    golden: dict[str, np.ndarray]
    encoders: dict[str, HostEncoder] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the branches, in order."""
        return self.head.modalities

    @property
    def labelled(self) -> bool:
        """Whether the class of every verified window is known."""
        return bool((self.golden["labels"] >= 0).all())

    @property
    def data_set(self) -> str:
        """Name of the data set it was trained on."""
        return str(self.manifest.get("data", {}).get("set", "ead-mini"))

    def encode(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of a data set (`taaf.training.sources.Windows`) -> spikes for the chip, uint8 (N, *shape, T).

        Synchronisation channels (`taaf.export.passes.guard`) are silent within a window.
        """
        found = {m: self.encoders[m](x) if m in self.encoders else in_shape(x, self.taken_shape(m)) for m, x in inputs.items()}
        return {m: np.pad(x, ((0, 0), (0, self.guard(m)[1]), *[(0, 0)] * (x.ndim - 2))) for m, x in found.items()}

    def guard(self, branch: str) -> tuple[int, int]:
        """Guard steps before every window of this branch on Lava, and synchronisation channels at the end of its input."""
        told = self.manifest["branches"][branch].get("guard", {})
        return int(told.get("steps", 0)), int(told.get("channels", 0))

    @property
    def guard_steps(self) -> int:
        """Guard steps before every window on Lava: those of the branch that needs most."""
        return max(self.guard(b)[0] for b in self.graphs)

    def taken_shape(self, branch: str) -> tuple[int, ...]:
        """Shape of the spikes that enter this branch, without synchronisation channels."""
        channels, *rest = self.graphs[branch].input.shape
        return (channels - self.guard(branch)[1], *rest)

    def stream(self, branch: str, spikes: np.ndarray) -> np.ndarray:
        """Encoded windows (N, *shape, T) as they follow each other on Lava: guard steps, the window, idle steps."""
        steps, channels = self.guard(branch)
        idle, before = self.window_steps - spikes.shape[-1], self.guard_steps if self.pipelined else 0
        found = np.pad(spikes, (*[(0, 0)] * (spikes.ndim - 1), (before, idle)))
        if channels and before:
            found[:, -channels:, ..., before - steps : before] = 1
        return found

    @property
    def window_steps(self) -> int:
        """Time steps between the starts of two windows; the same for all branches."""
        return int(self.manifest["window_steps"])

    @property
    def allows_saturation(self) -> bool:
        """Whether it was exported with --allow-saturation: u and v may leave 24 bits."""
        return self.manifest.get("allow_saturation") is True

    @property
    def pipelined(self) -> bool:
        """Whether windows may follow each other without a gap; otherwise each runs alone on Lava (`Graph.has_memory`)."""
        return not any(graph.has_memory and not self.guard(b)[0] for b, graph in self.graphs.items())

    def unproven_layers(self) -> list[LayerIntervals]:
        """Layers whose u or v may leave 24 bits within a window; none unless `allows_saturation`."""
        return [row for graph in self.graphs.values() for row in analyse(graph, self.window_steps) if not row.proven]

    @property
    def depth(self) -> int:
        """Time steps from an input spike to the last feature spike it causes: layers of the deepest branch."""
        return max(len(graph.lifs()) for graph in self.graphs.values())

    def input_steps(self, branch: str) -> int:
        """Steps of the window in which this branch receives input; its features are read for as many steps."""
        return int(self.manifest["branches"][branch]["input_steps"])

    def expected_features(self, branch: str) -> np.ndarray:
        """Feature spikes of the trained model on the test set, (N, F, T) uint8."""
        shape = (len(self.golden["labels"]), self.n_features(branch), self.input_steps(branch))
        bits = np.unpackbits(self.golden[f"features_{branch}"], count=int(np.prod(shape)))
        return bits.reshape(shape)

    def n_features(self, branch: str) -> int:
        graph = self.graphs[branch]
        return int(np.prod(graph.shapes[graph.output]))

    def specs(self) -> dict[str, InputSpec]:
        """What a data set must give, per modality."""
        found = {}
        for m in self.graphs:
            encoder = self.encoders.get(m)
            shape, scale = (self.taken_shape(m), 0) if encoder is None else (encoder.input_shape, encoder.scale)
            found[m] = InputSpec(tuple(shape), self.input_steps(m), scale)
        return found

    def features_of(self, branch: str, spikes: np.ndarray) -> np.ndarray:
        """What the head receives of a branch's last layer (N, *shape, T): (N, F, T), the steps it reads, maps flattened."""
        seen = spikes[..., : self.input_steps(branch)]
        return seen.reshape(len(seen), -1, seen.shape[-1])


def in_shape(windows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Windows (N, ..., T) in the shape of a graph's input if that is only another view of them; else as they are."""
    if np.prod(windows.shape[1:-1]) != np.prod(shape):
        return windows
    return windows.reshape(len(windows), *shape, windows.shape[-1])


def relay_channels(branch: dict[str, Any]) -> dict[str, int]:
    """LIF -> relay channels at its end, as a manifest's branch names them; only reported, so that nothing else checks them."""
    told = branch.get("relays")
    return {k: v for k, v in told.items() if type(v) is int and v > 0} if isinstance(told, dict) else {}


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises
    ------
    BundleError
        If a file is missing, its SHA-256 differs, or the contents do not fit together.
    LimitExceededError
        If a network is not one that every backend runs the same.
    """
    manifest = _read_manifest(path)
    for name, wanted in manifest["files"].items():
        _verify_file(path, name, wanted)
    try:
        branches = {b: manifest["branches"][b] for b in modalities_of(manifest)}
        graphs = {b: read_netx(path / entry["file"], b) for b, entry in branches.items()}
        encoders = {
            b: HostEncoder.from_bundle(_read_npz(path / entry["encoder_file"]), entry["encoder_spec"])
            for b, entry in branches.items()
            if "encoder_file" in entry
        }
        head = HostHead(_read_npz(path / manifest["head"]["file"]), _head_spec(manifest, graphs))
        bundle = Bundle(path, manifest, graphs, head, _read_npz(path / manifest["golden"]["file"]), encoders)
        _check_fit(bundle)
    except TaafError:
        raise
    except Exception as error:
        raise BundleError(f"{path}: manifest and files do not fit together ({type(error).__name__}: {error})") from error
    return bundle


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    if path.is_file():
        raise BundleError(f"{path}: a file, not a bundle directory; export a checkpoint with `taaf-export {path} --to netx`")
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle directory; make one with `taaf-export model.pt --to netx`")
    try:
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise BundleError(f"{file}: not a plain file; export the bundle again")
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{file}: {file.stat().st_size} bytes, more than {MAX_MANIFEST_BYTES}")
        manifest = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); a bundle has a manifest.json") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: {placeholder(file) or f'not valid JSON, it may be truncated ({error})'}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{file}: not a taaf bundle (format is not {FORMAT!r})")
    if manifest.get("version") not in READABLE:
        raise BundleError(f"{file}: bundle version {manifest.get('version')!r}; this taaf reads {READABLE}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise BundleError(f"{file}: 'files' must map file names to SHA-256 sums")
    if problems := manifest_problems(manifest):
        raise BundleError(f"{file}: {'; '.join(problems)}")
    for name in [*files, *_used_files(manifest)]:
        if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or name not in files:
            raise BundleError(f"{file}: file name {name!r} is not allowed or has no SHA-256 sum")
    return manifest


def _head_spec(manifest: dict[str, Any], graphs: dict[str, Graph]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["head"]
    if manifest["version"] == 2:
        return version2.head_spec(spec, manifest["branches"], {m: g.shapes[g.output] for m, g in graphs.items()})
    return spec


def _used_files(manifest: dict[str, Any]) -> list[Any]:
    branches = [manifest["branches"][name] for name in modalities_of(manifest)]
    used = [branch[key] for branch in branches for key in ("file", "encoder_file") if key in branch]
    kept = [manifest["data"]["file"]] if isinstance(manifest.get("data"), dict) and "file" in manifest["data"] else []
    return [manifest["head"]["file"], manifest["golden"]["file"], *used, *kept]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _verify_file(path: Path, name: str, wanted: str) -> None:
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file}: missing from the bundle (or not a plain file); export it again")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise BundleError(f"{file}: {file.stat().st_size} bytes, more than {MAX_FILE_BYTES}")
    found = sha256(file)
    if found != wanted:
        if what := placeholder(file):
            raise BundleError(f"{file}: {what}")
        raise BundleError(f"{file}: SHA-256 is {found[:12]}…, the manifest says {wanted[:12]}…; export the bundle again")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, MAX_FILE_BYTES)
    except ValueError as error:
        raise BundleError(f"{path}: not a readable .npz file ({error})") from error


def _check_fit(bundle: Bundle) -> None:
    n = len(bundle.golden["labels"])
    decides = {"logits": "f"} if bundle.head.decides else {}
    wanted = {"labels": "i", **decides, **{f"features_{b}": "u" for b in bundle.graphs}}
    if wrong := [k for k, kind in wanted.items() if bundle.golden[k].dtype.kind != kind]:
        raise BundleError(f"{bundle.path}: golden.npz holds {wrong[0]} as {bundle.golden[wrong[0]].dtype}")
    if bundle.golden["labels"].ndim != 1 or not n or not all(np.isfinite(bundle.golden[k]).all() for k in decides):
        raise BundleError(
            f"{bundle.path}: golden.npz has {bundle.golden['labels'].shape} labels, or logits that are not finite"
        )
    least, most = bundle.golden["labels"].min(), bundle.golden["labels"].max()
    if least < -1 or most >= len(bundle.manifest["labels"]):
        raise BundleError(f"{bundle.path}: golden labels {least}..{most}, the manifest names {len(bundle.manifest['labels'])}")
    for name in bundle.graphs:
        _check_branch(bundle, name, n)
    if bundle.modalities != tuple(bundle.graphs):
        raise BundleError(
            f"{bundle.path}: the head reads {', '.join(bundle.modalities)}, the branches are {', '.join(bundle.graphs)}"
        )
    if bundle.head.head.classes != len(bundle.manifest["labels"]):
        raise BundleError(f"{bundle.path}: the head has {bundle.head.head.classes} classes, the manifest names other labels")
    if bundle.head.decides and bundle.golden["logits"].shape != (n, len(bundle.manifest["labels"])):
        raise BundleError(f"{bundle.path}: golden logits {bundle.golden['logits'].shape} do not fit {n} samples and the labels")


def _check_branch(bundle: Bundle, name: str, n: int) -> None:
    from taaf.export.limits import check_limits  # imports torch

    graph = bundle.graphs[name]
    branch = bundle.manifest["branches"][name]
    if list(graph.input.shape) != branch["input_shape"]:
        raise BundleError(f"{bundle.path}: {name}.net takes {graph.input.shape}, the manifest says {branch['input_shape']}")
    if not 0 <= bundle.guard(name)[1] < graph.input.shape[0] or not 0 <= bundle.guard(name)[0] <= MAX_STEPS:
        raise BundleError(f"{bundle.path}: {name} has guard {bundle.guard(name)}, its input {graph.input.shape}")
    if name in bundle.encoders and bundle.encoders[name].output_shape != bundle.taken_shape(name):
        given = bundle.encoders[name].output_shape
        raise BundleError(f"{bundle.path}: {name}.net takes {graph.input.shape}, its encoder gives {given}")
    steps = bundle.input_steps(name)
    if not 1 <= steps <= bundle.window_steps:
        raise BundleError(f"{bundle.path}: {name} has {steps} input steps in a window of {bundle.window_steps}")
    check_limits(
        graph, pipelined=not graph.has_memory, fill=not bundle.guard(name)[0], window_steps=bundle.window_steps,
        allow_saturation=bundle.allows_saturation,
    )  # fmt: skip
    taken = bundle.head.head.inputs.get(name)
    if taken is None or taken.steps != steps:
        raise BundleError(f"{bundle.path}: head reads another number of {name} steps than {steps}")
    if bundle.n_features(name) != taken.size:
        raise BundleError(f"{bundle.path}: {name} gives {bundle.n_features(name)} features, the head takes {taken.size}")
    packed = bundle.golden[f"features_{name}"]
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size != -(-n * bundle.n_features(name) * steps // 8):
        raise BundleError(f"{bundle.path}: golden.npz does not hold {n} x {bundle.n_features(name)} x {steps} {name} bits")
