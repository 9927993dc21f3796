"""Peak learning rates that train each network well at batch size 128, and how they follow the batch size."""

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


def learning_rate(model: str, optimizer: str, batch_size: int) -> float:
    """The peak learning rate used when none is given.

    It grows with the batch: linearly for SGD (Goyal et al., arXiv 1706.02677), with the square root for AdamW. Beyond
    four times the reference batch it stays, since larger steps need a longer warm-up than short runs have.
    """
    base = _LEARNING_RATES.get(model, _OWN)[optimizer]
    scale = min(batch_size / REFERENCE_BATCH, 4.0)
    return base * (scale if optimizer == "sgd" else scale**0.5)
