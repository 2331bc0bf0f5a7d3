"""NNCF 2.x's older keys that count batches: `num_init_steps`, `num_bn_adaptation_steps`."""

import pytest

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.config.initialization import BatchnormAdaptation, RangeInit


def test_batches_stand_for_samples():
    with pytest.warns(FutureWarning, match="'num_init_steps' counts batches: it is called 'num_init_samples' now"):
        start = RangeInit(num_init_steps=3)
    assert (start.samples(16), start.amount) == (48, "3 batches")
    with pytest.warns(FutureWarning, match="num_bn_adaptation_samples"):
        adaptation = BatchnormAdaptation(num_bn_adaptation_steps=5)
    assert adaptation.samples(8) == 40
    assert (RangeInit().samples(16), BatchnormAdaptation().samples(16)) == (256, 2000)


@pytest.mark.parametrize(
    ("section", "samples", "batches"),
    [
        ("range", "num_init_samples", "num_init_steps"),
        ("batchnorm_adaptation", "num_bn_adaptation_samples", "num_bn_adaptation_steps"),
    ],
)
def test_both_units_are_refused(section, samples, batches):
    config = {"compression": {"algorithm": "quantization", "initializer": {section: {samples: 8, batches: 1}}}}
    with pytest.raises(ConfigError, match=f"initializer.{section}.{batches}: the older spelling of '{samples}'"):
        NNCFConfig.from_dict(config)
