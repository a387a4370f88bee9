"""SciPy's functions."""

from functools import partial

from scipy import special

from bench.cases import Op
from bench.inputs import Calls

CALLS: Calls = {
    Op.SOFTMAX: lambda i: partial(special.softmax, i.logits, axis=1),
    Op.LOG_SOFTMAX: lambda i: partial(special.log_softmax, i.logits, axis=1),
    Op.LSE: lambda i: partial(special.logsumexp, i.logits, axis=1),
}
