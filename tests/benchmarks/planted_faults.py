"""Plant one fault at a time in a copy of the sources and see the tests that must notice it fail.

    uv run python tests/benchmarks/planted_faults.py [--only WORD]

Faults for the random graphs are in tests/property/test_random_graphs.py itself, which also shrinks and prints them. Every
fault here is one replacement in one file. A fault that its test does not notice is printed as MISSED; exit code 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "training", "export", "hw_sim", "deploy")


@dataclass(frozen=True)
class Fault:
    """One replacement, and the test that has to fail with it (and pass without)."""

    what: str
    file: str
    old: str
    new: str
    test: str


WIDE = "tests/conformance/test_event_engine.py::test_wide_graphs_equal_the_reference"
FAULTS = (
    Fault("NIR: tau of the membrane off by one step", "export/targets/nir/neurons.py", "dt / tau, np.inf)", "dt / (tau + dt), np.inf)",
          "tests/unit/test_nir_mapping.py::test_decays_and_gains_in_closed_form"),
    Fault("NIR: Norse's synapse read as its membrane", "export/targets/nir/neurons.py", 'k_syn = leak("tau_syn")',
          'k_syn = leak("tau_mem")',
          "tests/unit/test_norse.py::test_norse_cells_equal_the_float_reference[LIFCell]"),
    Fault("NIR: written weights differ a little", "export/targets/nir/write.py", "weight = node.weight.astype(np.float64)\n",
          "weight = node.weight.astype(np.float64) * 1.01\n",
          "tests/cli/test_nir_cli.py::test_checkpoint_to_nir_to_netx_is_the_shipped_network"),
    Fault("NetX: delays of a dense layer ignored", "export/targets/netx/read.py",
          'delay=_delay(layer, weight, where) if "delay" in layer else None', "delay=None", "tests/golden/test_lava_dl_vectors.py"),
    Fault("torch engine: decay one too large", "hw_sim/engines/torch_engine.py", "keep_u=per_channel(4096 - np.asarray(lif.i_decay",
          "keep_u=per_channel(4095 - np.asarray(lif.i_decay", "tests/golden/test_lava_dl_vectors.py"),
    Fault("event engine: decay one too large", "hw_sim/engines/event/neurons.py", "layout.spread(4096 - spread(lif.i_decay",
          "layout.spread(4095 - spread(lif.i_decay", "tests/golden/test_lava_dl_vectors.py"),
    Fault("event engine: truncation", "hw_sim/engines/event/vectors.py", "builder.ashr(builder.add(old, fraction), leak)",
          "builder.ashr(old, leak)", "tests/conformance/test_relays.py"),
    *(Fault(f"event engine: {what}", f"hw_sim/engines/event/{file}.py", old, new, WIDE)
      for what, file, old, new in (
        ("words of the input", "kernels", "index = place[k * 8 + (lowest_bit(word) >> 3)]",
         "index = place[k * 8 + (lowest_bit(word) >> 4)]"),
        ("pixels of the input", "kernels", "ev[next_of[pixel]] = pixel * channels + c", "ev[next_of[pixel]] = pixel * channels"),
        ("pixels indexed", "kernels", "limit = (y * width + x + 1) * cp", "limit = (y * width + x + 1) * cp - 1"),
        ("scattered rows", "kernels", "base = (ev[e] - pixel * c_in) * w_row", "base = (ev[e] - pixel * c_in) * c_out"),
        ("groups", "kernels", "o += begin + to[c]", "o += begin"),
        ("parts of a layer", "kernels", "o = tap_out[q] - offset", "o = tap_out[q]"),
        ("gathered runs", "kernels", "xb = min(xa + run, width)", "xb = min(xa + kw, width)"),
        ("left border", "kernels", "tap, xa = j - xa, 0", "tap, xa = j, 0"),
        ("delays", "kernels", "if slot % steps < delay:", "if slot < delay:"),
        ("rest between windows", "kernels", "        if slot % steps == 0:\n            v[:] = 0\n        i, p, a", "        i, p, a"),
        ("repeating parameters", "kernels", "if p == period:", "if p > period:"),
        ("wrap", "kernels", "wrapped = current - 2 * limit if", "wrapped = current - limit if"),
        ("clip", "kernels", "min(max(potential, 1 - limit), limit - 1)", "max(potential, 1 - limit)"),
        ("recurrence", "kernels", "ptr[2 * slot - 2], ptr[2 * slot - 1], 0, most)", "ptr[2 * slot - 2], ptr[2 * slot - 2], 0, most)"),
        ("pooled places", "kernels", "fired[(slot - first) * n + tap_out[q]] = 1", "fired[(slot - first) * n + tap_out[q]] ^= 1"),
        ("counts", "kernels", "out[c * pixels + p] += counts[p * cp + c]", "out[c * pixels + p] = counts[p * cp + c]"),
        ("threshold", "vectors", 'icmp_signed(">", new', 'icmp_signed(">=", new'),
        ("flush of 16 bits", "plan", "return 32767 // max(1, _largest(weight))", "return 32767"),
    )),
    Fault("faults: children are not killed", "deploy/lava/runtime.py", "                actor.kill()", "                pass",
          "tests/runtime/test_lava_faults.py::test_fault_is_explained_and_cleaned_up[sleep-3-time limit of 3 s exceeded]"),
    Fault("faults: a dead child is not noticed", "deploy/lava/runtime.py", "self._failure = self._dead_child()", "pass",
          "tests/runtime/test_lava_faults.py::test_interrupting_deploy[child:5-3-killed by SIGKILL]"),
    Fault("faults: variables stay in Lava's register", "deploy/lava/runtime.py", "(ProcessServer().processes, VarServer().vars)",
          "(ProcessServer().processes,)", "tests/runtime/test_lava_faults.py::test_runs_leave_nothing_behind"),
    Fault("faults: a signal during the swap of two bundles", "models/files/writing.py",
          "    with undisturbed():\n        if target", "    if True:\n        if target",
          "tests/runtime/test_stages.py::test_interrupting_the_rename"),
    Fault("hostile: links followed", "models/files/hdf5.py", "if not isinstance(link, h5py.HardLink):", "if False:",
          "tests/unit/test_hostile_files.py::test_netx_files_that_lie[soft link]"),
    Fault("hostile: tensors larger than their record", "models/files/torch_archive.py", "if math.prod(self.size) > len(values):",
          "if False:",
          "tests/unit/test_hostile_files.py::test_contents_no_checkpoint_needs"),
    Fault("hostile: names leave the bundle", "export/bundle/reader.py", "not _SAFE_NAME.fullmatch(name) or ", "",
          "tests/unit/test_hostile_files.py::test_files_outside_the_bundle"),
    Fault("S-CMRL: training pools the mean of spikes", "models/network.py", "functional.max_pool2d(", "functional.avg_pool2d(",
          "tests/unit/test_wiring.py::test_training_equals_float_graph_equals_integers[patch_stem, pooled]"),
    Fault("wiring: one threshold for all neurons", "export/frontend.py", "p.v_decay, p.v_th_mant), sources", "p.v_decay, 128), sources",
          "tests/unit/test_wiring.py::test_training_equals_float_graph_equals_integers[conv]"),
    Fault("heads: a step too many is counted", "models/heads/rate.py", "[..., :counted]", "[..., : counted + 1]",
          "tests/unit/test_heads.py::test_rate_counts_spikes"),
    Fault("heads: a modality is weighed against itself", "training/strategies/balance.py", "if n != m] or [own]", "] or [own]",
          "tests/unit/test_balance.py::test_any_number_of_modalities"),
    Fault("version 2: blocks counted from 0", "models/version2.py", "str(int(p) + 1)", "str(int(p))", "tests/unit/test_version2.py"),
    Fault("own code: imported before it is allowed", "models/checkpoint.py",
          'require_known_code(path, content.get("config"), own_code)', "pass",
          "tests/cli/test_modalities.py::test_no_import_before_it_is_allowed"),
    Fault("own windows: labels of the wrong window", "training/data.py", "self.labels[keep]", "self.labels[keep[::-1]]",
          "tests/unit/test_arrays.py"),
    Fault("overflow: half the fan-in", "hw_sim/intervals.py", "which(node.weight, 0).sum(1, dtype=np.int64)",
          "which(node.weight, 0).sum(1, dtype=np.int64) // 2",
          "tests/unit/test_intervals.py"),
    Fault("overflow: wraps not counted", "hw_sim/engines/torch_engine.py", "wraps += int(torch.count_nonzero(a != wide))", "pass",
          "tests/unit/test_intervals.py"),
    Fault("life after Lava: Lava imported at the top", "export/targets/netx/read.py", "import h5py\n", "import h5py\nimport lava.lib\n",
          "tests/unit/test_without_lava.py"),
    Fault("compiler: a pooling neuron misses single spikes", "export/passes/pool.py", "*node.kernel), RELAY_WEIGHT, np.int32)",
          "*node.kernel), 1, np.int32)", "tests/unit/test_pool_passes.py"),
    Fault("compiler: relays above the kernel's centre", "export/passes/maps.py", "columns, at, identity",
          "columns, (at[0] - 1, at[1]), identity", "tests/conformance/test_three_way.py"),
)  # fmt: skip


def outcome(tree: Path, test: str) -> int:
    """pytest's exit code with ``taaf`` taken from ``tree``."""
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "long or not long", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True).returncode


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose description contains this")
    args = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(prefix="taaf-planted-") as folder:
        for room in ROOMS:
            shutil.copytree(ROOT / room, Path(folder) / "taaf" / room)
        for fault in (f for f in FAULTS if args.only in f.what):
            path = Path(folder) / "taaf" / fault.file
            sound = path.read_text()
            assert sound.count(fault.old) == 1, f"{fault.what}: {fault.file} has changed"
            path.write_text(sound.replace(fault.old, fault.new))
            try:
                found = outcome(Path(folder), fault.test)
            finally:
                path.write_text(sound)
            missed += found != 1
            print("noticed" if found == 1 else f"MISSED ({found})", fault.what, "-", fault.test, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
