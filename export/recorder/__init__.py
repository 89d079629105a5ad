"""The recorder: a torch module of lava-dl SLAYER parts, run once on an example, becomes integer-stage graphs.

>>> from taaf.export.recorder import record
>>> recording = record(net, {"event": x})        # x (N, C, H, W, T), zeros and ones
>>> recording.graphs["event"], recording.lags["event"]
>>> evidence = recording.trace({"event": windows})   # SLAYER's spikes of every population

`values` are what flows between neurons (linear forms of spikes, by `maps`), `modules`, `functions` and `pooling` say what each
SLAYER part and each torch function does to them, `mode` watches the one run, `builder` writes nodes, `host` is what stays behind the
chip, `evidence` what SLAYER answers, `replay` leaves the user's module as it was.
"""

from taaf.export.recorder.evidence import Evidence
from taaf.export.recorder.host import HostPart
from taaf.export.recorder.record import record
from taaf.export.recorder.recording import Recording

__all__ = ["Evidence", "HostPart", "Recording", "record"]
