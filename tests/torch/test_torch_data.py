"""Data as PyTorch's users have them: the same ranges from every form, and errors that tell data from model."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from nncf_ext import ConfigError, NNCFConfig

INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64, "type": "min_max"}}}
X = np.random.default_rng(0).standard_normal((40, 1, 4, 4))  # float64, as numpy has it
Y = np.arange(40, dtype=np.int32) % 3


class Images(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index].astype(np.float32), int(Y[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor(x, dtype=torch.float32), int(y)) for x, y in zip(X, Y, strict=True)])


def batches():
    for start in range(0, 40, 8):
        yield X[start : start + 8], Y[start : start + 8]


TENSORS = torch.tensor(X, dtype=torch.float32), torch.tensor(Y).long()
FORMS = {
    "loader": DataLoader(TensorDataset(*TENSORS), 8),
    "numpy array": X,
    "numpy (x, y)": (X, Y),
    "tensor": TENSORS[0],
    "tensors (x, y)": TENSORS,
    "x, y, weights": (X, Y, np.ones(40)),
    "TensorDataset": TensorDataset(*TENSORS),
    "TensorDataset without labels": TensorDataset(TENSORS[0]),
    "dataset": Images(),
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), 8),
    "generator function": batches,
    "generator": batches(),
    "batches": list(batches()),
    "samples": list(Images()[i] for i in range(40)),
    "dict": {"x": X, "labels": Y},
    "dict of another name": {"image": X, "label": Y},
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()


def compressed(data, compression=INT8, model=None, **more):
    config = register_default_init_args(NNCFConfig.from_dict({"compression": compression}), data, **more)
    return create_compressed_model(model or net(), config)


def scales(model):
    return {name: value.clone() for name, value in model.state_dict().items() if "scale" in name}


@pytest.fixture(scope="module")
def expected():
    return scales(compressed(FORMS["loader"])[1])


@pytest.mark.parametrize("form", FORMS)
def test_ranges_are_the_same_from_every_form(form, expected):
    found = scales(compressed(FORMS[form])[1])
    assert found.keys() == expected.keys() and len(found) > 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("form", ["numpy (x, y)", "dataset", "generator function", "dict"])
def test_the_loss_gets_the_labels(form):
    """HAWQ's: cross entropy wants int64."""
    precision = {"type": "hawq", "bits": [4, 8], "compression_ratio": 1.5, "num_data_points": 16, "iter_number": 2}
    config = {"target_device": "TRIAL", "compression": {**INT8, "initializer": {**INT8["initializer"], "precision": precision}}}
    seen = []

    def criterion(outputs, target):
        seen.append(target.clone())
        return nn.functional.cross_entropy(outputs, target)

    config = register_default_init_args(NNCFConfig.from_dict(config), FORMS[form], criterion=criterion)
    create_compressed_model(net(), config)
    assert seen and all(target.dtype == torch.int64 for target in seen)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b):
        return self.a(a) + self.b(b)


@pytest.mark.parametrize("labels", [(), (torch.zeros(40),)], ids=["bare", "labelled"])
def test_the_forward_tells_how_many_inputs_there_are(labels):
    a, b = torch.rand(40, 3), torch.rand(40, 4)
    found = [
        scales(compressed(data, model=Two().eval())[1]).keys()
        for data in (DataLoader(TensorDataset(a, b, *labels), 8), TensorDataset(a, b, *labels), {"a": a, "b": b})
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) >= 4


def test_columns_as_hugging_face_has_them():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, input_ids=None, attention_mask=None, labels=None):
            x = self.table(input_ids) * attention_mask[..., None]
            return self.head(x.mean(1))

    rows = [{"input_ids": [1, 2, i % 9], "attention_mask": [1, 1, 0], "label": i % 2} for i in range(40)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    one, other = (scales(compressed(data, model=Words().eval())[1]) for data in (rows, columns))
    assert one.keys() == other.keys() and len(one) > 2
    ids, mask, y = (torch.tensor(columns[name]) for name in columns)
    with pytest.raises(ConfigError, match=r"train_loader: found \(int64 \(8, 3\), int64 \(8, 3\), int64 \(8,\)\), and cannot"):
        compressed([(ids[:8], mask[:8], y[:8])], model=Words().eval())


def test_an_error_says_what_was_found_and_what_the_model_takes():
    with pytest.raises(
        ConfigError,
        match=r"the model does not run on what .*found float32 \(20, 3, 4, 4\); the model takes input",
    ):
        compressed(torch.zeros(40, 3, 4, 4))
    good, bad = (X[:8], Y[:8]), (np.zeros((8, 3, 4, 4)), Y[:8])
    words = r"range initialisation: the model does not run on .* \(found float64 \(8, 3, 4, 4\); the model takes input \(batch"
    with pytest.raises(ConfigError, match=words):
        compressed([good, bad])


def test_an_error_of_the_data_is_not_the_models():
    class Damaged(Images):
        def __getitem__(self, index):
            raise OSError(f"image {index} is damaged")

    with pytest.raises(ConfigError, match="train_loader: the data themselves failed at item 0, .*OSError: image 0 is damaged"):
        compressed(Damaged())
    with pytest.raises(ConfigError, match="train_loader: found None, expected a loader"):
        compressed(None)


def test_a_generator_for_functions_of_the_users_is_refused():
    with pytest.raises(ConfigError, match="train_loader: found a generator, which can be read once, but autoq_eval_fn reads it"):
        compressed(batches(), autoq_eval_fn=lambda model, loader: 0.0)
