"""The graph that a Keras model is traced to."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow.trace import trace

from nncf_ext.graph import INPUT, OUTPUT, Graph, Site


def ops_of(graph: Graph) -> dict[str, str]:
    return {node.name: node.op for node in graph.nodes if node.op not in (INPUT, OUTPUT)}


def sources_of(graph: Graph, name: str) -> list[str]:
    return [edge.source for edge in graph.inputs_of[name]]


def test_a_fused_activation_is_a_node_of_its_own():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, activation="relu", name="conv1"),
            L.BatchNormalization(name="bn"),
            L.SeparableConv2D(5, 3, activation="silu", name="sep"),
            L.GlobalAveragePooling2D(name="pool"),
            L.Dense(3, activation="softmax", name="fc"),
        ]
    )
    graph = trace(model).graph
    assert ops_of(graph) == {
        "conv1": "Conv",
        "conv1/relu": "Relu",
        "bn": "BatchNormalization",
        "sep/depthwise": "Conv",
        "sep": "Conv",
        "sep/silu/sigmoid": "Sigmoid",
        "sep/silu": "Mul",
        "pool": "GlobalAveragePool",
        "fc": "Gemm",
        "fc/softmax": "Softmax",
    }
    assert sources_of(graph, "sep/silu") == ["sep", "sep/silu/sigmoid"]
    assert graph.shape_of(Site("conv1", "input:0")) == (-1, 8, 8, 3)
    assert graph["conv1"].parameter("weight").shape == (3, 3, 3, 4)
    assert graph["conv1"].parameter("weight").channel_axis == 3
    assert graph["conv1"].parameter("weight").name == "conv1/kernel"
    assert graph["sep/depthwise"].parameter("weight").channel_axis == 2
    assert graph["sep/depthwise"].attrs["groups"] == 4
    assert graph["sep/depthwise"].attrs["depthwise"]
    assert not graph["sep"].attrs["depthwise"]
    assert graph["conv1"].attrs["data_format"] == "channels_last"
    assert graph["bn"].attrs["axis"] == -1
    assert graph["fc"].parameter("bias").port == 2


@pytest.mark.parametrize(
    ("layer", "shape", "op", "channel_axis"),
    [
        (L.Dense(4), (5, 8), "MatMul", 1),
        (L.Dense(4), (8,), "Gemm", 1),
        (L.EinsumDense("abc,cd->abd", (None, 4)), (5, 8), "MatMul", 1),
        (L.Conv1D(4, 3), (9, 3), "Conv", 2),
        (L.Conv3D(4, 2), (4, 4, 4, 3), "Conv", 4),
        (L.Conv2DTranspose(4, 3), (5, 5, 3), "ConvTranspose", 2),
        (L.DepthwiseConv2D(3), (5, 5, 3), "Conv", 2),
        (L.PReLU(), (5,), "PRelu", None),
        (L.LayerNormalization(), (5, 8), "LayerNormalization", 0),
    ],
)
def test_layers_with_weights(layer, shape, op, channel_axis):
    model = keras.Sequential([keras.Input(shape), layer])
    node = trace(model).graph[layer.name]
    assert node.op == op
    assert node.parameter("weight").channel_axis == channel_axis


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (L.ReLU(6.0), "Clip"),
        (L.ReLU(), "Relu"),
        (L.Activation("tanh"), "Tanh"),
        (L.Activation("linear"), "Identity"),
        (L.Softmax(), "Softmax"),
        (L.Flatten(), "Flatten"),
        (L.Reshape((4, 16)), "Reshape"),
        (L.Permute((2, 1, 3)), "Transpose"),
        (L.Dropout(0.1), "Identity"),
        (L.ZeroPadding2D(), "Pad"),
        (L.UpSampling2D(), "Resize"),
        (L.MaxPooling2D(), "MaxPool"),
        (L.Rescaling(2.0), "Add"),
    ],
)
def test_layers_without_weights(layer, op):
    model = keras.Sequential([keras.Input((4, 4, 4)), layer])
    assert trace(model).graph[layer.name].op == op


def test_an_embedding_is_a_gather_whose_data_port_is_the_weight():
    graph = trace(keras.Sequential([keras.Input((5,), dtype="int32"), L.Embedding(10, 4, name="words")])).graph
    assert graph["words"].op == "Gather"
    assert graph["words"].parameter("weight").port == 0
    assert graph.inputs_of["words"][0].target_port == 1
    assert graph.inputs_of["words"][0].dtype == "int32"


def test_functional_with_operations_and_a_shared_layer():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", name="a")(inputs)
    y = L.Conv2D(4, 3, padding="same", name="b")(keras.ops.relu6(x)) + x
    dense = L.Dense(4, name="dense")
    model = keras.Model(inputs, dense(dense(y)))
    graph = trace(model).graph
    ops = ops_of(graph)
    assert list(ops.values()) == ["Conv", "Clip", "Conv", "Add", "MatMul", "MatMul"]
    add = next(name for name, op in ops.items() if op == "Add")
    assert sources_of(graph, add) == ["b", "a"]
    assert graph["dense"].parameters == graph["dense^1"].parameters
    assert sources_of(graph, "dense^1") == ["dense"]


def test_nested_models_are_entered():
    inner = keras.Sequential([keras.Input((8,)), L.Dense(8, activation="relu", name="first")], name="inner")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(2, name="last")(inner(inner(inputs))))
    graph = trace(model).graph
    assert list(ops_of(graph)) == ["inner/first", "inner/first/relu", "inner/first^1", "inner/first^1/relu", "last"]


class Block(L.Layer):
    def __init__(self):
        super().__init__()
        self.project = L.Dense(8)
        self.mixers = [L.Dense(4), L.Dense(4, name="second")]

    def build(self, shape):
        self.w = self.add_weight(shape=(4, 4), name="w")
        self.project.build(shape)
        self.mixers[0].build((None, 8))
        self.mixers[1].build((None, 4))

    def call(self, x):
        x = tf.nn.relu(self.project(x))
        x = self.mixers[1](self.mixers[0](x))
        x = tf.matmul(x, self.w) + 2 * x
        return keras.ops.concatenate([x, tf.reduce_mean(x, axis=-1, keepdims=True)], -1)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = L.Conv2D(4, 3)
        self.block = Block()
        self.dropout = L.Dropout(0.5)

    def call(self, x, training=None):
        x = self.dropout(self.conv(x), training=training)
        return self.block(keras.ops.mean(x, (1, 2)))


def test_subclassed_with_keras_and_tensorflow_operations():
    model = Subclassed()
    graph = trace(model, np.zeros((2, 8, 8, 3), np.float32)).graph
    assert ops_of(graph) == {
        "conv": "Conv",
        "dropout": "Identity",
        "mean_0": "ReduceMean",
        "block/project": "Gemm",
        "block/relu_0": "Relu",
        "block/mixers/0": "Gemm",
        "block/second": "Gemm",
        "block/matmul_0": "MatMul",
        "block/multiply_0": "Mul",
        "block/add_0": "Add",
        "block/reduce_mean_0": "ReduceMean",
        "block/concatenate_0": "Concat",
    }
    assert graph["block/matmul_0"].parameter("weight").name == "block/w"
    assert graph["block/matmul_0"].parameter("weight").port == 1
    assert sources_of(graph, "block/add_0") == ["block/matmul_0", "block/multiply_0"]


def test_names_do_not_depend_on_what_was_built_before():
    example = np.zeros((2, 8, 8, 3), np.float32)
    assert trace(Subclassed(), example).graph == trace(Subclassed(), example).graph


def test_tracing_leaves_nothing_in_the_model():
    model = Subclassed()
    example = np.zeros((2, 8, 8, 3), np.float32)
    model(example)
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    trace(model, example)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before


def test_multi_head_attention_is_projections_products_and_a_softmax():
    inputs = keras.Input((6, 16))
    x = L.MultiHeadAttention(2, 8, name="mha")(inputs, inputs)
    graph = trace(keras.Model(inputs, L.Add(name="residual")([inputs, x]))).graph
    assert ops_of(graph) == {
        "mha/query": "MatMul",
        "mha/key": "MatMul",
        "mha/value": "MatMul",
        "mha/scale": "Mul",
        "mha/scores": "MatMul",
        "mha/softmax": "Softmax",
        "mha/context": "MatMul",
        "mha/attention_output": "MatMul",
        "residual": "Add",
    }
    assert graph.shape_of(Site("mha/softmax", "output")) == (-1, 2, 6, 6)
    assert graph["mha/query"].parameter("weight").shape == (16, 2, 8)
    assert graph["mha/query"].parameter("weight").channel_axis == 2
    assert sources_of(graph, "mha/context") == ["mha/softmax", "mha/value"]


@pytest.mark.parametrize(
    "layer, op, slots",
    [
        (L.LSTM(4), "LSTM", "kernel recurrent_kernel bias"),
        (
            L.RNN([L.LSTMCell(4), L.GRUCell(5, use_bias=False)]),
            "GRU",
            "0/kernel 0/recurrent_kernel 0/bias 1/kernel 1/recurrent_kernel",
        ),
        (
            L.Bidirectional(L.SimpleRNN(4, use_bias=False)),
            "RNN",
            "forward/kernel forward/recurrent_kernel backward/kernel backward/recurrent_kernel",
        ),
    ],
)
def test_recurrent_layers_are_one_operator_with_the_weights_of_their_cells(layer, op, slots):
    graph = trace(keras.Sequential([keras.Input((6, 8)), layer, L.Dense(2, name="last")])).graph
    node = graph[layer.name]
    assert node.op == op and sources_of(graph, "last") == [layer.name]
    assert [p.slot for p in node.parameters] == slots.split()
    axes = {p.slot.rpartition("/")[2]: (p.port, p.channel_axis, p.input_axis) for p in node.parameters}
    assert axes["kernel"] == (1, 1, 0) and axes["recurrent_kernel"] == (2, 1, 0)


class OwnCell(L.LSTMCell):
    def call(self, inputs, states, training=False):
        return super().call(inputs, states, training)


@pytest.mark.parametrize("layer", [L.ConvLSTM1D(4, 3), L.RNN(OwnCell(4)), L.TimeDistributed(L.Dense(4))])
def test_layers_that_are_not_known_are_opaque(layer):
    shape = (6, 8, 2) if isinstance(layer, L.ConvLSTM1D) else (6, 8)
    graph = trace(keras.Sequential([keras.Input(shape), layer, L.Dense(2, name="last")])).graph
    assert graph[layer.name].op == type(layer).__name__
    assert sources_of(graph, "last") == [layer.name]


class DependsOnData(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4, activation="relu")

    def call(self, x):
        x = self.dense(x)
        return x * 2 if keras.ops.sum(x) > 0 else x


def test_control_flow_on_data_is_opaque_but_its_layers_are_found():
    graph = trace(DependsOnData(), np.zeros((2, 8), np.float32)).graph
    assert {"dense", "dense/relu"} <= set(ops_of(graph))
    assert graph["dense"].parameter("weight") is not None
    assert "DependsOnData" in ops_of(graph).values()


def test_a_model_that_was_never_built_needs_an_example():
    with pytest.raises(ValueError, match="has not been built"):
        trace(Subclassed())


def test_mobilenet_and_resnet():
    mobilenet = trace(keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None)).graph
    ops = list(ops_of(mobilenet).values())
    assert (ops.count("Conv"), ops.count("Add"), ops.count("Gemm")) == (52, 10, 1)
    assert sum(bool(node.attrs.get("depthwise")) for node in mobilenet.nodes) == 17
    resnet = trace(keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False)).graph
    ops = list(ops_of(resnet).values())
    assert (ops.count("Conv"), ops.count("Add")) == (53, 16)


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, [L.Add(name="sum")([a, b]), L.Dense(2, name="fc")(a)])
    graph = trace(model).graph
    assert [node.name for node in graph.nodes if node.op == INPUT] == ["/nncf_model_input_0", "/nncf_model_input_1"]
    assert sources_of(graph, "/nncf_model_output_0") == ["sum"]
    assert sources_of(graph, "/nncf_model_output_1") == ["fc"]
