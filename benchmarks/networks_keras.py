"""The networks of `networks_torch.py` in Keras."""

from __future__ import annotations

import keras
from keras import layers

from benchmarks.tasks import CONTEXT, FIRES, VOCABULARY


def lenet_300_100() -> keras.Model:
    dense = [layers.Dense(300, "relu", name="fc1"), layers.Dense(100, "relu", name="fc2"), layers.Dense(10, name="fc3")]
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(name="flat"), *dense])


def lenet_5() -> keras.Model:
    convolutions = [
        layers.Conv2D(20, 5, name="conv1"),
        layers.MaxPooling2D(2, name="pool1"),
        layers.Conv2D(50, 5, name="conv2"),
        layers.MaxPooling2D(2, name="pool2"),
    ]
    dense = [layers.Flatten(name="flat"), layers.Dense(500, "relu", name="fc1"), layers.Dense(10, name="fc2")]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *dense])


def squeezenet(classes: int = 1000, channels: int = 3, side: int = 224) -> keras.Model:
    """side: one at which no pooling has to be padded, as 224 and 48."""
    start = {"kernel_initializer": "he_uniform"}
    inputs = keras.Input((side, side, channels))
    x = layers.Conv2D(64, 3, 2, activation="relu", name="conv1", **start)(inputs)
    for number, (few, outputs, pooled) in enumerate(FIRES, 2):
        if pooled:
            x = layers.MaxPooling2D(3, 2, name=f"pool{number}")(x)
        x = layers.Conv2D(few, 1, activation="relu", name=f"squeeze{number}", **start)(x)
        one = layers.Conv2D(outputs // 2, 1, activation="relu", name=f"expand1_{number}", **start)(x)
        three = layers.Conv2D(outputs // 2, 3, padding="same", activation="relu", name=f"expand3_{number}", **start)(x)
        x = layers.Concatenate(name=f"concatenate{number}")([one, three])
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Conv2D(classes, 1, activation="relu", name="conv10", **start)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="mean")(x))


class Places(layers.Layer):
    """Adds what is learned for each place."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="normal", name="table")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


def decoder(width: int = 64, depth: int = 4, heads: int = 4) -> keras.Model:
    codes = keras.Input((CONTEXT,), dtype="int32")
    x = Places(name="places")(layers.Embedding(VOCABULARY, width, embeddings_initializer="normal", name="characters")(codes))
    for i in range(depth):
        y = layers.LayerNormalization(name=f"norm_1_{i}")(x)
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")
        x = layers.Add(name=f"add_1_{i}")([x, attention(y, y, use_causal_mask=True)])
        y = layers.Dense(4 * width, "gelu", name=f"up_{i}")(layers.LayerNormalization(name=f"norm_2_{i}")(x))
        x = layers.Add(name=f"add_2_{i}")([x, layers.Dense(width, name=f"down_{i}")(y)])
    return keras.Model(codes, layers.Dense(VOCABULARY, name="head")(layers.LayerNormalization(name="norm")(x)))
