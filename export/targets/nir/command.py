"""``--to nir``: the integer graphs as a NIR file."""

import argparse


def export(args: argparse.Namespace) -> int:
    """Write the file; returns the exit code."""
    from taaf.export.commands.nir import to_nir_file

    return to_nir_file(args)
