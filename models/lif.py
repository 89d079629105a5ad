"""A LIF population as the chip takes it: its parameters, and what its synapses and biases can hold."""

from dataclasses import dataclass

WEIGHT_MIN, WEIGHT_MAX = -256, 254  # even integers: 8-bit mantissa, exponent 1
BIAS_LIMIT = 4095  # 13-bit signed mantissa, symmetric


@dataclass(frozen=True)
class LifParameters:
    """Chip-side parameters of one LIF population (NetX names).

    Attributes
    ----------
    i_decay : int
        Current decay, 1..4096; 4096 means no current memory (the paper's Eq. 1).
    v_decay : int
        Voltage decay, 0..4096; ``tau = 1 - v_decay / 4096``, so tau 0.5 is 2048.
    v_th_mant : int
        Threshold mantissa, 1..131071; the neuron fires when ``v > v_th_mant * 64``.
    """

    i_decay: int = 4096
    v_decay: int = 2048
    v_th_mant: int = 64
