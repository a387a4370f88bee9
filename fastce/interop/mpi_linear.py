"""The last layer with its vocabulary over ranks: chunks of rows, with one exchange of statistics each."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop.mpi_ranks import Array, Ranks, Record, check_samples, fingerprint, first_class

BLOCK_BYTES = 1 << 22  # of the gradient of weights that is added to at a time


class LinearCrossEntropy(fastce.LinearCrossEntropy[Any]):
    """A loss and its gradients, whose by-products come from the merged statistics."""

    call: "LinearCall"

    @property
    def lse(self) -> Array:
        """The log-sum-exp of every sample."""
        return self.call.lse()

    @property
    def z_loss(self) -> Any:
        """The part of the squared log-sum-exp in the loss."""
        return self.call.z_part()


class LinearCall:
    """One call: its checked arguments, and the merged statistics of the samples that count."""

    def __init__(
        self,
        arrays: dict[str, Any],
        target: npt.ArrayLike,
        *,
        comm: Any,
        start: int | None,
        grad_output: npt.ArrayLike | None,
        max_bytes: int,
        options: dict[str, Any],
    ) -> None:
        self.ranks, self.options, self.max_bytes = Ranks(comm), options, max_bytes
        record = self.ranks.attempt(lambda: self._take(arrays, target, start, grad_output))
        self.shares = self.ranks.agree(record)
        # all ranks have the same target, so a bad label is an error of all
        no_classes = np.empty((*self.shape, 0), self.dtype)
        ignore_index = options["ignore_index"]
        fastce.shards.statistics(no_classes, self.target, classes=self.shares.classes, ignore_index=ignore_index)
        labels = self.target.reshape(-1).astype(np.int64, copy=False)
        counts = np.ones(len(labels), bool) if ignore_index is None else labels != ignore_index
        if self.sample_weight is not None:
            counts &= self.sample_weight != 0.0
        self._count(labels, counts)

    def _count(self, labels: Array, counts: Array) -> None:
        """Keep the samples that count, their labels and the sum of their weights, with room for their statistics."""
        factors = counts.astype(np.float64)
        if self.sample_weight is not None:
            factors[counts] = self.sample_weight[counts]
        if self.class_weight is not None:
            of_labels, has_any = self._label_weights(labels)
            with np.errstate(all="ignore"):
                factors[counts] *= of_labels[counts]
            if not self.options["z_loss"] and not (self.options["label_smoothing"] and has_any):
                counts &= of_labels != 0.0
        self.total_weight = float(np.sum(factors))
        self.counted = np.flatnonzero(counts)
        self.labels = labels[self.counted]
        self.stats = np.empty((self.rows, len(self.counted)))

    def _label_weights(self, labels: Array) -> tuple[Array, bool]:
        """Return the class weight of each label, of whichever rank has it, and whether any class has a weight."""
        sums = np.zeros(len(labels) + 2)  # the last is the status
        here = np.flatnonzero((labels >= self.shares.start) & (labels < self.shares.stop))
        assert self.class_weight is not None
        sums[here] = self.class_weight[labels[here] - self.shares.start]
        sums[-2] = self.class_weight.any()
        self.ranks.add(sums)
        return sums[:-2], sums[-2] != 0.0

    def _take(
        self, arrays: dict[str, Any], target: npt.ArrayLike, start: int | None, grad_output: npt.ArrayLike | None
    ) -> Record:
        """Check the arguments of this rank and keep them; return what the others have to know."""
        given = {name: np.asanyarray(array) for name, array in arrays.items() if array is not None}
        hidden, weight, self.target = given["hidden"], given["weight"], np.asanyarray(target)
        if hidden.ndim == 0 or weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
            raise ValueError(
                "weight_shard must have shape (C, D) for hidden of shape (..., D), "
                f"got {weight.shape} and {hidden.shape}"
            )
        self.shape = hidden.shape[:-1]
        if self.target.shape != self.shape:
            raise ValueError(
                f"target must have a class index for each row of hidden, shape {self.shape}, got {self.target.shape}"
            )
        self._check(given, grad_output)
        self.given = {name: np.asarray(array) for name, array in given.items()}
        hidden, weight = self.given["hidden"], self.given["weight"]
        count = math.prod(self.shape)
        self.hidden = hidden.reshape(count, -1 if count else hidden.shape[-1]).astype(self.dtype, copy=False)
        self.weight = weight.astype(self.dtype, copy=False)
        self.bias, self.class_weight, self.sample_weight = (
            None if values is None else np.asarray(values).astype(self.dtype, copy=False).reshape(-1)
            for values in (arrays["bias"], arrays["class_weight"], self.options["sample_weight"])
        )
        self.sums = np.zeros(self.hidden.size + 1, self.dtype)  # of d_hidden; the last is the status
        self.gradients = {"hidden": self.sums[:-1].reshape(self.hidden.shape), "weight": np.zeros_like(self.weight)}
        if self.bias is not None:
            self.gradients["bias"] = np.zeros_like(self.bias)
        self.upstream = np.asarray(1.0 if grad_output is None else grad_output, np.float64)
        self.rows = 7 if self.class_weight is not None or self.options["label_smoothing"] else 4
        return Record(
            len(weight),
            first_class(start, len(weight)),
            count,
            self.rows,
            fingerprint(self.dtype.name, hidden.dtype.name, str(hidden.shape)),
            fingerprint(self.target) if self.target.dtype.kind in "iu" else 0,
            fingerprint("linear", *self.options.values(), grad_output, self.max_bytes),
        )

    def _check(self, given: dict[str, Any], grad_output: npt.ArrayLike | None) -> None:
        """Have fastce check all but the shapes and the labels, by calls without rows or without classes."""
        options = {name: value for name, value in self.options.items() if name != "sample_weight"}
        vectors: dict[str, Any] = {name: given.get(name) for name in ("bias", "class_weight")}
        no_rows = np.empty_like(given["hidden"], shape=(0, given["hidden"].shape[-1]))  # masked if hidden is
        loss = fastce.linear_cross_entropy(
            no_rows, given["weight"], np.empty(0, np.int64), max_bytes=self.max_bytes, **vectors, **options
        )
        self.dtype = np.asarray(loss).dtype
        check_samples(
            self.target,
            self.dtype,
            sample_weight=self.options["sample_weight"],
            reduction=self.options["reduction"],
            grad_output=grad_output,
        )

    # --- the result ---------------------------------------------------------------

    def solve(self) -> LinearCrossEntropy:
        """Return the loss and the gradients."""
        self.denominator = self._denominator()
        gradients = self.gradients
        with np.errstate(all="ignore"):  # infinite and NaN logits have results as well
            chunks = self._chunks()
            for part in chunks:
                self._run(part, gradients, is_only=len(chunks) == 1)
            self.ranks.add(self.sums)
            for name, gradient in gradients.items():
                given = self.given[name]
                dtype = self.dtype if given.dtype.kind in "iub" else given.dtype.newbyteorder("=")
                gradients[name] = gradient.reshape(given.shape).astype(dtype, copy=False)
            result = LinearCrossEntropy(self._loss(), gradients["hidden"], gradients["weight"], gradients.get("bias"))
        del self.given, self.hidden, self.weight, self.sums, self.gradients  # by-products need the statistics alone
        result.call = self
        return result

    def _denominator(self) -> float:
        """Return the denominator of a mean, 1 for other reductions."""
        if self.options["reduction"] != "mean":
            return 1.0
        if self.options["normalizer"] is not None:
            return float(self.options["normalizer"])
        return self.total_weight

    def _chunks(self) -> list[slice]:
        """Cut the samples that count so that the logits of the widest shard fit; all ranks cut alike."""
        count = len(self.counted)
        most = max(self.max_bytes // max(self.shares.widest * self.dtype.itemsize, 1), 1)
        step = max(-(-count // max(-(-count // most), 1)), 1)
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def _run(self, part: slice, gradients: dict[str, Array], *, is_only: bool) -> None:
        """Compute the statistics and the gradients of some samples."""
        rows, labels = self.counted[part], self.labels[part]
        of_shard = self.shares.arguments(self.class_weight, self.options)
        hidden = logits = np.empty(0)

        def write(stats: Array) -> None:
            nonlocal hidden, logits
            hidden = self.hidden if len(rows) == len(self.hidden) else self.hidden[rows]
            logits = hidden @ self.weight.T
            if self.bias is not None:
                logits += self.bias
            fastce.shards.statistics(logits, labels, out=stats, **of_shard)

        stats = self.ranks.merge(write, (self.rows, len(rows)), self.shares)
        self.stats[:, part] = stats

        def differentiate() -> None:
            upstream = self.upstream.reshape(-1)[rows] if self.upstream.ndim else self.upstream
            grad = fastce.shards.cross_entropy_grad(
                logits,
                labels,
                stats,
                sample_weight=None if self.sample_weight is None else self.sample_weight[rows],
                z_loss=self.options["z_loss"],
                reduction="none" if self.upstream.ndim else "sum",
                grad_output=upstream / self.denominator,
                out=logits,
                **of_shard,
            )
            self._pass_back(grad, hidden, rows, gradients, is_only)

        self.ranks.attempt(differentiate)

    def _pass_back(self, grad: Array, hidden: Array, rows: Array, gradients: dict[str, Array], is_only: bool) -> None:
        """Add the gradients of the layer's arguments, by that of some logits."""
        gradients["hidden"][rows] = grad @ self.weight
        if "bias" in gradients:
            gradients["bias"] += grad.sum(axis=0)
        if not np.isfinite(hidden).all():  # 0 times infinity is NaN, but a sample without a gradient adds 0
            hidden = np.where(grad.any(axis=1, keepdims=True), hidden, 0)
        d_weight = gradients["weight"]
        if is_only:
            np.matmul(grad.T, hidden, out=d_weight)
            return
        step = max(BLOCK_BYTES // max(hidden.shape[1] * hidden.itemsize, 1), 1)
        for start in range(0, len(d_weight), step):
            d_weight[start : start + step] += grad[:, start : start + step].T @ hidden

    def _loss(self) -> Any:
        """Return the loss of all samples, by the statistics of those that count."""
        weights = None if self.sample_weight is None else self.sample_weight[self.counted]
        names = ("ignore_index", "label_smoothing", "z_loss", "reduction", "normalizer")
        options = {name: self.options[name] for name in names}
        loss = fastce.shards.cross_entropy(self.stats, self.labels, dtype=self.dtype, sample_weight=weights, **options)
        if self.options["reduction"] != "none":
            return loss
        return self._spread(loss, 0.0)[()]

    # --- by-products --------------------------------------------------------------

    def lse(self) -> Array:
        """Return the log-sum-exp of every sample, NaN where there is no softmax."""
        lse = fastce.shards.logsumexp(self.stats, self.dtype)
        return self._spread(np.where(np.isfinite(lse), lse, np.nan), np.nan)

    def z_part(self) -> Any:
        """Return the z-loss, reduced as the loss; samples without a softmax add nothing."""
        with np.errstate(all="ignore"):
            terms = np.nan_to_num(self.lse().astype(np.float64)) ** 2 * float(self.options["z_loss"])
            if self.sample_weight is not None:
                terms *= self.sample_weight.reshape(self.shape)
            if self.options["reduction"] == "none":
                return terms.astype(self.dtype)[()]
            return self.dtype.type(np.float64(terms.sum()) / self.denominator)

    def _spread(self, values: npt.ArrayLike, fill: float) -> Array:
        """Return values of the samples that count in the shape of all, ``fill`` for the others."""
        everywhere = np.full(math.prod(self.shape), fill, self.dtype)
        everywhere[self.counted] = values
        return everywhere.reshape(self.shape)
