"""`export_model(dynamic_shapes=...)`: files that take inputs of other sizes, and the names of what goes in and out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.export.parity import session

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")
HEIGHT_WIDTH = {2: "height", 3: "width"}


class Segmenter(nn.Module):
    """Two inputs in the other order than the data give them; outputs by name, nested, and of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, image: torch.Tensor, prior: torch.Tensor | None = None) -> dict[str, object]:
        scores = self.up(torch.relu(self.down(image)))
        if prior is not None:
            scores = scores * prior
        return {"scores": scores, "more": (scores.mean((2, 3)),), "best": scores.argmax(1)}


class Flat(nn.Module):
    """Its code computes with sizes: a linear layer over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def compressed(model: nn.Module, *batches):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    return create_compressed_model(model, register_default_init_args(config, list(batches)))


def test_height_width_and_names(tmp_path):
    torch.manual_seed(0)
    data = [{"prior": torch.rand(2, 1, 16, 16), "image": torch.randn(2, 3, 16, 16)}]
    ctrl, model = compressed(Segmenter(), *data)
    parity = ctrl.export_model(tmp_path / "a.onnx", dynamic_shapes={"image": HEIGHT_WIDTH, "prior": HEIGHT_WIDTH})
    assert parity.samples == 4 and parity.lsb <= 1  # two samples of 16 x 16 and two of 32 x 32
    runner = session(tmp_path / "a.onnx")
    assert {v.name: v.shape for v in runner.get_inputs()} == {
        "image": ["batch", 3, "height", "width"],
        "prior": ["batch", 1, "height", "width"],
    }
    assert [v.name for v in runner.get_outputs()] == ["scores", "more_0", "best"]
    image, prior = torch.randn(5, 3, 12, 40), torch.rand(5, 1, 12, 40)
    with torch.no_grad():
        expected = model.eval()(image, prior)["scores"].numpy()
    found = runner.run(["scores"], {"image": image.numpy(), "prior": prior.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=2 * parity.step)


def test_names_of_the_file_are_those_asked_for(tmp_path):
    ctrl, _ = compressed(Segmenter(), (torch.randn(2, 3, 16, 16), None))
    ctrl.export_model(
        tmp_path / "a.onnx", input_names=["x"], output_names=["s", "m", "b"], dynamic_shapes={"x": {0: "n", -1: "width"}}
    )
    runner = session(tmp_path / "a.onnx")
    assert [(v.name, v.shape) for v in runner.get_inputs()] == [("x", ["n", 3, 16, "width"])]
    assert [v.name for v in runner.get_outputs()] == ["s", "m", "b"]
    with pytest.raises(ValueError, match="output_names: found s, expected 3 different names, for scores, more_0, best"):
        ctrl.export_model(tmp_path / "b.onnx", output_names=["s"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"img": HEIGHT_WIDTH}, "found an input 'img', expected one of image"),
        ({"image": {4: "depth"}}, "image, axis 4: expected an axis of its 4, 0 to 3"),
        ({"image": {2: None}}, "found None, expected a name"),
        ({"image": {0: "side", 2: "side"}}, "'side' is 16 here and 2 in image, axis 0"),
    ],
)
def test_axes_that_are_not_there(tmp_path, wanted, message):
    ctrl, _ = compressed(Segmenter(), (torch.randn(2, 3, 16, 16), None))
    with pytest.raises(ValueError, match=message):
        ctrl.export_model(tmp_path / "a.onnx", dynamic_shapes=wanted)
    assert not list(tmp_path.iterdir())


def test_an_axis_for_which_the_model_has_one_size(tmp_path):
    ctrl, _ = compressed(Flat(), (torch.randn(2, 3, 8, 8), None))
    with pytest.raises(ValueError, match=r"dynamic_shapes: x, axis 2 \('height'\)|the model itself does not run at other sizes"):
        ctrl.export_model(tmp_path / "a.onnx", dynamic_shapes={"x": HEIGHT_WIDTH})
    assert not list(tmp_path.iterdir())


def test_sequence_length_of_a_language_model_with_a_cache(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes))
    assert model.config.use_cache
    batch = {"input_ids": torch.randint(0, 32, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    ctrl, model = compressed(model, batch)
    length = {1: "sequence"}
    parity = ctrl.export_model(tmp_path / "a.onnx", dynamic_shapes={"input_ids": length, "attention_mask": length})
    assert parity.samples == 4 and parity.unoptimized <= parity.step
    runner = session(tmp_path / "a.onnx")
    assert [(v.name, v.shape) for v in runner.get_inputs()] == [(name, ["batch", "sequence"]) for name in batch]
    assert [v.name for v in runner.get_outputs()] == ["logits"]
