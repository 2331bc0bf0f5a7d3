"""A teacher's answers in a file: hashes of samples, what is kept of an answer, and what the loss makes of it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import save_file

from nncf_ext import ConfigError, numpy_xp
from nncf_ext.distillation.losses import cached_cross_entropy, divergence, soft_cross_entropy
from nncf_ext.distillation.teacher_cache import CachedAnswer, TeacherCache, keys_of, top_of, write_cache


class Data:
    """As much of `nncf_ext.data.Framework` as the cache needs."""

    def named(self, model, inputs):
        return {"x": inputs}

    def flatten(self, outputs):
        return [(str(index), output) for index, output in enumerate(outputs)]

    def on_host(self, function, arrays, like):
        return list(function(*arrays))


class Numpy:
    """As much of an adapter as the cache needs; a model is a function of one array."""

    data = Data()

    def inference(self, model):
        return lambda inputs: (model(inputs), {})

    def to_numpy(self, array):
        return array


def teacher(x):
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(3, 4, 5)).astype(np.float32)
    return x @ first, np.einsum("nc,pcd->npd", x, second)


def samples(seed=0):
    return np.random.default_rng(seed).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    x = samples()
    write_cache(tmp_path / "t.safetensors", Numpy(), teacher, [x[:8], x[8:16], x[4:]], 2, 3.0)
    return TeacherCache(tmp_path / "t.safetensors")


def test_samples_are_found_in_any_order(cache):
    assert len(cache) == 20 and cache.temperature == 3.0 and cache.shapes == ((6,), (3, 5))
    x = samples()[[7, 0, 19, 7]]
    answers = cache.answering(Numpy(), None)(x.astype(np.float64))
    assert [answer.shape for answer in answers] == [(None, 6), (None, 3, 5)]
    for answer, logits in zip(answers, teacher(x), strict=True):
        p = numpy_xp.softmax(logits.astype(np.float64) / 3)
        np.testing.assert_allclose(answer.probabilities, -np.sort(-p, -1)[..., :2], rtol=1e-6)
        np.testing.assert_array_equal(answer.indices, np.argsort(-p, -1)[..., :2])
        np.testing.assert_allclose(answer.rest, np.sort(p, -1)[..., :-2].sum(-1), rtol=1e-5)
    assert isinstance(cache._arrays["0.indices"], np.memmap)


def test_an_unknown_sample_is_an_error(cache):
    with pytest.raises(ConfigError, match="no answer for 2 of 3 samples, number 1 for one: .* without augmentation"):
        cache.answering(Numpy(), None)(np.concatenate([samples()[:1], samples()[:2] + 0.01]))


def test_keys_do_not_depend_on_the_batch_or_the_width_of_numbers():
    tokens, mask, flag = np.arange(12).reshape(3, 4), np.ones((3, 4), bool), np.float32(2)
    keys = keys_of([tokens, mask, flag])
    assert len(set(keys.tolist())) == 3
    assert (keys[1:] == keys_of([tokens[1:].astype(np.int32), mask[1:].astype(np.int64), flag])).all()
    assert (keys != keys_of([tokens, ~mask, flag])).all() and (keys != keys_of([tokens, mask, 2 * flag])).all()


def test_what_is_no_cache_or_no_class_scores(tmp_path):
    (tmp_path / "text").write_text("no safetensors file")
    save_file({"keys": np.zeros(2)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(ConfigError, match=f"{name} is no teacher's cache"):
            TeacherCache(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        TeacherCache(tmp_path / "missing")

    def write(model, batches, top_k):
        write_cache(tmp_path / "t", Numpy(), model, batches, top_k, 1.0)

    with pytest.raises(ConfigError, match=r"shapes \[\(4,\)\] per sample, expected class scores, 5 or more"):
        write(lambda x: [x], [samples()], 5)
    with pytest.raises(ConfigError, match=r"\[\(3, 2\)\] after \[\(2, 2\)\]: pad sequences"):
        write(lambda x: [x.reshape(len(x), -1, 2)], [np.ones((2, 4)), np.ones((2, 6))], 1)
    with pytest.raises(ConfigError, match="gave no batch"):
        write(teacher, [], 1)


@given(st.integers(0, 1000), st.integers(1, 7), st.floats(0.5, 5))
def test_the_loss_of_a_cached_answer(seed, top_k, temperature):
    """All classes: the whole loss. Fewer: a lower bound of the divergence; its gradient spreads the rest as the student does."""
    rng = np.random.default_rng(seed)
    student, logits = 3 * rng.normal(size=(1, 7)), 3 * rng.normal(size=(1, 7))
    indices, p, rest = top_of(logits, top_k, temperature)
    cached = CachedAnswer(indices, p.astype(np.float64), rest.astype(np.float64), (None, 7))

    def loss(student, less_entropy=False):
        return cached_cross_entropy(numpy_xp, student, cached, temperature, None, less_entropy)

    whole = divergence(numpy_xp, student, logits, temperature)
    if top_k == 7:
        assert loss(student) == pytest.approx(soft_cross_entropy(numpy_xp, student, logits, temperature), rel=1e-5)
        assert loss(student, True) == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert -1e-5 <= loss(student, True) <= whole + 1e-5
    q = numpy_xp.softmax(student / temperature)[0]
    spread = rest[0] * q / max(q.sum() - q[indices[0]].sum(), 1e-300)
    spread[indices[0]] = p[0]
    for c in range(7):
        d = np.zeros_like(student)
        d[0, c] = 1e-5
        assert (loss(student + d) - loss(student - d)) / 2e-5 == pytest.approx(temperature * (q[c] - spread[c]), abs=1e-4)
