"""Settings of functions and dataclasses: what is allowed is said once, what is not is refused with the nearest that is."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from taaf.models.errors import ConfigError
from taaf.models.settings import Count, Fraction, NotNegative, Range, keywords, read_dataclass, read_settings


def wire(
    x: object, /, *, channels: int = 8, levels: Annotated[int, Range(0, 64, power_of_two=True)] = 0,
    halvings: Annotated[int, Range(1, 4)] = 3, how: Literal["stride", "max_pool"] = "stride", kernels: tuple[int, ...] = (3, 3),
    alpha: Annotated[float, Range(1 / 64, 2, grid=1 / 64)] = 1.5, rate: float = 0.1, drop: Fraction = 0.0, warm: Count = 0,
    decay: NotNegative = 0.01, pool: bool = False, name: str = "a",
) -> None:  # fmt: skip
    """A network with every kind of setting."""


def test_what_is_left_out_is_the_default() -> None:
    """Positional-only arguments are no settings; lists become tuples, whole numbers floats where floats are meant."""
    assert "x" not in keywords(wire)
    found = read_settings(wire, {"channels": 4, "kernels": [5, 1], "rate": 1, "alpha": 2}, "t")
    assert found == {
        "channels": 4, "levels": 0, "halvings": 3, "how": "stride", "kernels": (5, 1), "alpha": 2.0, "rate": 1.0, "drop": 0.0,
        "warm": 0, "decay": 0.01, "pool": False, "name": "a",
    }  # fmt: skip
    assert type(found["rate"]) is type(found["alpha"]) is float


@pytest.mark.parametrize(
    ("table", "mention"),
    [
        ({"channel": 4}, r"t\.channel: unknown key; did you mean 'channels'\?"),
        ({"zzz": 4}, r"t\.zzz: unknown key; allowed: channels, levels, .*name$"),
        ({"channels": 0}, r"t\.channels \(=0\): allowed 1 to 65536"), ({"channels": 65537}, "allowed 1 to 65536"),
        ({"channels": 2.0}, "expected int, found float"), ({"channels": True}, "expected int, found bool"),
        ({"channels": "8"}, r"t\.channels \(='8'\): expected int, found str"), ({"channels": 10**400}, "allowed 1 to 65536"),
        ({"levels": 24}, r"levels \(=24\): allowed powers of two from 0 to 64"), ({"levels": 128}, "powers of two"),
        ({"levels": -2}, "powers of two"), ({"halvings": 5}, "allowed 1 to 4"), ({"halvings": 0}, "allowed 1 to 4"),
        ({"how": "maxpool"}, r"how \(='maxpool'\): unknown; did you mean 'max_pool'\?"),
        ({"how": "MAX_POOL"}, "did you mean 'max_pool'"), ({"how": 3}, "unknown; allowed: stride, max_pool"),
        ({"how": []}, "unknown; allowed: stride, max_pool"), ({"kernels": 3}, "expected whole numbers from 1 to 65536 in brackets"),
        ({"kernels": [3, 0]}, "in brackets"), ({"kernels": [3.0]}, "in brackets"), ({"kernels": [True]}, "in brackets"),
        ({"alpha": 0.3}, "allowed multiples of 0.015625 from 0.015625 to 2"), ({"alpha": 0}, "multiples of"), ({"alpha": 3}, "to 2"),
        ({"rate": 0.0}, r"must be above 0, up to 1e\+09"), ({"rate": -1}, "above 0"), ({"rate": 2e9}, "up to"),
        ({"rate": math.nan}, r"rate \(=nan\): must be finite"), ({"alpha": math.inf}, "must be finite"),
        ({"rate": 10**400}, "above 0, up to"), ({"rate": "x"}, "expected float, found str"), ({"rate": None}, "found NoneType"),
        ({"drop": 1.1}, "allowed 0 to 1"), ({"warm": -1}, "allowed 0 to 65536"), ({"decay": -0.1}, r"allowed 0 to 1e\+09"),
        ({"pool": 1}, "expected bool, found int"), ({"name": 1}, "expected str, found int"),
    ],
)  # fmt: skip
def test_refusals(table: dict[str, Any], mention: str) -> None:
    """The key, what was found, what is allowed; long values are cut."""
    with pytest.raises(ConfigError, match=mention) as error:
        read_settings(wire, table, "t")
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "edges",
    [{"levels": 0}, {"levels": 1}, {"levels": 64}, {"alpha": 1 / 64}, {"drop": 1.0}, {"drop": 0}, {"rate": 1e9}, {"channels": 65536},
     {"halvings": 4}, {"warm": 65536}, {"kernels": []}],
)  # fmt: skip
def test_ends_of_ranges_are_allowed(edges: dict[str, Any]) -> None:
    ((key, value),) = edges.items()
    assert read_settings(wire, edges, "t")[key] == (tuple(value) if isinstance(value, list) else value)


def test_a_table_is_needed() -> None:
    with pytest.raises(ConfigError, match="head: found list, expected a table"):
        read_settings(wire, [1], "head")  # type: ignore[arg-type]


def test_dataclasses() -> None:
    @dataclass(frozen=True)
    class Options:
        steps: int = 3
        kind: Literal["a", "b"] = "a"

    assert read_dataclass(Options, {"kind": "b"}, "head") == Options(3, "b")
    with pytest.raises(ConfigError, match=r"head\.kind \(='c'\)"):
        read_dataclass(Options, {"kind": "c"}, "head")


def test_annotations_that_cannot_be_looked_up() -> None:
    """A user's function may name types that exist nowhere: its defaults still say the type."""

    def own(x: "Nowhere", *, width: "int" = 3, free: "Nowhere" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Nothing."""

    assert read_settings(own, {"width": 4, "free": [1]}, "t") == {"width": 4, "free": (1,)}
    with pytest.raises(ConfigError, match="expected int"):
        read_settings(own, {"width": "x"}, "t")
