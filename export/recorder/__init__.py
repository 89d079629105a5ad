"""The recorder: a torch module of lava-dl SLAYER parts, run once on an example, becomes integer-stage graphs.

>>> from taaf.export.recorder import record
>>> recording = record(net, {"event": x})        # x (N, C, H, W, T), zeros and ones
>>> recording.graphs["event"], recording.lags["event"]
>>> evidence = recording.trace({"event": windows})   # SLAYER's spikes of every population

`values` are what flows between neurons (linear forms of spikes), `modules` and `functions` say what each SLAYER part and each
torch function does to them, `builder` writes nodes, `host` is what stays behind the chip, `evidence` what SLAYER answers.
"""

from taaf.export.recorder.evidence import Evidence
from taaf.export.recorder.host import HostPart
from taaf.export.recorder.record import Recording, record

__all__ = ["Evidence", "HostPart", "Recording", "record"]
