"""Peak learning rates that train each network well at batch size 128, and how they follow the batch size; recipes."""

from typing import Any

from thrifty.core.errors import UsageError

REFERENCE_BATCH = 128

# Peaks that started smoothly in short runs on small images; a smooth start was preferred to the fastest one.
_LEARNING_RATES = {
    "cifarnet": {"sgd": 0.02, "adamw": 1e-3},
    "cifarnet-bn": {"sgd": 0.05, "adamw": 2e-3},
    "alexnet": {"sgd": 0.02, "adamw": 4e-4},
    "alexnet-bn": {"sgd": 0.04, "adamw": 5e-4},
    "vgg19": {"sgd": 0.02, "adamw": 1e-4},
    "vgg19-bn": {"sgd": 0.02, "adamw": 5e-4},
    "resnet50": {"sgd": 0.05, "adamw": 1e-3},
    "lstm": {"sgd": 0.2, "adamw": 3e-3},
    "transformer": {"sgd": 0.05, "adamw": 1e-3},
}
_OWN = {"sgd": 0.02, "adamw": 1e-3}
_LAYERWISE = {"lars": 2.0, "lamb": 2e-3}
"""Whatever the network: what a tensor moves by is relative to its own length."""

RECIPES: dict[str, dict[str, Any]] = {
    "large-batch": {"optimizer": "lars", "schedule": "poly", "warm_up": 0.2, "weight_decay": 5e-4},
}
"""Settings that go together (Jia et al., arXiv 1807.11205). Biases and normalisation parameters never decay."""


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe. Raises UsageError for an unknown one."""
    if name not in RECIPES:
        raise UsageError(f"unknown --recipe '{name}'; choose one of {', '.join(RECIPES)}")
    return dict(RECIPES[name])


def learning_rate(model: str, optimizer: str, batch_size: int) -> float:
    """The peak learning rate used when none is given.

    It grows with the batch: linearly for SGD (Goyal et al., arXiv 1706.02677), with the square root for the others.
    Beyond four times the reference batch it stays for SGD and AdamW, since larger steps need a longer warm-up than
    short runs have; LARS and LAMB are made for those.
    """
    scale = batch_size / REFERENCE_BATCH
    if optimizer in _LAYERWISE:
        return _LAYERWISE[optimizer] * scale**0.5
    base, scale = _LEARNING_RATES.get(model, _OWN)[optimizer], min(scale, 4.0)
    return base * (scale if optimizer == "sgd" else scale**0.5)
