"""Which Python has Lava: lava-nc 0.10.0 and lava-dl 0.6.0 are their last releases and end at 3.10.

Networks of one's own made of SLAYER parts, and the backends ``sim`` and ``loihi2`` need them. Everything else (training, exports of
what was trained, the IR and its passes, the exact engine, ``--backend fast``, reports, pictures) runs on newer Pythons too.
"""

import sys

LAST = (3, 10)


def lava_remedy() -> str:
    """What to do where Lava cannot be imported: another Python, installing what belongs to this one, or docstrings."""
    if sys.flags.optimize >= 2:
        return "lava-dl works on docstrings at import, and Python runs without them; unset PYTHONOPTIMIZE (it is 2), or leave out -OO"
    if sys.version_info[:2] > LAST:
        here = ".".join(map(str, sys.version_info[:2]))
        return f"Lava needs Python 3.10, this is Python {here}; use `uv run --python 3.10`"
    return "it needs Python 3.10 and `uv sync`"
