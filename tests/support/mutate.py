"""Bytes that are nearly a file: whole ones with bits turned, parts cut, repeated, swapped, and numbers made extreme."""

import random

EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with one to four changes."""
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        if not damaged:
            return bytes(draw.randbytes(draw.randrange(64)))
        at = draw.randrange(len(damaged))
        kind = draw.randrange(7)
        if kind == 0:
            damaged[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            damaged[at] = draw.randrange(256)
        elif kind == 2:
            del damaged[at:]
        elif kind == 3:
            del damaged[at : at + draw.randint(1, 16)]
        elif kind == 4:
            damaged[at:at] = damaged[at : at + draw.randint(1, 64)]
        elif kind == 5:
            damaged[at : at + 4] = draw.choice(EXTREMES)
        else:
            damaged[at : at + 8] = draw.randbytes(8)
    return bytes(damaged)
