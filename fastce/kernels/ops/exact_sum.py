"""Sums of float64 numbers without rounding: of integers, as every float is a multiple of the smallest one."""

from fastce.kernels.codegen.jit import kernel

BIN_BITS = 32
BINS = 66  # the largest number reaches into the last one
IS_POSITIVE_INFINITE, IS_NEGATIVE_INFINITE, IS_NAN = 1, 2, 4


@kernel
def exact_sum(bits, bins):
    """Add numbers to ``bins``, where bin k counts multiples of 2**(32 k - 1074), and one more holds flags.

    ``bits`` are the numbers seen as int64, fewer than 2**31, so that no bin overflows. A number that is not finite sets
    its flag instead.
    """
    low_bits = (1 << BIN_BITS) - 1
    first = sum_0 = sum_1 = sum_2 = 0  # of three bins, stored when others are needed: most numbers share theirs
    for i in range(bits.size):
        pattern = bits[i]
        exponent = (pattern >> 52) & 0x7FF
        mantissa = pattern & ((1 << 52) - 1)
        if exponent == 0x7FF:
            infinite = IS_NEGATIVE_INFINITE if pattern < 0 else IS_POSITIVE_INFINITE
            bins[BINS] |= IS_NAN if mantissa else infinite
            continue
        if exponent:
            mantissa |= 1 << 52
            exponent -= 1
        if exponent >> 5 != first:
            bins[first] += sum_0
            bins[first + 1] += sum_1
            bins[first + 2] += sum_2
            first, sum_0, sum_1, sum_2 = exponent >> 5, 0, 0, 0
        sign = pattern >> 63  # 0 or -1: xor and difference with it negate
        low = (mantissa & low_bits) << (exponent & 31)
        high = ((mantissa >> BIN_BITS) << (exponent & 31)) + (low >> BIN_BITS)
        sum_0 += ((low & low_bits) ^ sign) - sign
        sum_1 += ((high & low_bits) ^ sign) - sign
        sum_2 += ((high >> BIN_BITS) ^ sign) - sign
    bins[first] += sum_0
    bins[first + 1] += sum_1
    bins[first + 2] += sum_2
