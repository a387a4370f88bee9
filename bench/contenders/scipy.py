"""SciPy's functions."""

from functools import partial

from scipy import special

from bench.cases import Op
from bench.inputs import calls

CALLS = calls(
    {
        Op.SOFTMAX: partial(special.softmax, axis=1),
        Op.LOG_SOFTMAX: partial(special.log_softmax, axis=1),
        Op.LSE: partial(special.logsumexp, axis=1),
    }
)
