"""``--to netx``: a verified bundle of NetX files."""

import argparse


def export(args: argparse.Namespace) -> int:
    """Write the bundle; returns the exit code."""
    from taaf.export.commands.bundle import bundle_command

    return bundle_command(args)
