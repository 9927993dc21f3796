"""Arms from words: `reuse`, `reuse+other`, `reuse@bf16`, and `method.key=value` for the methods' configs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from thrifty.compose.catalog import config_type
from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.distributed.precision import Precision
from thrifty.train.config import TrainConfig
from thrifty.train.precisions import AMPS, PRECISIONS

AUTO = "auto"
"""The arm whose methods and precision are found by trying, see `choice`."""


@dataclass(frozen=True)
class Arm:
    """One training among several that share all settings but these.

    Attributes:
        name: as on the command line; also the name of its folder.
        methods: configs for `thrifty.apply_`; none for the dense baseline.
        amp: the name of its precision, one of `AMPS`.
    """

    name: str
    methods: tuple[MethodConfig, ...]
    amp: str

    @property
    def precision(self) -> Precision:
        """What the name means."""
        return PRECISIONS[self.amp]

    def to_dict(self) -> dict[str, Any]:
        """Return the arm as plain data."""
        return {"name": self.name, "methods": [config.to_dict() for config in self.methods], "amp": self.amp}


def parse_arms(config: TrainConfig) -> list[Arm]:
    """Return the arms that `config.baseline`, `config.methods` and `config.settings` name, the baseline first.

    Raises:
        UsageError: unknown methods, keys or precisions, repeated arms, settings for a method that no arm uses, or no
            arm at all.
    """
    words = [word.strip() for word in config.methods.split(",") if word.strip() not in ("", "none")]
    settings = parse_settings(config.settings)
    arms = [Arm("dense", (), config.amp)] if config.baseline == "dense" else []
    used: set[str] = set()
    for word in words:
        names, _, amp = word.partition("@")
        if names == AUTO and amp:
            raise UsageError(f"--methods {word}: auto finds its precision by itself")
        if "@" in word and amp not in AMPS:
            raise UsageError(f"--methods {word}: unknown precision '{amp}'; choose one of {', '.join(AMPS)}")
        methods = [] if names in ("dense", AUTO) else names.split("+")
        used.update(methods)
        arms.append(
            Arm(word, tuple(_config(name, settings.get(name, {}), config.seed) for name in methods), amp or config.amp)
        )
    for name in settings:
        if name not in used:
            raise UsageError(f"--set {name}...: no arm uses {name}; --methods is '{config.methods}'")
    repeated = {arm.name for arm in arms if sum(arm.name == other.name for other in arms) > 1}
    if repeated:
        raise UsageError(f"the arm {', '.join(sorted(repeated))} is named twice in --methods")
    if not arms:
        raise UsageError("nothing to train: --baseline is none and --methods names no method")
    return arms


def fit_arms(arms: Iterable[Arm], *, steps: int) -> list[Arm]:
    """Tell methods that plan over the whole training how long it is: in `total_steps`, where they leave it open."""

    def fit(method: MethodConfig) -> MethodConfig:
        if getattr(method, "total_steps", steps) is None:
            return replace(method, **{"total_steps": steps})
        return method

    return [replace(arm, methods=tuple(fit(method) for method in arm.methods)) for arm in arms]


def method_configs(names: Iterable[str], settings: Iterable[str], seed: int) -> list[MethodConfig]:
    """The configs of the methods `names` under `settings`, as `parse_arms` reads them.

    Raises:
        UsageError: an unknown method or key, or settings of a method that is not named.
    """
    names, by_method = list(names), parse_settings(settings)
    for name in by_method:
        if name not in names:
            raise UsageError(f"--set {name}...: {name} is not among the methods {', '.join(names)}")
    return [_config(name, by_method.get(name, {}), seed) for name in names]


def parse_settings(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sort `method.key=value` by method; values are read as JSON where they are JSON, else taken as text.

    Raises:
        UsageError: a word of another form, or a key given twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        target, equals, text = word.partition("=")
        method, dot, key = target.partition(".")
        if not (equals and dot and method and key):
            raise UsageError(f"--set {word}: write it as method.key=value, for example reuse.length=8")
        if key in found.setdefault(method, {}):
            raise UsageError(f"--set {method}.{key} is given twice")
        found[method][key] = _value(text)
    return found


def _value(text: str) -> Any:
    spoken = {"True": True, "False": False, "None": None}
    if text in spoken:
        return spoken[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _config(name: str, data: Mapping[str, Any], seed: int) -> MethodConfig:
    kind = config_type(name)
    if any(field.name == "seed" for field in fields(kind)):
        data = {"seed": seed, **data}  # the seed of the run, unless the method was given its own
    return kind.from_dict({"_type": kind.__name__, "_version": kind.version, "_data": data})
