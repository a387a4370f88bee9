"""The same values in other memory layouts."""

import numpy as np


def _nothing(dtype):
    """What must not be read, of this dtype."""
    return np.array(np.nan if dtype.kind == "f" else -7).astype(dtype)


def _every_other(x, axis):
    """A view with gaps along one axis, which hold NaN (or a bad label) that must not be read."""
    shape = list(x.shape)
    shape[axis] *= 2
    wide = np.full(shape, _nothing(x.dtype))
    index = [slice(None)] * x.ndim
    index[axis] = slice(None, None, 2)
    view = wide[tuple(index)]
    view[...] = x
    return view


def _padded(x):
    wide = np.full((*x.shape[:-1], x.shape[-1] + 3), _nothing(x.dtype))
    view = wide[..., 2:-1]
    view[...] = x
    return view


def _unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def _record_field(x):
    records = np.zeros(x.shape[0], [("name", "S3"), ("values", x.dtype, x.shape[1:])])
    records["values"] = x
    return records["values"]


def _read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _reversed(x, axis):
    return np.flip(np.flip(x, axis).copy(), axis)


LAYOUTS = {
    "C order": np.copy,
    "Fortran order": lambda x: x.copy(order="F"),
    "leading axes swapped": lambda x: x.swapaxes(0, x.ndim // 2).copy().swapaxes(0, x.ndim // 2),
    "every other row": lambda x: _every_other(x, 0),
    "every other class": lambda x: _every_other(x, -1),
    "rows reversed": lambda x: _reversed(x, 0),
    "classes reversed": lambda x: _reversed(x, -1),
    "rows with padding": _padded,
    "unaligned": _unaligned,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "field of records": _record_field,
    "read-only": _read_only,
}
