"""The event engine's kernels.

Neurons lie pixel by pixel with their channels side by side, padded to ``cp`` channels: index ``pixel cp + channel``. A slot is
one time step of one window, ``slot = window steps + step``. The spikes of a layer are a list ``ev`` of indices, slot by slot, and
``ptr`` (slots, rows, width + 1): in row r of a slot, the spikes of pixel x are ``ev[ptr[slot, r, x] : ptr[slot, r, x + 1]]``. Rows
may lie anywhere in ``ev``. A layer that nobody reads by pixel has one row of width 1.

Accumulating kernels add the weights of arriving spikes to ``acc`` (slots from ``first`` on, n); `fire` and `lif` make spikes of it.
Weights are whole or halved (``shift`` 6 or 7), so that ``u`` gains ``acc << shift`` = 64 a(t).
"""

import numpy as np

from taaf.hw_sim.engines.event import vectors
from taaf.hw_sim.engines.event.vectors import lowest_bit, make_add, make_fire, make_gather
from taaf.models.kernels.jit import Compiler, inlined

kernel = Compiler("the event engine's kernels", __file__, vectors.__file__).kernel
_add8, _add16 = make_add(8), make_add(16)
_fire32 = make_fire(32)
_gather32, _gather64, _gather128 = make_gather(32), make_gather(64), make_gather(128)
_EVENTS, _I16, _I32, _I64, _BYTES = "i4[::1]", "i2[::1]", "i4[::1]", "i8[::1]", "u1[::1]"


@kernel(f"i8({_I64}, i8, i8, i8, i8, i8, {_I32}, {_EVENTS}, {_I64}, {_I64})")
def input_words(words, n, steps, size, window_stride, step_stride, place, ev, ptr, counts):  # type: ignore[no-untyped-def]
    """Spikes of an input given as bytes, eight at a time; one row per slot, in the order of the bytes."""
    at = 0
    for window in range(n):
        for step in range(steps):
            ptr[2 * (window * steps + step)] = at
            begin = window * window_stride + step * step_stride
            for k in range(size):
                word = words[begin + k]
                while word:
                    index = place[k * 8 + (lowest_bit(word) >> 3)]
                    ev[at] = index
                    counts[index] += 1
                    at += 1
                    word &= word - 1
            ptr[2 * (window * steps + step) + 1] = at
    return at


@kernel(f"i8({_I64}, i8, i8, i8, i8, i8, i8, i8, i8, {_I64}, {_EVENTS}, {_I64}, {_I64})")
def input_pixels(  # type: ignore[no-untyped-def]
    words, n, steps, size, window_stride, step_stride, channels, height, width, next_of, ev, ptr, counts
):
    """Spikes of an input map, channel after channel, sorted by pixel: counted, then placed."""
    at, pixels = 0, height * width
    for window in range(n):
        for step in range(steps):
            begin = window * window_stride + step * step_stride
            next_of[:] = 0
            for place in range(2):
                c = plane = 0
                for k in range(size):
                    word = words[begin + k]
                    while word:
                        position = k * 8 + (lowest_bit(word) >> 3)
                        while position >= plane + pixels:
                            c += 1
                            plane += pixels
                        pixel = position - plane
                        if place:
                            ev[next_of[pixel]] = pixel * channels + c
                            counts[pixel * channels + c] += 1
                        next_of[pixel] += 1
                        word &= word - 1
                if place == 0:
                    for y in range(height):
                        row = ((window * steps + step) * height + y) * (width + 1)
                        for x in range(width):
                            ptr[row + x] = at
                            more = next_of[y * width + x]
                            next_of[y * width + x] = at
                            at += more
                        ptr[row + width] = at
    return at


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, {_I64})")
def index_pixels(ev, rows_ptr, slots, height, width, cp, ptr):  # type: ignore[no-untyped-def]
    """From one row per slot, in rising order, to pixels."""
    for slot in range(slots):
        at, end = rows_ptr[2 * slot], rows_ptr[2 * slot + 1]
        for y in range(height):
            row = (slot * height + y) * (width + 1)
            ptr[row] = at
            for x in range(width):
                limit = (y * width + x + 1) * cp
                while at < end and ev[at] < limit:
                    at += 1
                ptr[row + x + 1] = at


def _scatter(ev, ptr, rows, width, first, last, c_in, tap_ptr, tap_out, tap_w, w, w_row, c_out, acc, n):  # type: ignore[no-untyped-def]  # noqa: PLR0912
    """Convolution by fan-out: for every spike and kernel tap, ``c_out`` (a multiple of 8) weights are added."""
    wide, odd = c_out // 16 * 16, c_out % 16 == 8
    channels = np.uint32(c_in)
    for slot in range(first, last):
        begin = (slot - first) * n
        for r in range(rows):
            row = (slot * rows + r) * (width + 1)
            for e in range(ptr[row], ptr[row + width]):
                pixel = np.int64(np.uint32(ev[e]) // channels)
                base = (ev[e] - pixel * c_in) * w_row
                start, end = tap_ptr[pixel], tap_ptr[pixel + 1]
                if wide == 16 and not odd:
                    for q in range(start, end):
                        _add16(acc, begin + tap_out[q], w, base + tap_w[q])
                elif wide == 16:
                    for q in range(start, end):
                        o, j = begin + tap_out[q], base + tap_w[q]
                        _add16(acc, o, w, j)
                        _add8(acc, o + 16, w, j + 16)
                elif wide == 0:
                    for q in range(start, end):
                        _add8(acc, begin + tap_out[q], w, base + tap_w[q])
                else:
                    for q in range(start, end):
                        o, j = begin + tap_out[q], base + tap_w[q]
                        for k in range(0, wide, 16):
                            _add16(acc, o + k, w, j + k)
                        if odd:
                            _add8(acc, o + wide, w, j + wide)


_SCATTER = f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, i8, {_I32}, {_I32}, {_I32}, %s, i8, i8, %s, i8)"
scatter16 = kernel(_SCATTER % (_I16, _I16))(_scatter)
scatter32 = kernel(_SCATTER % (_I32, _I32))(_scatter)


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, i8, {_I32}, {_I32}, {_I32}, {_I32}, {_I32}, i8, i8, {_I32}, i8, i8)")
def scatter_groups(  # type: ignore[no-untyped-def]
    ev, ptr, rows, width, first, last, c_in, tap_ptr, tap_out, tap_w, to, w, w_row, c_out, acc, n, offset
):
    """Convolution in groups by fan-out: channel c reaches ``c_out`` channels from ``to[c]`` on; neurons outside acc are left out."""
    for slot in range(first, last):
        begin = (slot - first) * n
        for r in range(rows):
            row = (slot * rows + r) * (width + 1)
            for e in range(ptr[row], ptr[row + width]):
                pixel = ev[e] // c_in
                c = ev[e] - pixel * c_in
                for q in range(tap_ptr[pixel], tap_ptr[pixel + 1]):
                    o = tap_out[q] - offset
                    if o < 0 or o >= n:
                        continue
                    j = c * w_row + tap_w[q]
                    o += begin + to[c]
                    for k in range(c_out):
                        acc[o + k] += w[j + k]


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, i8, {_I16}, {_I64}, i8, i8, i8, i8, i8, i8, {_I32})")
def gather_conv(  # type: ignore[no-untyped-def]
    ev, ptr, height, width, first, last, c_in, w, how, y0, y1, w_out, c_out, block, most, acc
):
    """Convolution by fan-in, rows y0 .. y1 of the output: for every output pixel, the spikes of the pixels that it reads.

    ``w`` (c_out / block, kh, kw, c_in, block). Neighbouring pixels of a row are one run of spikes, unless dilated.
    """
    kh, kw, sy, sx, py, px, dy, dx = how[0], how[1], how[2], how[3], how[4], how[5], how[6], how[7]
    run = kw if dx == 1 else 1
    for b in range(c_out // block):
        w_block = b * kh * kw * c_in * block
        for slot in range(first, last):
            for y in range(y0, y1):
                for x in range(w_out):
                    o = (((slot - first) * (y1 - y0) + y - y0) * w_out + x) * c_out + b * block
                    for i in range(kh):
                        yi = y * sy - py + i * dy
                        if yi < 0 or yi >= height:
                            continue
                        row = (slot * height + yi) * (width + 1)
                        for j in range(0, kw, run):
                            xa = x * sx - px + j * dx
                            xb = min(xa + run, width)
                            tap = j
                            if xa < 0:
                                tap, xa = j - xa, 0
                            if xa >= xb:
                                continue
                            base = (i * kw + tap) * c_in - (yi * width + xa) * c_in
                            if block == 64:
                                _gather64(acc, o, w, w_block, 64, ev, ptr[row + xa], ptr[row + xb], base, most)
                            else:
                                _gather32(acc, o, w, w_block, 32, ev, ptr[row + xa], ptr[row + xb], base, most)


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, i8, i8, {_I16}, i8, i8, {_I32})")
def gather_dense(ev, ptr, rows, width, steps, delay, first, last, w, n, most, acc):  # type: ignore[no-untyped-def]
    """A matrix, w (sources, n), n a multiple of 32; spikes arrive ``delay`` steps later, none after the window."""
    k = 0
    while k < n:
        lanes = 128 if k + 128 <= n else 32
        for slot in range(first, last):
            if slot % steps < delay:
                continue
            o = (slot - first) * n + k
            for r in range(rows):
                row = ((slot - delay) * rows + r) * (width + 1)
                if lanes == 128:
                    _gather128(acc, o, w, k, n, ev, ptr[row], ptr[row + width], 0, most)
                else:
                    _gather32(acc, o, w, k, n, ev, ptr[row], ptr[row + width], 0, most)
        k += lanes


def _fire(  # type: ignore[no-untyped-def]
    acc, v, bias, th, leak, shift, steps, first, last, rows, width, cp, ev, at, ptr, counts, all_rows, row0
):
    """Neurons without current memory, of one leak 2^-leak, whose u and v cannot leave 24 bits; a pixel has cp, a multiple of 32.

    ``bias`` and ``th`` hold 64 times both for as many neurons as repeat. The layer's part begins in row ``row0``.
    """
    n, period, base = rows * width * cp, len(bias), row0 * width * cp
    for slot in range(first, last):
        if slot % steps == 0:
            v[:] = 0
        i, p, a = 0, 0, (slot - first) * n
        for y in range(rows):
            row = (slot * all_rows + row0 + y) * (width + 1)
            for x in range(width):
                ptr[row + x] = at
                for _ in range(0, cp, 32):
                    mask = _fire32(acc, a + i, v, i, bias, th, p, leak, shift)
                    while mask:
                        index = base + i + lowest_bit(mask)
                        ev[at] = index
                        counts[index] += 1
                        at += 1
                        mask &= mask - 1
                    i += 32
                    p += 32
                    if p == period:
                        p = 0
            ptr[row + width] = at
    return at


_FIRE = f"i8(%s, {_I32}, {_I32}, {_I32}, i8, i8, i8, i8, i8, i8, i8, i8, {_EVENTS}, i8, {_I64}, {_I64}, i8, i8)"
fire16, fire32 = kernel(_FIRE % _I16)(_fire), kernel(_FIRE % _I32)(_fire)


@inlined
def _collect(words, n, row, width, cp, base, ev, at, ptr, counts):  # type: ignore[no-untyped-def]
    """Spikes of n bytes, eight a word, rows of ``width`` pixels of ``cp`` (a multiple of 8); the words are cleared."""
    word_at = 0
    per_row = width * cp
    for _ in range(n // per_row):
        for x in range(width):
            ptr[row + x] = at
            for _ in range(cp // 8):
                word = words[word_at]
                while word:
                    index = base + word_at * 8 + (lowest_bit(word) >> 3)
                    ev[at] = index
                    counts[index] += 1
                    at += 1
                    word &= word - 1
                words[word_at] = 0
                word_at += 1
        ptr[row + width] = at
        row += width + 1
    return at


def _lif(  # type: ignore[no-untyped-def]
    acc, u, v, keep_u, keep_v, bias, th, shift, w_rec, most, fired, words, steps, first, last, rows, width, cp, ev, at, ptr, counts,
    all_rows, row0, saturated,
):  # fmt: skip
    """Any neurons: current memory, any leak, wrap and clip of 24 bits (counted in ``saturated``), recurrence (w_rec not empty)."""
    n = rows * width * cp
    limit = 1 << 23
    for slot in range(first, last):
        begin = (slot - first) * n
        if slot % steps == 0:
            u[:] = 0
            v[:] = 0
        elif len(w_rec):
            for k in range(0, n, 32):
                _gather32(acc, begin + k, w_rec, k, n, ev, ptr[2 * slot - 2], ptr[2 * slot - 1], 0, most)
        wraps = clips = 0
        for i in range(n):
            kept = u[i] * keep_u[i]
            current = ((kept + ((kept >> 63) & 4095)) >> 12) + (np.int64(acc[begin + i]) << shift)
            wrapped = current - 2 * limit if current > limit else (current + 2 * limit if current <= -limit else current)
            wraps += wrapped != current
            u[i] = wrapped
            left = v[i] * keep_v[i]
            potential = ((left + ((left >> 63) & 4095)) >> 12) + wrapped + bias[i]
            clipped = min(max(potential, 1 - limit), limit - 1)
            clips += clipped != potential
            spike = clipped > th[i]
            v[i] = 0 if spike else clipped
            fired[i] = spike
            acc[begin + i] = 0
        saturated[0] += wraps
        saturated[1] += clips
        row = (slot * all_rows + row0) * (width + 1)
        at = _collect(words, n, row, width, cp, row0 * width * cp, ev, at, ptr, counts)
    return at


_LIF = (
    f"i8(%s, {_I64}, {_I64}, {_I64}, {_I64}, {_I64}, {_I64}, i8, {_I16}, i8, {_BYTES}, {_I64}, i8, i8, i8, i8, i8, i8, {_EVENTS}, "
    f"i8, {_I64}, {_I64}, i8, i8, {_I64})"
)
lif16, lif32 = kernel(_LIF % _I16)(_lif), kernel(_LIF % _I32)(_lif)


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, i8, {_I32}, {_I32}, {_BYTES}, i8)")
def mark(ev, ptr, rows, width, first, last, tap_ptr, tap_out, fired, n):  # type: ignore[no-untyped-def]
    """Spikes that stand elsewhere: ``tap_out[tap_ptr[i] : tap_ptr[i + 1]]`` are the places of spike i (pooled, concatenated)."""
    for slot in range(first, last):
        for r in range(rows):
            row = (slot * rows + r) * (width + 1)
            for e in range(ptr[row], ptr[row + width]):
                for q in range(tap_ptr[ev[e]], tap_ptr[ev[e] + 1]):
                    fired[(slot - first) * n + tap_out[q]] = 1


@kernel(f"i8({_I64}, i8, i8, i8, i8, i8, {_EVENTS}, i8, {_I64}, {_I64})")
def collect(words, first, last, rows, width, cp, ev, at, ptr, counts):  # type: ignore[no-untyped-def]
    """Spikes of marked bytes (slots, n), which are cleared."""
    n = rows * width * cp
    for slot in range(first, last):
        begin = (slot - first) * n
        row = slot * rows * (width + 1)
        at = _collect(words[begin // 8 : (begin + n) // 8], n, row, width, cp, 0, ev, at, ptr, counts)
    return at


@kernel(f"void({_EVENTS}, {_I64}, i8, i8, i8, {_I32}, {_BYTES}, i8)")
def to_bytes(ev, ptr, slots, rows, width, place, out, size):  # type: ignore[no-untyped-def]
    """Spikes as bytes, out (slots, size), at ``place[index]``."""
    for slot in range(slots):
        for r in range(rows):
            row = (slot * rows + r) * (width + 1)
            for e in range(ptr[row], ptr[row + width]):
                out[slot * size + place[ev[e]]] = 1


@kernel(f"void({_I64}, i8, i8, i8, {_I64})")
def add_counts(counts, pixels, cp, channels, out):  # type: ignore[no-untyped-def]
    """Counts by index, which are cleared, added to ``out`` (channels, pixels); some pixels at a time, which stay in the cache."""
    for first in range(0, pixels, 64):
        last = min(pixels, first + 64)
        for c in range(channels):
            for p in range(first, last):
                out[c * pixels + p] += counts[p * cp + c]
        counts[first * cp : last * cp] = 0
