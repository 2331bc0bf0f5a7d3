"""Recurrent layers: what is computed with, what gradients reach, what is saved; in sequences, packed ones, steps and stacks."""

import copy

import numpy as np
import onnx
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.tools import demo
from tests import recurrent_reference as reference

RANGES = {"initializer": {"range": {"num_init_samples": 8}}}
INT8 = {"algorithm": "quantization", **RANGES}
SPARSE = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}
RIGL = {"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.6, "update_interval": 10}}
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Net(nn.Module):
    def __init__(self, rnn, channels):
        super().__init__()
        self.rnn, self.fc = rnn, nn.Linear(channels, 3)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


def made(kind, seed=0, **settings):
    torch.manual_seed(seed)
    rnn = KINDS[kind](5, 8, batch_first=True, **settings)
    return Net(rnn, settings.get("proj_size", 8) * (2 if rnn.bidirectional else 1))


def data(seed=0, batch=4):
    return torch.randn(batch, 6, 5, generator=torch.Generator().manual_seed(seed))


def compressed(model, compression, state=None, x=None):
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [4, 6, 5]}, "compression": compression})
    return create_compressed_model(model, register_default_init_args(config, [(data() if x is None else x, 0)]), state)


def numpy_weights(ctrl, model):
    """What the layer computes with, by name: every edit applied in numpy."""
    found = {name: p.detach().numpy().astype(np.float64) for name, p in model.rnn.named_parameters() if "nncf_ext" not in name}
    for edit in ctrl.plan:
        if edit.site.is_parameter and edit.site.slot in found:
            x = found[edit.site.slot].astype(np.float32)
            found[edit.site.slot] = edit.apply(xp, x, ctrl.variable_values(edit), False).astype(np.float64)
    return found


def at_input(ctrl, x):
    for edit in ctrl.plan:
        if str(edit.site) == "/nncf_model_input_0|output":
            x = edit.apply(xp, x, ctrl.variable_values(edit), False)
    return x.astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_computes_with_the_transformed_weights(kind):
    ctrl, model = compressed(made(kind), [SPARSE, INT8])
    w = numpy_weights(ctrl, model)
    x, W, R = at_input(ctrl, data(1).numpy()), w["weight_ih_l0"].T, w["weight_hh_l0"].T
    assert 0.3 < np.mean(w["weight_hh_l0"] == 0) < 0.7
    if kind == "gru":
        expected = reference.gru(x, W, R, w["bias_ih_l0"], w["bias_hh_l0"])
    else:
        expected = getattr(reference, kind)(x, W, R, w["bias_ih_l0"] + w["bias_hh_l0"])
    with torch.no_grad():
        seen = []
        hook = model.rnn.register_forward_hook(lambda module, args, output: seen.append(output[0].numpy()))
        model.eval()(data(1))
        hook.remove()
    np.testing.assert_allclose(seen[0], expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_both_matrices_through_the_mask(kind):
    ctrl, model = compressed(made(kind), SPARSE)
    plain = ctrl.strip()
    model.train()(data(1)).square().sum().backward()
    plain(data(1)).square().sum().backward()
    masks = {e.site.slot: torch.as_tensor(ctrl.variable_values(e)["mask"]) for e in ctrl.plan if "rnn" in e.site.node}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        ours, theirs = model.rnn._parameters[name].grad, plain.rnn._parameters[name].grad
        torch.testing.assert_close(ours, theirs * masks[name])
        assert ours.abs().sum() > 0


@pytest.mark.parametrize("settings", [{"bidirectional": True}, {"proj_size": 4, "bias": False}], ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN", "ignore:.* cannot be exported")
def test_layers_run_one_by_one_compute_what_they_do_together(settings):
    """Quantizers between layers are off: the model's own call stays."""
    model = made("lstm", num_layers=3, **settings)
    with torch.no_grad():
        before = model.eval()(data(1))
        ctrl, model = compressed(model, INT8)
        inner = [e for e in ctrl.plan if e.site.slot == "input:0" and "rnn" in e.site.node]
        assert len(inner) == 2
        weights = {e.site.slot for e in ctrl.plan if e.site.is_parameter and "rnn" in e.site.node}
        assert weights == {name for name, p in model.rnn.named_parameters() if p.dim() == 2 and "nncf_ext" not in name}
        for edit in ctrl.plan:
            ctrl._attached.set_enabled(edit, False)
        torch.testing.assert_close(model(data(1)), before)


class Packed(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.fc = KINDS[kind](5, 8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.rnn(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return self.fc(padded)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_give_what_each_sequence_gives_by_itself(kind):
    torch.manual_seed(0)
    lengths = torch.tensor([6, 2, 4, 3])
    config = NNCFConfig.from_dict({"input_info": [{"sample_size": [4, 6, 5]}, {"sample_size": [4]}], "compression": INT8})
    ctrl, model = create_compressed_model(
        Packed(kind),
        register_default_init_args(config, [((data(), lengths), 0)]),
        dummy_forward_fn=lambda model: model(data(), lengths),
    )
    assert {e.site.slot for e in ctrl.plan if e.site.is_parameter} >= {"weight_ih_l0", "weight_hh_l0", "weight_ih_l1"}
    with torch.no_grad():
        together = model.eval()(data(1), lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model(data(1)[row : row + 1], lengths[row : row + 1])
            torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)


class Steps(nn.Module):
    """A user's own loop over cells, of a length that changes."""

    def __init__(self, kind):
        super().__init__()
        cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind]
        self.rnn, self.fc, self.is_lstm = cell(5, 8), nn.Linear(8, 3), kind == "lstm"

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.rnn(x[:, t], state)
        return self.fc(state[0] if self.is_lstm else state)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_a_loop_compute_what_the_layer_does(kind):
    torch.manual_seed(0)
    steps, layer = Steps(kind), made(kind)
    for name, tensor in steps.rnn.named_parameters():
        layer.rnn._parameters[f"{name}_l0"].data.copy_(tensor)
    layer.fc.load_state_dict(steps.fc.state_dict())
    (ctrl, steps), (_, layer) = compressed(steps, SPARSE), compressed(layer, SPARSE)
    assert [e.site.slot for e in ctrl.plan] == ["weight_ih", "weight_hh", "weight"]
    with torch.no_grad():
        for length in (6, 3):
            x = data(1)[:, :length]
            torch.testing.assert_close(steps.eval()(x), layer.eval()(x))


def test_only_weights_of_cells_are_quantized_because_a_loop_may_have_any_length():
    ctrl, model = compressed(Steps("gru"), INT8)
    assert not [e for e in ctrl.plan if not e.site.is_parameter and any("cell" in site.node for site in e.sites)]
    assert {str(e.site) for e in ctrl.plan} >= {"Steps/Linear[fc]/linear_0|input:0"}
    with torch.no_grad():
        model.eval()
        assert not torch.equal(model(data(1)), model(data(1)[:, :5]))


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_as_if_it_had_not_been_interrupted(kind):
    def trained(model, *seeds):
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for seed in seeds:
            optimizer.zero_grad()
            model.train()(data(seed)).square().sum().backward()
            optimizer.step()
        return model.state_dict()

    ctrl, model = compressed(made(kind, num_layers=2), [SPARSE, INT8])
    trained(model, 1, 2)
    state, tensors = ctrl.get_compression_state(), copy.deepcopy(model.state_dict())
    assert {"rnn.weight_ih_l0", "rnn.weight_hh_l1"} <= set(tensors)
    _, resumed = compressed(made(kind, seed=1, num_layers=2), [SPARSE, INT8], state)
    resumed.load_state_dict(tensors)
    copied = copy.deepcopy(model)
    expected = trained(model, 5, 6)
    for run in (resumed, copied):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in trained(run, 5, 6).items())


def test_a_parameter_that_is_replaced_is_computed_with_before_and_after_stripping():
    ctrl, model = compressed(made("gru"), SPARSE)
    new = torch.full((24, 8), 0.25)
    model.rnn._parameters["weight_ih_l0"] = nn.Parameter(torch.full((24, 5), 0.5))
    with torch.no_grad():
        model.rnn._parameters["weight_hh_l0"].copy_(new)
    model.to(torch.float64).to(torch.float32)
    plain = ctrl.strip(do_copy=False)
    assert type(plain.rnn) is nn.GRU and plain.rnn._flat_weights[1] is plain.rnn.weight_hh_l0
    kept = plain.rnn.weight_hh_l0
    assert ((kept == 0.25) | (kept == 0)).all() and (kept == 0).any()
    assert plain.rnn._flat_weights[0].max() == 0.5


@pytest.fixture(scope="module")
def digits():
    read = demo.load_digits()
    arrays = (read.train_images, read.train_labels, read.test_images, read.test_labels)
    return [torch.from_numpy(np.asarray(a)) for a in arrays]


class Rows(nn.Module):
    """A digit as a sequence of its 8 rows."""

    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


def fit(model, digits, epochs, ctrl=None, rate=5e-3):
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        model.train()
        if ctrl is not None:
            ctrl.scheduler.epoch_step()
        for rows in torch.randperm(len(digits[0])).split(32):
            if ctrl is not None:
                ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits[0][rows]), digits[1][rows])
            (loss if ctrl is None else loss + ctrl.loss()).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = Rows()
    return model, fit(model, digits, 12, rate=1e-2)


@pytest.mark.parametrize("compression", [INT8, RIGL, {**SPARSE, "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 1}}])
def test_digits_read_row_by_row_are_still_read(compression, digits, trained):
    model, accuracy = copy.deepcopy(trained[0]), trained[1]
    assert accuracy > 0.94
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8, 8]}, "compression": compression})
    ctrl, model = create_compressed_model(model, register_default_init_args(config, [(digits[0][:64], 0)]))
    if compression is INT8:
        assert fit(model, digits, 2, ctrl, 1e-3) > accuracy - 0.01
        return
    assert fit(model, digits, 4, ctrl, 1e-2) > accuracy - 0.05
    assert abs(getattr(ctrl.statistics(), compression["algorithm"]).sparsity_level_for_layers - 0.6) < 0.01
    assert (ctrl.strip().rnn.weight_hh_l0 == 0).float().mean() > 0.5


@pytest.mark.parametrize("kind", ["gru", "rnn"])
def test_the_file_has_float_weights_that_stand_on_the_grid_where_no_runtime_takes_codes(kind, tmp_path):
    ctrl, _ = compressed(made(kind, num_layers=2), [SPARSE, INT8])
    assert ctrl.export_model(tmp_path / "model.onnx").lsb < 0.1
    file = onnx.load(tmp_path / "model.onnx")
    shapes = [tuple(tensor.dims) for tensor in file.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert [shape for shape in shapes if len(shape) > 1] == [(3, 8)]
    if kind == "gru":
        plain = ctrl.strip().rnn.weight_hh_l1.detach().numpy().reshape(3, 8, 8)[[1, 0, 2]].reshape(1, 24, 8)
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer]
        assert any(array.shape == plain.shape and np.array_equal(array, plain) for array in arrays)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_an_lstm_with_projections_is_not_written_wrongly(tmp_path):
    with pytest.warns(UserWarning, match="rnn: an LSTM with proj_size cannot be exported"):  # before it is trained for that
        ctrl, _ = compressed(made("lstm", proj_size=4), SPARSE)
    with pytest.raises(ValueError, match="rnn: found an LSTM with proj_size"):
        ctrl.export_model(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_what_no_algorithm_takes_is_counted():
    ctrl, _ = compressed(made("lstm"), {**INT8, "ignored_scopes": ["{re}lstm"]})
    left = ctrl.statistics().untouched
    assert left is not None and (left.weights, left.share) == (32 * 13, 32 * 13 / (32 * 13 + 24))
    assert compressed(made("lstm"), SPARSE)[0].statistics().untouched is None
