"""One seed for everything: each user of randomness derives its own from it, by name.

Derived seeds depend on nothing but the seed and the keys: not on the process, the platform, the order of calls or
the global generators, which stay untouched.
"""

import hashlib

import torch

from thrifty.core.errors import UsageError


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in [0, 2**63) for the use that `keys` name, for example `derive_seed(0, "hash", "conv1", 3)`.

    Numbers and texts are told apart ("3" is not 3), and so are ("ab", "c") and ("a", "bc"). All bits are
    equally mixed, which matters as torch's CPU generator looks at the low 32 bits only.

    Raises:
        UsageError: for a seed or key that is neither an integer nor a text.
    """
    digest = hashlib.sha256()
    for key in (seed, *keys):
        if not isinstance(key, (int, str)):
            raise UsageError(f"seeds are derived from integers and texts, got {type(key).__name__}")
        text = str(int(key)) if isinstance(key, int) else key
        data = text.encode()
        digest.update(f"{'i' if isinstance(key, int) else 's'}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device`, seeded with `derive_seed(seed, *keys)`.

    Raises:
        UsageError: as `derive_seed`.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))
