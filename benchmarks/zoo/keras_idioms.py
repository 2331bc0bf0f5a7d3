"""Networks in the idioms of Keras' own examples and tutorials: layers of one's own, constants, seeds, several inputs, states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from benchmarks.zoo.keras_subject import KerasSubject

_numbers = np.random.default_rng(0)
_IMAGES = _numbers.random((4, 16, 16, 3), np.float32)
_SERIES = _numbers.standard_normal((4, 12, 5)).astype(np.float32)
_WORDS = _numbers.integers(1, 50, (4, 10)).astype(np.int32)
_ROWS = (_numbers.random((8, 6)) * 200).astype(np.float32)


class Patches(layers.Layer):
    """Shapes taken from the tensor, as Keras 3 code has it."""

    def __init__(self, size: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.size = size

    def call(self, images: Any) -> Any:
        batch, height, width, channels = ops.shape(images)
        cut = ops.image.extract_patches(images, size=self.size)
        return ops.reshape(cut, (batch, (height // self.size) * (width // self.size), self.size * self.size * channels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


class Positions(layers.Layer):
    """A learned table, read at positions that the layer counts itself."""

    def __init__(self, length: int, width: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.length, self.width = length, width
        self.table = layers.Embedding(length, width)

    def call(self, x: Any) -> Any:
        return x + self.table(ops.arange(0, self.length))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length, "width": self.width}


class Waves(layers.Layer):
    """A scaled input, and a table of constants that is made in the constructor."""

    def __init__(self, length: int, width: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.length, self.width = length, width
        angles = np.arange(length)[:, None] / 100 ** (np.arange(width) / width)
        self.table = ops.convert_to_tensor(np.sin(angles)[None], "float32")

    def call(self, x: Any) -> Any:
        return x * self.width**0.5 + self.table

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length, "width": self.width}


class ClassToken(layers.Layer):
    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[2]))
        return ops.concatenate([token, x], axis=1)


class Gate(layers.Layer):
    """Half of the channels weigh the other half, after a product over the positions (as gMLP has it)."""

    def __init__(self, positions: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.positions = positions
        self.norm, self.mix = layers.LayerNormalization(), layers.Dense(positions, bias_initializer="ones")

    def call(self, x: Any) -> Any:
        kept, gate = ops.split(x, 2, axis=-1)
        gate = ops.transpose(self.mix(ops.transpose(self.norm(gate), (0, 2, 1))), (0, 2, 1))
        return kept * gate

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "positions": self.positions}


class Sampled(layers.Layer):
    """A draw from a normal distribution, and its distance to the standard one as a loss."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs: Any, training: bool = False) -> Any:
        mean, log_variance = inputs
        self.add_loss(-0.001 * ops.mean(1 + log_variance - ops.square(mean) - ops.exp(log_variance)))
        if not training:
            return mean
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seeds)


class Residual(keras.Model):
    """A subclassed network with its layers in a list."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.first = layers.Conv2D(8, 3, padding="same", use_bias=False)
        self.convolutions = [layers.Conv2D(8, 3, padding="same", use_bias=False) for _ in range(2)]
        self.norms = [layers.BatchNormalization() for _ in range(2)]
        self.head = layers.Dense(10)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.first(x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x + ops.relu(norm(convolution(x), training=training))
        return self.head(ops.mean(x, axis=(1, 2)))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


class OwnStep(keras.Model):
    """A training step of one's own that goes through `compute_loss`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def _block(x: Any, heads: int = 2) -> Any:
    """A transformer's encoder block."""
    width = x.shape[-1]
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(heads, width // heads)(x, x))
    hidden = layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(x))
    return layers.LayerNormalization()(x + layers.Dropout(0.1)(hidden))


def _convolutions() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _augmented() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    for layer in (layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.Rescaling(1 / 2)):
        x = layer(x)
    for width in (8, 16):
        x = layers.SeparableConv2D(width, 3, padding="same")(layers.Activation("relu")(x))
        x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _normalized_rows() -> keras.Model:
    inputs = keras.Input((6,))
    normalization = layers.Normalization()
    normalization.adapt(_ROWS)
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(32, activation="relu")(normalization(inputs))))


def _normalized_series() -> keras.Model:
    x = inputs = keras.Input((12, 5))
    for width in (16, 16):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(width, 3, padding="same")(x)))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def _series_transformer() -> keras.Model:
    inputs = keras.Input((12, 5))
    x = _block(layers.Dense(16)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D(data_format="channels_last")(x)))


def _words(*, dtype: str | None = "int32") -> keras.Model:
    inputs = keras.Input((10,), dtype=dtype)
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 16)(inputs))
    return keras.Model(inputs, layers.Dense(2)(x))


def _word_convolutions() -> keras.Model:
    inputs = keras.Input((10,), dtype="int32")
    x = layers.Conv1D(16, 3, activation="relu")(layers.Dropout(0.2)(layers.Embedding(50, 16)(inputs)))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


def _word_transformer() -> keras.Model:
    inputs = keras.Input((10,), dtype="int32")
    x = _block(Positions(10, 16)(layers.Embedding(50, 16)(inputs)))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def _waves() -> keras.Model:
    inputs = keras.Input((10,), dtype="int32")
    x = _block(Waves(10, 16)(layers.Embedding(50, 16)(inputs)))
    return keras.Model(inputs, layers.Dense(50)(x))


def _recurrent(layer: Callable[..., Any]) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        inputs = keras.Input((12, 5))
        return keras.Model(inputs, layers.Dense(3)(layer()(inputs)))

    return build


def _word_recurrent() -> keras.Model:
    inputs = keras.Input((10,), dtype="int32")
    x = layers.Embedding(50, 16)(inputs)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.Bidirectional(layers.LSTM(8))(x)))


def _sequence_to_sequence() -> keras.Model:
    source, target = keras.Input((12, 5)), keras.Input((12, 5))
    _, hidden, cell = layers.LSTM(16, return_state=True)(source)
    decoded, _, _ = layers.LSTM(16, return_sequences=True, return_state=True)(target, initial_state=[hidden, cell])
    return keras.Model([source, target], layers.Dense(5, activation="softmax")(decoded))


def _vision_transformer() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = _block(Positions(17, 16)(ClassToken()(layers.Dense(16)(Patches(4)(inputs)))))
    return keras.Model(inputs, layers.Dense(10)(x[:, 0]))


def _mixer() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Dense(16)(Patches(4)(inputs))
    for _ in range(2):
        mixed = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        mixed = layers.Dense(16)(layers.Dense(32, activation="gelu")(mixed))
        x = x + layers.Permute((2, 1))(mixed)
        x = x + layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def _gated() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Dense(16)(Patches(4)(inputs))
    x = x + layers.Dense(16)(Gate(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def _fourier() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Dense(16)(Patches(4)(inputs))
    x = layers.LayerNormalization()(x + ops.fft2((x, ops.zeros_like(x)))[0])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(layers.Dense(16, activation="gelu")(x))))


def _unet() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    skip = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(skip))
    x = layers.Conv2DTranspose(8, 2, strides=2, padding="same")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    return keras.Model(inputs, layers.Conv2D(4, 1, activation="softmax")(layers.UpSampling2D()(x)))


def _autoencoder() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.Reshape((8, 8, 8))(layers.Dense(512, activation="relu")(layers.Dense(16)(layers.Flatten()(layers.LeakyReLU()(x)))))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x))


def _variational() -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(inputs)
    drawn = Sampled()([layers.Dense(3)(x), layers.Dense(3)(x)])
    return keras.Model(inputs, layers.Dense(6)(layers.Dense(16, activation="relu")(drawn)))


def _siamese() -> keras.Model:
    shared = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(8)]
    )
    left, right = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    distance = ops.sqrt(ops.sum(ops.square(shared(left) - shared(right)), axis=1, keepdims=True) + 1e-6)
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(distance))


def _recommender() -> keras.Model:
    user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    towers = layers.Concatenate()([layers.Embedding(50, 8)(user), layers.Embedding(70, 12)(item)])
    return keras.Model([user, item], layers.Dense(1)(layers.Dense(16, activation="relu")(towers)))


def _wide_and_deep() -> keras.Model:
    numbers, kind = keras.Input((6,)), keras.Input((1,), dtype="int32")
    category = layers.CategoryEncoding(num_tokens=50, output_mode="one_hot")(kind)
    wide = layers.Dense(1)(layers.Concatenate()([numbers, category]))
    embedded = layers.Flatten()(layers.Embedding(50, 4)(kind))
    deep = layers.Dense(16, activation="selu")(layers.Concatenate()([layers.BatchNormalization()(numbers), embedded]))
    return keras.Model([numbers, kind], layers.Activation("sigmoid")(wide + layers.Dense(1)(deep)))


def _squeeze_and_excite() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    weight = layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))
    weight = layers.Conv2D(16, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="swish")(weight))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(layers.Multiply()([x, weight]))))


def _points() -> keras.Model:
    x = inputs = keras.Input((12, 5))
    for width in (16, 32):
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Conv1D(width, 1)(x)))
    transform = layers.Reshape((5, 5))(layers.Dense(25)(layers.GlobalMaxPooling1D()(x)))
    x = layers.Dot(axes=(2, 1))([inputs, transform])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling1D()(layers.Conv1D(16, 1, activation="relu")(x))))


def _detector() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="silu")(inputs)
    maps = layers.Conv2D(6, 1)(x)
    centers, sizes, classes = ops.sigmoid(maps[..., :2]) * 2 - 0.5, ops.square(ops.sigmoid(maps[..., 2:4]) * 2), maps[..., 4:]
    return keras.Model(inputs, {"boxes": ops.concatenate([centers, sizes], axis=-1), "classes": classes})


def _own_step() -> keras.Model:
    inputs = keras.Input((6,))
    return OwnStep(inputs, layers.Dense(3)(layers.Dense(16, activation="relu")(inputs)))


_IDS = np.arange(8, dtype=np.int32)
_IDIOMS: dict[str, tuple[Callable[[], keras.Model], Any]] = {
    "convolutions in a Sequential": (_convolutions, _IMAGES),
    "augmentation inside, separable convolutions": (_augmented, _IMAGES),
    "subclassed residual network": (Residual, _IMAGES),
    "squeeze and excitation, swish": (_squeeze_and_excite, _IMAGES),
    "U-Net": (_unet, _IMAGES),
    "autoencoder": (_autoencoder, _IMAGES),
    "siamese, one encoder twice": (_siamese, (_IMAGES, _IMAGES[::-1].copy())),
    "detector, a dict of outputs": (_detector, _IMAGES),
    "vision transformer, class token": (_vision_transformer, _IMAGES),
    "MLP mixer": (_mixer, _IMAGES),
    "gated MLP": (_gated, _IMAGES),
    "Fourier mixing": (_fourier, _IMAGES),
    "variational autoencoder, add_loss": (_variational, _ROWS / 200),
    "adapted Normalization": (_normalized_rows, _ROWS),
    "wide and deep, categories": (_wide_and_deep, (_ROWS, _IDS[:, None])),
    "recommender, two tables": (_recommender, (_IDS, _IDS + 8)),
    "a train_step of one's own": (_own_step, _ROWS),
    "words, averaged": (_words, _WORDS),
    "words as floats": (lambda: _words(dtype=None), _WORDS),
    "words, convolutions": (_word_convolutions, _WORDS),
    "words, transformer": (_word_transformer, _WORDS),
    "words, table of constants": (_waves, _WORDS),
    "words, bidirectional LSTM": (_word_recurrent, _WORDS),
    "series, Conv1D and BatchNormalization": (_normalized_series, _SERIES),
    "series, transformer": (_series_transformer, _SERIES),
    "series, points": (_points, _SERIES),
    "series, LSTM": (_recurrent(lambda: layers.LSTM(16)), _SERIES),
    "series, GRU": (_recurrent(lambda: layers.GRU(16)), _SERIES),
    "series, SimpleRNN": (_recurrent(lambda: layers.SimpleRNN(16)), _SERIES),
    "sequence to sequence, states": (_sequence_to_sequence, (_SERIES, _SERIES)),
}
NAMES = tuple(_IDIOMS)


def subject(name: str) -> KerasSubject:
    build, batch = _IDIOMS[name]
    return KerasSubject(build, batch)
