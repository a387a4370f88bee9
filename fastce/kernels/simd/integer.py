"""The smaller and the larger of two integers.

Numba compiles ``min`` and ``max`` as functions, anew for each kernel, which would take a twentieth of its first call.
"""

from numba import types
from numba.extending import intrinsic


@intrinsic
def smaller(typingctx, a, b):
    """Return the smaller of two integers."""
    return _choose("<")


@intrinsic
def larger(typingctx, a, b):
    """Return the larger of two integers."""
    return _choose(">")


def _choose(comparison):
    def codegen(context, builder, sig, args):
        return builder.select(builder.icmp_signed(comparison, *args), *args)

    return types.intp(types.intp, types.intp), codegen
