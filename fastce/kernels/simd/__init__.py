"""The SIMD value: arithmetic, memory, transposition and mathematical functions.

Each vector function is documented in one form: a sentence that says what it returns or does. Then, where there is more
to say:

- Types: valid arguments. *Floats* is a value of float32 or float64, *integers* one of int32 or int64, and *mask* one of
  booleans. Other arguments are scalars, pointers or arrays. ``like`` stands for a value of its type, of which only the
  type counts.
- Error: the greatest one, in ulp of the exact result. Without this line, results are exact or correctly rounded.
- Range: valid inputs. Without this line, all inputs are valid, infinities and NaN included.
"""
