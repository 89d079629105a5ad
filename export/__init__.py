"""From trained networks to verified bundles, and the taaf-export command.

The face, imported when first used: `to_bundle` (a torch module of one's own, its windows and labels -> a bundle), `record_network`
and `RecordedNetwork` (the same in two steps), `TrainedNetwork` and `export_netx` (checkpoints of taaf-train), `read_bundle` and
`compile_graph`.
"""

from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.export.bundle.reader import Bundle, read_bundle
    from taaf.export.checkpointed import TrainedNetwork
    from taaf.export.netx_bundle import ExportResult, export_netx
    from taaf.export.own import record_network, to_bundle
    from taaf.export.passes import compile_graph
    from taaf.export.recorded import RecordedNetwork

__all__ = [
    "Bundle",
    "ExportResult",
    "RecordedNetwork",
    "TrainedNetwork",
    "compile_graph",
    "export_netx",
    "read_bundle",
    "record_network",
    "to_bundle",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "to_bundle": "taaf.export.own",
        "record_network": "taaf.export.own",
        "RecordedNetwork": "taaf.export.recorded",
        "TrainedNetwork": "taaf.export.checkpointed",
        "ExportResult": "taaf.export.netx_bundle",
        "export_netx": "taaf.export.netx_bundle",
        "read_bundle": "taaf.export.bundle.reader",
        "Bundle": "taaf.export.bundle.reader",
        "compile_graph": "taaf.export.passes",
    },
)
