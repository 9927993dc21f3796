"""Random numbers without state, the same ones as in `csrc/include/thrifty/mix.h`: splitmix64's finaliser."""

MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """A bijection of 64-bit numbers that looks random."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def draw_below(random: int, below: int) -> int:
    """A number in [0, below) from 64 random bits."""
    return ((random >> 32) * below) >> 32
