"""Bags of visual words: what came before convolutional networks, as frozen layers.

An image becomes a histogram of "words" (Csurka et al. 2004). A descriptor of each place, of the orientations of the
gradients in 4 x 4 cells around it (SIFT, Lowe 2004; Dalal and Triggs 2005), is assigned to the nearest of a few hundred
words, to one ("hard") or to several by their distance ("soft", van Gemert et al. 2010). The assignments are summed, or
their maximum is taken, over the cells of a spatial pyramid (Lazebnik, Schmid and Ponce 2006).

The words are learned by k-means from the descriptors of training images, without their labels (`learn_words`). They are
the weights of a 1 x 1 convolution: the squared distance of a descriptor x to a word w is |x|^2 - (2 x.w - |w|^2), and
the convolution gives the part in parentheses. All other layers have no weights.

The histograms are mapped to features whose inner product is close to an additive kernel, histogram intersection or
chi-squared (Vedaldi and Zisserman 2012, "Efficient additive kernels via explicit feature maps"), so that a linear head
acts as a support vector machine or a logistic regression with that kernel. The solver standardises features, so the
kernel's components get other weights than the paper's.

Everything is written with Keras' own layers and `keras.ops`, so a `.keras` file of such a classifier loads without
tlkit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlkit.backbones.backbone import Backbone
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.devices import one_thread
from tlkit.errors import SpecError

if TYPE_CHECKING:
    import keras
    import numpy as np

    from tlkit.data.examples import Examples

ORIENTATIONS = 8
SHARPNESS = 3  # the response to an orientation is the cosine to the power 9 = 3 ** 2
PATCH = 4  # cells along each side of a descriptor
CONTRAST = 0.02  # the norm of a patch's cells below which its descriptor fades, of gradients of pixels in 0-1
CLIPPED = 0.2  # the largest entry of a normalised descriptor (Lowe 2004)
FAINTEST = 1e-6  # the square of the least gradient that has a direction
RAREST = 1e-7  # the least share of a word; like FAINTEST it is above 0 in float16
MARGIN = 1e-3  # of squared distance, within which words share a descriptor in hard assignment
LUMA = (0.299, 0.587, 0.114)
OPPONENT = (  # van de Sande, Gevers and Snoek 2010
    (2**-0.5, -(2**-0.5), 0.0),
    (6**-0.5, 6**-0.5, -2 * 6**-0.5),
    (3**-0.5, 3**-0.5, 3**-0.5),
)
PERIODS = {"chi2": 0.5, "intersection": 0.5}  # the steps at which a kernel's spectrum is sampled
IMAGES, DESCRIPTORS = 500, 100  # from which words are learned: so many of each of so many images
BATCH = 32
KERNELS = ("linear", "hellinger", *PERIODS)
POOLINGS = ("sum", "max")
COLOURS = ("grey", "opponent")


@dataclass(frozen=True)
class BagOfWords:
    """A bag of visual words.

    words: their number.
    soft: assign a descriptor to all words by the softmax of their negative squared distances, or to the nearest alone.
        So that rounding cannot change an answer, words within MARGIN of the nearest share it in proportion.
    pooling: "sum", shares of all descriptors; or "max" (Boureau et al. 2010).
    levels: of the pyramid, whose finest grid has 2 ** (levels - 1) cells along each side.
    kernel: "linear", of L2-normalised histograms; "hellinger", of their square roots (Arandjelovic and Zisserman 2012);
        "intersection" or "chi2", with three features for each entry.
    colour: gradients of "grey" or of three "opponent" channels.
    cell: pixels along each side of a cell; descriptors are one cell apart.
    sharpness: of soft assignment: the softmax is taken of -sharpness d^2 / m, where m is the mean squared distance of a
        descriptor to its nearest word. It is part of the weights, so random words ignore it.
    """

    words: int = 200
    soft: bool = True
    pooling: str = "sum"
    levels: int = 2
    kernel: str = "chi2"
    colour: str = "grey"
    cell: int = 6
    sharpness: float = 10.0

    def __post_init__(self) -> None:
        for name, known in (("pooling", POOLINGS), ("kernel", KERNELS), ("colour", COLOURS)):
            if getattr(self, name) not in known:
                raise SpecError(f"BagOfWords.{name} is '{getattr(self, name)}'. Expected one of {', '.join(known)}.")
        for name, least in (("words", 2), ("levels", 1), ("cell", 1)):
            if getattr(self, name) < least:
                raise SpecError(f"BagOfWords.{name} is {getattr(self, name)}. Expected {least} or more.")

    @property
    def numbers(self) -> int:
        """The number of entries of a descriptor."""
        return PATCH**2 * ORIENTATIONS * (1 if self.colour == "grey" else 3)

    @property
    def parameters(self) -> int:
        """The number of weights: a word has its entries and its squared norm."""
        return self.words * (self.numbers + 1)

    @property
    def smallest(self) -> int:
        """The smallest image, in pixels: one descriptor for each cell of the finest grid."""
        return self.cell * (PATCH - 1 + 2 ** (self.levels - 1))

    def __call__(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Apply it to pixels in 0-1, shape (n, size, size, 3). Returns features, shape (n, features)."""
        import keras

        x = self.descriptors(inputs)
        initial = keras.initializers.RandomNormal(stddev=1.0)
        x = keras.layers.Conv2D(self.words, 1, kernel_initializer=initial, dtype="float32", name="words")(x)
        return _mapped(_pyramid(self._assigned(x), self.pooling, self.levels), self.kernel)

    def descriptors(self, inputs: Any) -> Any:
        """Return the descriptors, shape (n, rows, columns, numbers), L2 norm at most 1, of pixels in 0-1."""
        import keras

        ops = keras.ops
        colours = (LUMA,) if self.colour == "grey" else OPPONENT
        channels = [sum(share * inputs[..., c : c + 1] for c, share in enumerate(row)) for row in colours]
        cells = keras.layers.AveragePooling2D(self.cell, self.cell, dtype="float32", name="cells")(
            ops.concatenate([_orientations(one) for one in channels], axis=-1)
        )
        rows, columns = (side - PATCH + 1 for side in cells.shape[1:3])
        shifts = [(i, j) for i in range(PATCH) for j in range(PATCH)]
        x = ops.concatenate([cells[:, i : i + rows, j : j + columns] for i, j in shifts], axis=-1)
        x = ops.minimum(_normed(x, CONTRAST), CLIPPED)
        # dividing by CLIPPED's norm keeps the fading of faint patches
        return keras.layers.Activation("linear", dtype="float32", name="descriptors")(_normed(x, CLIPPED))

    def _assigned(self, x: Any) -> Any:
        """Return the share of each word in each descriptor; shares add up to 1."""
        import keras

        ops = keras.ops
        if self.soft:
            return ops.softmax(x, axis=-1)
        near = ops.relu(1 + (x - ops.max(x, axis=-1, keepdims=True)) / MARGIN)
        return near / ops.sum(near, axis=-1, keepdims=True)


def _orientations(channel: Any) -> Any:
    """Return the gradient's magnitude in each of ORIENTATIONS directions, shape (n, rows, columns, orientations)."""
    import keras

    ops = keras.ops
    across = ops.pad(channel[:, :, 2:] - channel[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    down = ops.pad(channel[:, 2:] - channel[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    magnitude = ops.sqrt(across * across + down * down + FAINTEST)
    angles = [2 * math.pi * k / ORIENTATIONS for k in range(ORIENTATIONS)]
    towards = ops.concatenate([across * math.cos(a) + down * math.sin(a) for a in angles], axis=-1)
    cosine = ops.relu(towards / magnitude)
    for _ in range(2):
        cosine = cosine * cosine * cosine
    return cosine * magnitude


def _normed(x: Any, least: float) -> Any:
    """Divide by the L2 norm; vectors shorter than about `least` become shorter than 1."""
    import keras

    return x / keras.ops.sqrt(keras.ops.sum(x * x, axis=-1, keepdims=True) + least**2)


def _pyramid(x: Any, pooling: str, levels: int) -> Any:
    """Pool shares, shape (n, rows, columns, words), over the cells of a pyramid: shape (n, cells * words)."""
    import keras

    ops = keras.ops
    rows, columns = x.shape[1:3]
    reduce = ops.max if pooling == "max" else lambda one, axis: ops.sum(one, axis=axis)
    join = ops.maximum if pooling == "max" else ops.add
    fine = 2 ** (levels - 1)
    edges = [[round(k * side / fine) for k in range(fine + 1)] for side in (rows, columns)]
    bands = [reduce(x[:, low:high], axis=1) for low, high in zip(edges[0], edges[0][1:], strict=False)]
    grid = [
        [reduce(band[:, low:high], axis=1) for low, high in zip(edges[1], edges[1][1:], strict=False)] for band in bands
    ]
    found: list[Any] = []
    while True:
        found = [cell for row in grid for cell in row] + found
        if len(grid) == 1:
            break
        half = range(0, len(grid), 2)
        grid = [
            [join(join(grid[i][j], grid[i][j + 1]), join(grid[i + 1][j], grid[i + 1][j + 1])) for j in half]
            for i in half
        ]
    pooled = ops.concatenate(found, axis=-1) if len(found) > 1 else found[0]
    return pooled if pooling == "max" else pooled / (rows * columns)


def _mapped(x: Any, kernel: str) -> Any:
    """Map histograms, shape (n, entries), 0 or more, to features whose inner product is the kernel."""
    import keras

    ops = keras.ops
    if kernel == "linear":
        return _normed(x, 1e-3)
    x = x / ops.sum(x, axis=-1, keepdims=True) + RAREST  # so that the root and the logarithm have slopes
    if kernel == "hellinger":
        return ops.sqrt(x)
    return additive_map(x, kernel)


def additive_map(x: Any, kernel: str) -> Any:
    """Map entries above 0, shape (n, entries), to 3 * entries features, whose inner product is close to a kernel's sum.

    kernel: "chi2", 2 x y / (x + y), or "intersection", min(x, y).

    Such a kernel is sqrt(x y) times a function of log(x / y), which is a sum of cosines weighed by its spectrum,
    1 / cosh(pi s) or 2 / (pi (1 + 4 s^2)). It is sampled at 0 and at one step (Vedaldi and Zisserman, section 4).
    """
    import keras

    ops, step = keras.ops, PERIODS[kernel]
    at_zero, at_step = (1.0, 1 / math.cosh(math.pi * step))
    if kernel == "intersection":
        at_zero, at_step = (2 / (math.pi * (1 + 4 * s**2)) for s in (0.0, step))
    root, phase = ops.sqrt(x), step * ops.log(x)
    wave = root * math.sqrt(2 * step * at_step)
    return ops.concatenate([root * math.sqrt(step * at_zero), wave * ops.cos(phase), wave * ops.sin(phase)], axis=-1)


def learn_words(backbone: Backbone, examples: Examples, seed: int) -> dict[str, np.ndarray]:
    """Learn the words from training images, by mini-batch k-means (Sculley 2010).

    At most IMAGES images are taken, and DESCRIPTORS descriptors of each. The same images in another order give the same
    words.

    Returns:
        The arrays of the layer "words", by their paths: a kernel of 2 s w and a bias of -s |w|^2 for each word w, where
        s is 1 for hard assignment, else `sharpness` over the mean squared distance of a descriptor to its nearest word.
    """
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    bag = backbone.builder.network  # type: ignore[attr-defined]
    found = _some_descriptors(backbone, examples, seed)
    with one_thread():
        settings = {"batch_size": 2048, "max_iter": 50, "n_init": 1, "random_state": seed}
        words = MiniBatchKMeans(min(bag.words, len(found)), **settings).fit(found).cluster_centers_
    words = np.resize(words, (bag.words, found.shape[1])).astype("float64")  # repeated where descriptors are too few
    norms = (words**2).sum(axis=1)
    scale = 1.0
    if bag.soft:
        nearest = ((found**2).sum(axis=1) + (norms - 2 * found @ words.T).min(axis=1)).clip(0)
        scale = bag.sharpness / max(float(nearest.mean()), 1e-6)
    kernel = (2 * scale * words.T)[None, None]
    return {"words/kernel": kernel.astype("float32"), "words/bias": (-scale * norms).astype("float32")}


def _some_descriptors(backbone: Backbone, examples: Examples, seed: int) -> np.ndarray:
    """Draw descriptors of some images: float32, shape (n, numbers)."""
    import keras
    import numpy as np

    random = np.random.default_rng((seed, 5))
    order = np.argsort(np.array(examples.keys), kind="stable")
    chosen = random.permutation(order)[:IMAGES]
    inputs, features = backbone.build(examples.pixels.row_shape[0])
    described = keras.Model(inputs, keras.Model(inputs, features).get_layer("descriptors").output)
    found = []
    for start in range(0, len(chosen), BATCH):
        images = examples.pixels.gather(chosen[start : start + BATCH])
        rows = np.asarray(described(images.astype("float32"), training=False))  # a few batches: not worth tracing
        for one in rows.reshape(len(rows), -1, rows.shape[-1]):
            found.append(one[random.permutation(len(one))[:DESCRIPTORS]])
    return np.concatenate(found).astype("float32")


def _row(name: str, bag: BagOfWords) -> Backbone:
    return Backbone(
        name=name,
        builder=NormalisedNetwork("unit", bag),
        size=128,
        smallest=bag.smallest,
        boundaries=(),
        year=2004,
        parameters=bag.parameters,
        frozen_because="its words are found by k-means, not by gradients",
        learn=learn_words,
    )


# fmt: off
ROWS = tuple(
    _row(name, bag)
    for name, bag in {
        "bag_of_words": BagOfWords(),
        "bag_of_words_hard": BagOfWords(soft=False),
        "bag_of_words_max": BagOfWords(pooling="max"),
        "bag_of_words_flat": BagOfWords(levels=1),
        "bag_of_words_linear": BagOfWords(kernel="linear"),
        "bag_of_words_min": BagOfWords(kernel="intersection"),
    }.items()
)
# fmt: on
