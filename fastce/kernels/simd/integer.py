"""The smaller and the larger of two integers.

Numba compiles ``min`` and ``max`` as functions, anew for each kernel. That would take a twentieth of its first call.
"""

from numba import types
from numba.extending import intrinsic


@intrinsic
def smaller(typingctx, a, b):
    """Return the smaller of two integers."""
    return _choose("<", a, b)


@intrinsic
def larger(typingctx, a, b):
    """Return the larger of two integers."""
    return _choose(">", a, b)


def _choose(comparison, a, b):
    if not (isinstance(a, types.Integer) and isinstance(b, types.Integer)):
        return None  # a typing error; Numba would cut floats down to integers

    def codegen(context, builder, sig, args):
        return builder.select(builder.icmp_signed(comparison, *args), *args)

    return types.intp(types.intp, types.intp), codegen
