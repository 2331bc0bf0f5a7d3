"""Hidden units of recurrent layers: which go, that the model without them computes what the masked one did, where they stay."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from nncf_ext_torch import create_compressed_model, load_pruned, register_default_init_args, save_pruned
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo
from tests import recurrent_reference as reference

PRUNE = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.5,
    "params": {"schedule": "exponential", "pruning_target": 0.5},
}
INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 8}}}
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Net(nn.Module):
    """Layers by name, and what `forward` does with them."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body, self.hidden = body, 16
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def data(seed=0):
    return torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(seed))


def compressed(model, *compression, epochs=1):
    """With weights of any size, biases too, and masks that are decided on them."""
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [4, 6, 5]}, "compression": list(compression or [PRUNE])})
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    ctrl, model = create_compressed_model(model, register_default_init_args(config, [(data(), 0)]))
    for _ in range(epochs):
        ctrl.scheduler.epoch_step()
    return ctrl, model.eval()


def check(ctrl, model):
    """Returns the stripped model, which computes what the masked one does, also when its tensors are loaded into a copy."""
    with torch.no_grad():
        expected = model(data(1))
        small = ctrl.strip()
        torch.testing.assert_close(small(data(1)), expected, atol=1e-6, rtol=1e-5)
        loaded = copy.deepcopy(small)
        for parameter in loaded.parameters():
            parameter.zero_()
        loaded.load_state_dict(small.state_dict())
        assert torch.equal(loaded(data(1)), small(data(1)))
    return small


def last(net, x):
    return net.fc(net.rnn(x)[0][:, -1])


def from_state(net, x):
    state = net.rnn(x)[1]
    return net.fc((state[0] if isinstance(state, tuple) else state).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_units_go_and_numpy_agrees_on_what_is_left(kind):
    """A unit's size: the norm of its rows in both matrices."""
    torch.manual_seed(0)
    ctrl, model = compressed(Net(last, rnn=KINDS[kind](5, 16, batch_first=True), fc=nn.Linear(16, 3)))
    w = {name: p.detach().numpy() for name, p in model.rnn.named_parameters() if "nncf_ext" not in name}
    rows = np.concatenate([w["weight_ih_l0"], w["weight_hh_l0"]], 1).reshape(GATES[kind], 16, -1)
    kept = np.sort(np.argsort(np.sqrt(np.square(rows).sum((0, 2))))[8:])
    rows = (np.arange(GATES[kind])[:, None] * 16 + kept).reshape(-1)
    small = check(ctrl, model)
    assert (small.rnn.hidden_size, small.rnn.input_size, small.fc.in_features) == (8, 5, 8)
    np.testing.assert_array_equal(small.rnn.weight_ih_l0.detach(), w["weight_ih_l0"][rows])
    np.testing.assert_array_equal(small.rnn.weight_hh_l0.detach(), w["weight_hh_l0"][rows][:, kept])
    np.testing.assert_array_equal(small.fc.weight.detach(), model.fc.weight.detach()[:, kept])
    W, R, bias, of_r = (
        a.T for a in (w["weight_ih_l0"][rows], w["weight_hh_l0"][rows][:, kept], w["bias_ih_l0"][rows], w["bias_hh_l0"][rows])
    )
    x = data(1).numpy()
    expected = reference.gru(x, W, R, bias, of_r) if kind == "gru" else getattr(reference, kind)(x, W, R, bias + of_r)
    np.testing.assert_allclose(small.rnn(data(1))[0].detach(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [last, from_state])
@pytest.mark.parametrize(
    "settings", [{"num_layers": 2, "bias": False}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}], ids=str
)
def test_layers_and_directions_lose_the_same_units(kind, body, settings):
    torch.manual_seed(0)
    directions = 1 + settings.get("bidirectional", False)
    width = 16 * directions * (settings.get("num_layers", 1) if body is from_state else 1)
    model = Net(body, rnn=KINDS[kind](5, 16, batch_first=True, **settings), fc=nn.Linear(width, 3))
    ctrl, model = compressed(model)
    masks = [ctrl.variable_values(e)["mask"].reshape(GATES[kind], 16) for e in ctrl.plan if "rnn" in e.site.node]
    assert masks[0].sum() == 8 * GATES[kind]
    assert all((mask == masks[0][0]).all() for mask in masks)
    small = check(ctrl, model)
    assert {tuple(p.shape)[0] for p in small.rnn.parameters()} == {8 * GATES[kind]}
    assert (small.rnn.hidden_size, small.fc.in_features) == (8, width // 2)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN", "ignore:.* cannot be exported")
def test_a_projected_lstm_loses_units_of_both_sizes():
    torch.manual_seed(0)
    small = check(*compressed(Net(last, rnn=nn.LSTM(5, 32, 2, proj_size=16, batch_first=True), fc=nn.Linear(16, 3))))
    assert (small.rnn.hidden_size, small.rnn.proj_size, small.rnn.weight_hr_l1.shape) == (16, 8, (8, 16))


def steps(net, x):
    state = None
    for t in range(x.shape[1]):
        state = net.rnn(x[:, t], state)
    return net.fc(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_in_a_loop(kind):
    torch.manual_seed(0)
    small = check(*compressed(Net(steps, rnn=kind(5, 16), fc=nn.Linear(16, 3))))
    assert (small.rnn.hidden_size, small.rnn.weight_hh.shape[1]) == (8, 8)


def packed(net, x):
    x = nn.utils.rnn.pack_padded_sequence(net.embed(x), torch.tensor([6, 2, 4, 3]), batch_first=True, enforce_sorted=False)
    y, (hidden, _) = net.rnn(x)
    return net.fc(nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0]).sum(1) + net.top(hidden[-1])


def encoder_decoder(net, x):
    return net.fc(net.decoder(x.flip(1), net.rnn(x)[1])[0])


def own_zeros(net, x):
    zeros = torch.zeros(2, x.size(0), net.hidden).to(x.device)
    return net.fc(net.rnn(x, (zeros, torch.zeros_like(zeros)))[0])


def learned(net, x):
    return net.fc(net.rnn(x, net.first.expand(-1, len(x), -1).contiguous())[0])


def computed(net, x):
    return net.fc(net.rnn(x, torch.tanh(net.first(x[:, 0]))[None])[0])


def lstm(inputs=5, layers=1):
    return nn.LSTM(inputs, 16, layers, batch_first=True)


def audio(net, x):
    x = torch.relu(net.second(torch.relu(net.first(x.transpose(1, 2)))))
    return net.fc(net.rnn(x.transpose(1, 2))[0])


FORMS = {
    "convolutions in front": lambda: Net(
        audio, first=nn.Conv1d(5, 16, 3), second=nn.Conv1d(16, 16, 3), rnn=lstm(16), fc=nn.Linear(16, 3)
    ),
    "packed": lambda: Net(packed, embed=nn.Linear(5, 16), rnn=lstm(16, 2), fc=nn.Linear(16, 3), top=nn.Linear(16, 3)),
    "encoder and decoder": lambda: Net(encoder_decoder, rnn=lstm(layers=2), decoder=lstm(layers=2), fc=nn.Linear(16, 3)),
    "zeros of one's own": lambda: Net(own_zeros, rnn=lstm(layers=2), fc=nn.Linear(16, 3)),
    "a learned state": lambda: Net(
        learned, rnn=nn.GRU(5, 16, batch_first=True), first=nn.Parameter(torch.randn(1, 1, 16)), fc=nn.Linear(16, 3)
    ),
    "a computed state": lambda: Net(computed, rnn=nn.GRU(5, 16, batch_first=True), first=nn.Linear(5, 16), fc=nn.Linear(16, 3)),
    "time first": lambda: Net(lambda net, x: net.fc(net.rnn(x.transpose(0, 1))[0][-1]), rnn=nn.LSTM(5, 16), fc=nn.Linear(16, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_states_and_outputs_in_other_forms(form):
    torch.manual_seed(0)
    ctrl, model = compressed(FORMS[form]())
    small = check(ctrl, model)
    assert small.rnn.hidden_size == small.fc.in_features == 8
    counted = sum(p.numel() for p in small.parameters())
    assert ctrl.statistics().filter_pruning.current_params_num == counted


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            lambda net, x: net.fc(net.rnn(x, torch.ones(1, len(x), net.hidden))[0]),
            "begins with a state that has a fixed number of channels",
        ),
        (lambda net, x: net.fc(net.rnn(x, torch.sigmoid(net.first(x[:, 0]))[None])[0]), "does not make zeros of zeros"),
        (lambda net, x: net.rnn(x)[0], "they reach an output of the model"),
    ],
)
def test_units_stay_where_they_are_no_zeros_without_their_weights(body, reason):
    model = Net(body, rnn=nn.GRU(5, 16, batch_first=True), first=nn.Linear(5, 16), fc=nn.Linear(16, 3))
    with pytest.raises(ConfigError, match=f"its channels have to stay: .*{reason}"):
        compressed(model)


def test_a_number_in_the_code_is_told_with_the_layer_to_leave_alone():
    model = Net(
        lambda net, x: net.fc(net.rnn(x, torch.zeros(1, len(x), 16))[0]), rnn=nn.GRU(5, 16, batch_first=True), fc=nn.Linear(16, 3)
    )
    ctrl, _ = compressed(model)
    with pytest.raises(
        ConfigError, match=r"GRU rnn: does not run .*Expected hidden size .*add \"Net/GRU\[rnn\]/gru_0\" to ignored_scopes"
    ):
        ctrl.strip()


def test_flops_and_parameters_by_hand():
    """Six steps of an LSTM of 16 units that reads 5: 2 * 6 * 64 * (5 + 16), and a layer 16 -> 3; then 8 units."""
    ctrl, _ = compressed(Net(last, rnn=lstm(), fc=nn.Linear(16, 3)))
    found = ctrl.statistics().filter_pruning
    assert (found.full_flops, found.full_params_num) == (12 * 64 * 21 + 2 * 48, 64 * 23 + 51)
    assert (found.current_flops, found.current_params_num) == (12 * 32 * 13 + 2 * 24, 32 * 15 + 27)
    assert (found.full_filters_num, found.current_filters_num) == (19, 11)
    assert [(layer.name, layer.pruned_level) for layer in found.layers] == [("Net/LSTM[rnn]/lstm_0|weight_ih_l0", 0.5)]


@pytest.mark.parametrize(
    "params", [{"all_weights": True}, {"filter_importance": "geometric_median"}, {"filter_importance": "L1"}], ids=str
)
def test_other_choices_of_units(params):
    torch.manual_seed(0)
    model = Net(lambda net, x: net.fc(net.rnn(net.embed(x))[0]), embed=nn.Linear(5, 16), rnn=lstm(16, 2), fc=nn.Linear(16, 3))
    ctrl, model = compressed(model, {**PRUNE, "params": {**PRUNE["params"], **params}})
    small = check(ctrl, model)
    assert small.rnn.hidden_size + small.embed.out_features == 16 and small.rnn.input_size == small.embed.out_features


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("lstm", {}),
        pytest.param("lstm", {"num_layers": 2, "bidirectional": True}, marks=pytest.mark.slow),
        pytest.param("gru", {"num_layers": 2, "bidirectional": True}, marks=pytest.mark.slow),
        pytest.param("rnn", {"num_layers": 2, "bidirectional": True}, marks=pytest.mark.slow),
    ],
)
def test_the_file_is_of_the_smaller_model_in_int8(kind, settings, tmp_path):
    torch.manual_seed(0)
    model = Net(last, rnn=KINDS[kind](5, 16, batch_first=True, **settings), fc=nn.Linear(32 if settings else 16, 3))
    ctrl, model = compressed(model, PRUNE, INT8)
    assert ctrl.export_model(tmp_path / "model.onnx").lsb < 2
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: data(1).numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(data(1)), atol=0.02, rtol=0.02)


def test_a_file_of_the_pruned_model_is_read(tmp_path):
    torch.manual_seed(0)
    small = check(*compressed(Net(last, rnn=lstm(layers=2), fc=nn.Linear(16, 3))))
    save_pruned(small, tmp_path / "pruned.safetensors")
    loaded = load_pruned(Net(last, rnn=lstm(layers=2), fc=nn.Linear(16, 3)), tmp_path / "pruned.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(loaded(data(1)), small(data(1)))


@pytest.mark.slow
def test_digits_read_row_by_row_by_half_of_the_units():
    read = demo.load_digits()
    images, labels, test_images, test_labels = (
        torch.from_numpy(np.asarray(a)) for a in (read.train_images, read.train_labels, read.test_images, read.test_labels)
    )
    torch.manual_seed(0)
    model = Net(last, rnn=nn.LSTM(8, 32, batch_first=True), fc=nn.Linear(32, 10))
    config = NNCFConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 8, 8]},
            "compression": {
                **PRUNE,
                "pruning_init": 0.0,
                "params": {"pruning_target": 0.5, "pruning_steps": 3, "num_init_steps": 2},
            },
        }
    )
    ctrl, model = create_compressed_model(model, config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(8):
        ctrl.scheduler.epoch_step()
        for rows in torch.randperm(len(images)).split(32):
            ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            assert torch.isfinite(loss)
            loss.backward()
            optimizer.step()
    small = ctrl.strip().eval()
    assert small.rnn.hidden_size == 16
    with torch.no_grad():
        assert (small(test_images).argmax(1) == test_labels).float().mean() > 0.9
