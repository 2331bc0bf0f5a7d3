"""The config: a dictionary in NNCF 2.x's JSON language, and its typed reading."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from nncf_ext.algorithms import ALGORITHMS, KNOWN_NOT_BUILT, Algorithm
from nncf_ext.calibration.initialization import BNAdaptationInitArgs, QuantizationRangeInitArgs, for_model
from nncf_ext.config import loader
from nncf_ext.config.accuracy_aware import AccuracyAwareTraining
from nncf_ext.config.section import ScopedConfig
from nncf_ext.config.top_level import InputInfo, TopLevel
from nncf_ext.data import ModelInputs
from nncf_ext.errors import ConfigError, as_json, choose, json_path, nearest, parse
from nncf_ext.files.json_text import expect_plain, refused_as
from nncf_ext.nncf2.names import ALGORITHMS as FORMER_NAMES
from nncf_ext.scopes import LONGEST, MARKER, Inherited

_MOST_LISTED, _LONGEST_SHOWN = 50, 100  # keys of the script in what `validate_file` says, and their characters


class NNCFConfig(dict[str, Any]):
    """The config as a dictionary, with what a run needs beside JSON ("extra structs": data loaders and the like).

    `from_json` and `from_dict` validate. `NNCFConfig({...})` and `update` do not, as in NNCF 2.x; the readings below do.

    >>> config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization", "weights": {"bits": 4}}})
    >>> config["compression"]["weights"]
    {'bits': 4}
    >>> NNCFConfig.from_dict({"compression": {"algorithm": "quantization", "weights": {"bit": 4}}})
    Traceback (most recent call last):
    nncf_ext.errors.ConfigError: ...did you mean 'bits'?
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._extra_structs: dict[str, Any] = {}

    @classmethod
    def from_json(cls, path: str | Path) -> NNCFConfig:
        """OSError where the file cannot be read, ConfigError where it is no valid config."""
        return cls._validated(loader.load(path))

    @classmethod
    def from_dict(cls, nncf_dict: Mapping[str, Any]) -> NNCFConfig:
        """A deep copy. ConfigError where it is no valid config."""
        return copy.deepcopy(cls._validated(nncf_dict))

    @classmethod
    def _validated(cls, content: Any) -> NNCFConfig:
        if not isinstance(content, Mapping):
            raise ConfigError(f"top level: found {as_json(content)}, expected an object")
        with refused_as(ConfigError, "config"):
            texts = expect_plain(content, loader.MOST_VALUES)
        expressions = sum(len(text) for text in texts if MARKER in text)
        if expressions > LONGEST:
            raise ConfigError(f"config: found {expressions:,} characters of regular expressions, expected {LONGEST:,} at most")
        config = cls(content)
        config.algorithms()
        return config

    @classmethod
    def expected(cls, config: Any) -> NNCFConfig:
        """`config` itself; ConfigError where it is something else, a plain dictionary say."""
        if not isinstance(config, cls):
            raise ConfigError(f"config: found a {type(config).__name__}, expected an NNCFConfig; NNCFConfig.from_dict makes one")
        return config

    @classmethod
    def validate(cls, loaded_json: Mapping[str, Any]) -> None:
        """ConfigError where it is no valid config."""
        cls._validated(loaded_json)

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON Schema of a config."""
        return json_schema()

    def algorithms(self) -> tuple[Algorithm, ...]:
        """The entries of `compression` as instances of their classes, with the scopes of the top level merged in."""
        top = self._top_level()
        algorithms: dict[str, Any] = {}
        for location, entry in self._entries():
            name = _algorithm_name(location, entry)
            if name in algorithms:
                raise ConfigError(f"{json_path(location)}: found a second entry for {name!r}, expected one per algorithm")
            family = ALGORITHMS[name].family
            other = next((n for n in algorithms if family and ALGORITHMS[n].family == family), None)
            if other is not None:
                raise ConfigError(f"{json_path(location)}: found {name!r} beside {other!r}, expected one {family} algorithm")
            algorithm = parse(ALGORITHMS[name], {**entry, "algorithm": name}, location)
            if isinstance(algorithm, ScopedConfig):
                algorithm = _with_scopes_of(top, algorithm)
                algorithm._json_path = json_path(location)
            algorithms[name] = algorithm
        return tuple(algorithms.values())

    def input_infos(self) -> tuple[InputInfo, ...]:
        """The model's inputs; none where the config leaves them to the data."""
        return self._top_level().input_info or ()

    @property
    def target_device(self) -> str:
        return self._top_level().target_device

    @property
    def log_dir(self) -> str | None:
        return self._top_level().log_dir

    @property
    def accuracy_aware_training(self) -> AccuracyAwareTraining | None:
        return self._top_level().accuracy_aware_training

    @property
    def compression_lr_multiplier(self) -> float | None:
        return self._top_level().compression_lr_multiplier

    def register_extra_structs(self, struct_list: Iterable[Any]) -> None:
        """Remember objects by their class. ValueError for a second one of a class."""
        for struct in struct_list:
            name = type(struct).__name__
            if name in self._extra_structs:
                raise ValueError(f"the config already has a {name}, expected one at most")
            self._extra_structs[name] = struct

    def get_extra_struct(self, struct_cls: type) -> Any:
        """The registered object of a class; KeyError where there is none."""
        return self._extra_structs[struct_cls.__name__]

    def has_extra_struct(self, struct_cls: type) -> bool:
        return struct_cls.__name__ in self._extra_structs

    def get_all_extra_structs(self) -> dict[str, Any]:
        return self._extra_structs

    def get_redefinable_global_param_value_for_algo(self, param_name: str, algo_name: str) -> Any:
        """A key's value in the entry of an algorithm or, where it has none there, at the top level; None where in neither."""
        entries = {entry.get("algorithm"): entry for _, entry in self._entries() if isinstance(entry, Mapping)}
        if algo_name not in entries:
            raise ConfigError(f"compression: found no entry for {algo_name!r}{_listed(entries)}")
        value = entries[algo_name].get(param_name)
        return self.get(param_name) if value is None else value

    def _top_level(self) -> TopLevel:
        return parse(TopLevel, {key: value for key, value in self.items() if key != "compression"})

    def _entries(self) -> list[tuple[tuple[str | int, ...], Any]]:
        """The entries of `compression`, each with where it stands."""
        compression = self.get("compression", [])
        if isinstance(compression, Mapping):
            return [(("compression",), compression)]
        if isinstance(compression, list | tuple):
            return [(("compression", index), entry) for index, entry in enumerate(compression)]
        raise ConfigError(f"compression: found {as_json(compression)}, expected an object or an array of objects")


def register_loader(config: NNCFConfig, batches: Callable[[], Iterable[Any]]) -> NNCFConfig:
    """Use `batches` for every initialisation that needs data."""
    config.register_extra_structs([QuantizationRangeInitArgs(batches), BNAdaptationInitArgs(batches)])
    return config


def first_batch(config: NNCFConfig, expected: ModelInputs) -> Any:
    """One of those registered for ranges, as model inputs; None where there is none."""
    args = for_model(config.get_all_extra_structs(), expected).get(QuantizationRangeInitArgs.__name__)
    return next(iter(args.batches()), None) if args is not None else None


def is_accuracy_aware_training(nncf_config: NNCFConfig) -> bool:
    return nncf_config.get("accuracy_aware_training") is not None


def validate_file(path: str | Path) -> str:
    """What a config file asks for, for people. OSError where it cannot be read, ConfigError where it is no valid config."""
    config = NNCFConfig.from_json(path)
    algorithms = config.algorithms()
    lines = [f"{path}: valid", f"  target device: {config.target_device}"]
    lines += [f"  input: {list(info.sample_size)} {info.type}" for info in config.input_infos()]
    lines += [f"  {algorithm.algorithm}{_given(algorithm)}" for algorithm in algorithms]
    if not algorithms:
        lines.append("  no compression")
    unknown = [key for key in config if key not in TopLevel.model_fields and key != "compression"]
    for key in unknown[:_MOST_LISTED]:
        close = nearest(key, [*TopLevel.model_fields, "compression"])
        lines.append(f"  {key[:_LONGEST_SHOWN]}: left to the training script{f'; did you mean {close!r}?' if close else ''}")
    if len(unknown) > _MOST_LISTED:
        lines.append(f"  {len(unknown) - _MOST_LISTED} more keys: left to the training script")
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a config: what `validate_file` accepts, for editors."""
    refs, definitions = models_json_schema([(model, "validation") for model in (TopLevel, *ALGORITHMS.values())])
    top = definitions["$defs"].pop(TopLevel.__name__)
    for name, model in ALGORITHMS.items():
        definition = definitions["$defs"][refs[model, "validation"]["$ref"].rpartition("/")[2]]
        definition["required"] = ["algorithm", *definition.get("required", [])]
        definition["description"] = (sys.modules[model.__module__].__doc__ or "").strip()
        former = [old for old, present in FORMER_NAMES.items() if present == name]
        if former:
            definition["properties"]["algorithm"] = {**definition["properties"]["algorithm"], "enum": [name, *former]}
            definition["properties"]["algorithm"].pop("const", None)
    entry = {"oneOf": [refs[model, "validation"] for model in ALGORITHMS.values()]}
    top["properties"]["compression"] = {
        "anyOf": [entry, {"type": "array", "items": entry}],
        "description": "The algorithms, each at most once. They are applied together.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "title": "nncf_ext config",
        "description": "How to compress a model while it trains.",
        **definitions,
    }


def _algorithm_name(location: tuple[str | int, ...], entry: Any) -> str:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{json_path(location)}: found {as_json(entry)}, expected an object")
    if "algorithm" not in entry:
        raise ConfigError(f"{json_path(location)}: the key 'algorithm' is missing, {choose(None, ALGORITHMS)}")
    name = entry["algorithm"]
    path = json_path((*location, "algorithm"))
    if isinstance(name, str) and name in ALGORITHMS:
        return name
    if isinstance(name, str) and name in FORMER_NAMES:
        present = FORMER_NAMES[name]
        warnings.warn(f"{path}: {name!r} is now called {present!r}", DeprecationWarning, stacklevel=4)
        return present
    if isinstance(name, str) and name in KNOWN_NOT_BUILT:
        raise ConfigError(f"{path}: {name!r} is known, not built yet, {choose(None, ALGORITHMS)}")
    raise ConfigError(f"{path}: found {as_json(name)}, {choose(name, ALGORITHMS)}")


def _with_scopes_of(top: TopLevel, algorithm: ScopedConfig) -> ScopedConfig:
    """Ignored scopes add up; the algorithm's own target scopes replace those of the top level."""
    ignored = algorithm.ignored_scopes + tuple(map(Inherited, top.ignored_scopes))
    target = algorithm.target_scopes
    if target is None and top.target_scopes is not None:
        target = tuple(map(Inherited, top.target_scopes))
    return algorithm.model_copy(update={"ignored_scopes": ignored, "target_scopes": target})


def _given(algorithm: Any) -> str:
    """The keys that differ from the defaults, as `: key value, key.key value`."""
    given = algorithm.model_dump(mode="json", exclude={"algorithm"}, exclude_defaults=True)
    return f": {', '.join(_flat(given))}" if given else ""


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} {as_json(value)}"


def _listed(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return f", it has {', '.join(names)}" if names else ""
