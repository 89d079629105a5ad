"""Vector operations that Numba has no words for: LLVM vectors, which become AVX-512, AVX2, SSE2 or NEON on each machine.

Plain loops over the same arrays keep their partial sums in memory instead of registers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I1, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _at(builder: Any, pointer: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index], inbounds=True), vector.as_pointer())


def _load(builder: Any, pointer: Any, align: int) -> Any:
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder: Any, value: Any, pointer: Any, align: int) -> None:
    builder.store(value, pointer).align = align


def make_add(lanes: int) -> Any:
    """``acc[i : i + lanes] += w[j : j + lanes]``, both int16 or both int32."""

    @intrinsic
    def add(_typing: Any, acc: Any, i: Any, w: Any, j: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = _I16 if sig.args[0].dtype.bitwidth == 16 else _I32
            vector, align = ir.VectorType(kind, lanes), kind.width // 8
            to = _at(builder, _data(context, builder, sig.args[0], args[0]), args[1], vector)
            row = _at(builder, _data(context, builder, sig.args[2], args[2]), args[3], vector)
            _store(builder, builder.add(_load(builder, to, align), _load(builder, row, align)), to, align)
            return context.get_dummy_value()

        return types.none(acc, types.int64, w, types.int64), codegen

    return add


def make_gather(lanes: int) -> Any:
    """``acc[i : i + lanes] += sum of rows w[j + (ev[e] + base) stride :][:lanes]`` over e in [start, end).

    acc int32, w int16. Partial sums stay in int16 registers for at most ``most`` rows, then go to int32.
    """

    @intrinsic
    def gather(
        _typing: Any, acc: Any, i: Any, w: Any, j: Any, stride: Any, ev: Any, start: Any, end: Any, base: Any, most: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            acc_data, w_data, ev_data = (_data(context, builder, sig.args[k], args[k]) for k in (0, 2, 5))
            _, i, _, j, stride, _, start, end, base, most = args
            short, wide = ir.VectorType(_I16, lanes), ir.VectorType(_I32, lanes)
            rows = builder.gep(w_data, [builder.add(j, builder.mul(base, stride))])
            to = _at(builder, acc_data, i, wide)
            entry = builder.block
            outer, inner, flush, finish, done = (
                builder.append_basic_block(name) for name in ("outer", "inner", "flush", "finish", "done")
            )
            first = _load(builder, to, 4)
            builder.cbranch(builder.icmp_signed("<", start, end), outer, done)
            builder.position_at_end(outer)
            begin, total = builder.phi(_I64), builder.phi(wide)
            begin.add_incoming(start, entry)
            total.add_incoming(first, entry)
            limit = builder.add(begin, most)
            stop = builder.select(builder.icmp_signed("<", limit, end), limit, end)
            builder.branch(inner)
            builder.position_at_end(inner)
            event, part = builder.phi(_I64), builder.phi(short)
            event.add_incoming(begin, outer)
            part.add_incoming(ir.Constant(short, [0] * lanes), outer)
            index = builder.sext(_load(builder, builder.gep(ev_data, [event]), 4), _I64)
            row = _at(builder, rows, builder.mul(index, stride), short)
            summed = builder.add(part, _load(builder, row, 2))
            following = builder.add(event, ir.Constant(_I64, 1))
            event.add_incoming(following, inner)
            part.add_incoming(summed, inner)
            builder.cbranch(builder.icmp_signed("<", following, stop), inner, flush)
            builder.position_at_end(flush)
            new_total = builder.add(total, builder.sext(summed, wide))
            begin.add_incoming(following, flush)
            total.add_incoming(new_total, flush)
            builder.cbranch(builder.icmp_signed("<", following, end), outer, finish)
            builder.position_at_end(finish)
            _store(builder, new_total, to, 4)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        i64 = types.int64
        return types.none(acc, i64, w, i64, i64, ev, i64, i64, i64, i64), codegen

    return gather


def make_fire(lanes: int) -> Any:
    """LIF of ``lanes`` neurons without current memory whose leak keeps 2^-leak of v; the mask of those that spike.

    ``v <- tz(v / 2^leak) + (acc << shift) + bias``, 0 where it exceeds the threshold; ``acc <- 0``.
    """

    @intrinsic
    def fire(_typing: Any, acc: Any, ai: Any, v: Any, vi: Any, bias: Any, th: Any, at: Any, leak: Any, shift: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind, wide = (_I16 if sig.args[0].dtype.bitwidth == 16 else _I32), ir.VectorType(_I32, lanes)
            currents = ir.VectorType(kind, lanes)

            def splat(value: Any) -> Any:
                nothing = ir.Constant(wide, ir.Undefined)
                one = builder.insert_element(nothing, builder.trunc(value, _I32), ir.Constant(_I32, 0))
                return builder.shuffle_vector(one, nothing, ir.Constant(wide, [0] * lanes))

            data = {k: _data(context, builder, sig.args[k], args[k]) for k in (0, 2, 4, 5)}
            from_acc, at_v = _at(builder, data[0], args[1], currents), _at(builder, data[2], args[3], wide)
            biases, thresholds = (_at(builder, data[k], args[6], wide) for k in (4, 5))
            current = _load(builder, from_acc, kind.width // 8)
            current = builder.sext(current, wide) if kind is _I16 else current
            leak, shift = splat(args[7]), splat(args[8])
            old, one = _load(builder, at_v, 4), ir.Constant(wide, [1] * lanes)
            sign = builder.ashr(old, ir.Constant(wide, [31] * lanes))
            fraction = builder.and_(sign, builder.sub(builder.shl(one, leak), one))  # toward zero, also below it
            new = builder.ashr(builder.add(old, fraction), leak)
            new = builder.add(builder.add(new, builder.shl(current, shift)), _load(builder, biases, 4))
            fired = builder.icmp_signed(">", new, _load(builder, thresholds, 4))
            _store(builder, builder.select(fired, ir.Constant(wide, [0] * lanes), new), at_v, 4)
            _store(builder, ir.Constant(currents, [0] * lanes), from_acc, kind.width // 8)
            return builder.zext(builder.bitcast(fired, ir.IntType(lanes)), _I64)

        i64 = types.int64
        return i64(acc, i64, v, i64, bias, th, i64, i64, i64), codegen

    return fire


@intrinsic
def lowest_bit(_typing: Any, x: Any) -> Any:
    """Position of the lowest set bit of a non-zero int64."""

    def codegen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(_I1, 1))

    return types.int64(types.int64), codegen
