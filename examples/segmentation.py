"""Segmentation in float16, with an ignored class
==============================================

A model labels every pixel of an image: background, disc or square. The outlines are ambiguous, so they are labelled
255, which ``ignore_index`` leaves out. Logits are float16 in the layout (image, class, row, column).

Install ``pip install . matplotlib``.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastce

IMAGES, SIZE, CLASSES, IGNORED = 16, 48, 3, 255
WINDOW = 9

# %%
# Each image has a disc and a square of noisy grey levels.


def draw(rng):
    """Return an image, and its labels with outlines of 255."""
    row, column = np.mgrid[:SIZE, :SIZE]
    (y1, y2), (x1, x2) = rng.integers(10, SIZE - 10, 2), (rng.integers(9, 14), rng.integers(34, 39))
    disc = np.hypot(row - y1, column - x1) - 8
    square = np.maximum(abs(row - y2), abs(column - x2)) - 7
    labels = np.select([disc < 0, square < 0], [1, 2], 0)
    image = np.array([0.2, 0.6, 0.9])[labels] + rng.normal(0, 0.35, labels.shape)
    labels[np.minimum(abs(disc), abs(square)) < 1.5] = IGNORED
    return image.astype(np.float32), labels.astype(np.uint8)


rng = np.random.default_rng(0)
images, labels = (np.stack(parts) for parts in zip(*(draw(rng) for _ in range(IMAGES)), strict=True))
print(f"{labels.size:,} pixels, {np.mean(labels == IGNORED):.1%} of them ignored")

# %%
# The features of a pixel are its grey level, and the mean, its square and the spread of the pixels around it. The model
# is one layer on top.

padded = np.pad(images, ((0, 0), (WINDOW // 2, WINDOW // 2), (WINDOW // 2, WINDOW // 2)), mode="edge")
windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW), axis=(1, 2))
around = windows.reshape(*images.shape, -1)
mean = around.mean(axis=-1)
features = np.stack([images, mean, mean**2, around.std(axis=-1)], axis=-1)
features = (features - features.mean(axis=(0, 1, 2))) / features.std(axis=(0, 1, 2))

weights = np.zeros((CLASSES, features.shape[-1]), np.float32)
bias = np.zeros(CLASSES, np.float32)
shape = (IMAGES, CLASSES, SIZE, SIZE)
grad = np.empty(shape, np.float32)

# %%
# The mean over all pixels makes elements of the gradient small, and float16 rounds numbers below 3e-8 to zero. So
# ``out`` is a float32 array: the logits keep 16 bits, and their gradient keeps its digits.

for step in range(100):
    logits = np.einsum("nhwf,cf->nchw", features, weights, optimize=True) + bias[:, None, None]
    logits = logits.astype(np.float16)
    loss, _ = fastce.cross_entropy_and_grad(logits, labels, axis=1, ignore_index=IGNORED, out=grad)
    weights -= 3 * np.einsum("nchw,nhwf->cf", grad, features, optimize=True)
    bias -= 3 * grad.sum(axis=(0, 2, 3))
    if step % 33 == 0:
        print(f"step {step:2}   loss {loss:.4f}")

result = fastce.evaluate(logits, labels, axis=1, ignore_index=IGNORED)
lost = np.count_nonzero(grad) - np.count_nonzero(grad.astype(np.float16))
print(f"{result.accuracy:.1%} of {result.count:,} pixels are right")
print(f"in float16, {lost / grad.size:.1%} of the gradient would be rounded to zero")

# %%
# The gradient of ignored pixels is exactly zero. The prediction has a class for them too.

assert not np.moveaxis(grad, 1, -1)[labels == IGNORED].any()

pictures = {
    "image": images[0],
    "labels, outlines ignored": np.ma.masked_equal(labels[0], IGNORED),
    "prediction": logits[0].argmax(axis=0),
}
figure, panels = plt.subplots(1, 3, figsize=(8, 4), layout="constrained")
for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
    axes.imshow(picture, cmap="gray" if title == "image" else "viridis")
    axes.set_title(title)
    axes.axis("off")
plt.show()
