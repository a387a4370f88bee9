"""Draw cross-entropy and its gradient against the probability of the true class.

Two-class logits (z, 0) with the first class true give it the probability
p = 1 / (1 + exp(-z)). One call returns every point's loss, -ln p, and the gradient with
respect to both logits: p - 1 for the true class, 1 - p for the other.

    python examples/loss_curve.py                  writes loss_curve.png
    python examples/loss_curve.py --out curve.svg  or any format matplotlib knows
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastce

BLUE, ORANGE, GREY = "#1f5fa8", "#c8551b", "#666666"


def curve(points):
    """Compute the loss and its gradient at evenly spaced logits.

    Parameters
    ----------
    points : int
        How many logits to take between -6 and 6.

    Returns
    -------
    probability : ndarray of shape (points,)
        Predicted probability of the true class.
    loss : ndarray of shape (points,)
        Cross-entropy in nats.
    grad : ndarray of shape (points, 2)
        Gradient of each loss with respect to the true and the other class's logit.
    """
    logits = np.zeros((points, 2))
    logits[:, 0] = np.linspace(-6, 6, points)
    target = np.zeros(points, dtype=np.intp)
    loss, grad = fastce.cross_entropy_and_grad(logits, target, reduction="none")
    return fastce.softmax(logits)[:, 0], loss, grad


def draw(probability, loss, grad):
    """Draw the loss on the left and both logits' gradients on the right.

    Parameters
    ----------
    probability, loss, grad : ndarray
        As :func:`curve` returns them.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, not yet written.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)

    left.plot(probability, loss, color=BLUE, linewidth=2)
    left.set_title("Cross-entropy")
    left.set_ylabel("loss (nats)")
    left.set_ylim(0, 6)
    chance = np.log(2)
    left.plot(0.5, chance, "o", color=BLUE)
    left.annotate("undecided: ln 2", (0.5, chance), (8, 10), textcoords="offset points")
    left.annotate("sure and wrong:\nno upper limit", (0.07, 5.1), color=GREY)
    left.annotate("sure and right:\ntends to 0", (0.97, 1.4), color=GREY, ha="right")

    right.plot(probability, grad[:, 0], color=BLUE, linewidth=2)
    right.plot(probability, grad[:, 1], color=ORANGE, linewidth=2)
    right.set_title("Gradient with respect to the logits")
    right.set_ylabel("gradient")
    right.set_ylim(-1.05, 1.05)
    right.axhline(0, color=GREY, linewidth=0.8)
    right.annotate("other class: 1 − p", (0.5, 0.5), (8, 6), textcoords="offset points", color=ORANGE)
    right.annotate("true class: p − 1", (0.5, -0.5), (8, -14), textcoords="offset points", color=BLUE)

    for axes in (left, right):
        axes.set_xlabel("predicted probability p of the true class")
        axes.set_xlim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def main():
    """Compute the curves, draw them and write the picture."""
    parser = argparse.ArgumentParser(description="Draw cross-entropy and its gradient.")
    parser.add_argument("--out", type=Path, default=Path("loss_curve.png"), help="the picture to write")
    parser.add_argument("--quick", action="store_true", help="fewer points, a smaller picture")
    options = parser.parse_args()

    figure = draw(*curve(41 if options.quick else 401))
    figure.savefig(options.out, dpi=80 if options.quick else 160)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
