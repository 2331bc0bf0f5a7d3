"""Networks of the literature, for `make results`, in PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.tasks import CONTEXT, FIRES, VOCABULARY


def lenet_300_100() -> nn.Module:
    """LeCun et al. 1998: 784-300-100-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def lenet_5() -> nn.Module:
    """As in Caffe, and in Han et al. 2015: 431,080 parameters."""
    convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


class Fire(nn.Module):
    """1x1 convolutions to few channels, and 1x1 and 3x3 ones from these to half of the outputs each."""

    def __init__(self, inputs: int, few: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, few, 1)
        self.expand_1, self.expand_3 = nn.Conv2d(few, outputs // 2, 1), nn.Conv2d(few, outputs // 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand_1(x)), torch.relu(self.expand_3(x))], 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.1: 1,235,496 parameters with 1000 classes and 3 channels."""

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, 2), nn.ReLU()]
        inputs = 64
        for few, outputs, pooled in FIRES:
            layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] if pooled else []
            layers.append(Fire(inputs, few, outputs))
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.dropout, self.head = nn.Dropout(0.5), nn.Conv2d(inputs, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)  # it has no BatchNorm: PyTorch's own first weights are too small for it
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(self.dropout(self.features(x)))).mean((2, 3))


class Decoder(nn.Module):
    """A decoder-only transformer of 4 layers, normalised first: logits of the next character at each place."""

    def __init__(self, width: int = 64, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.characters(codes) + self.places.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_1(x)
        query, key, value = (self._split(layer(y)) for layer in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm_2(x))))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
