"""A layer of a million classes in a plain loop: `python examples/million_classes.py [classes] [steps]`.

Generated clusters of classes; prints the loss, the milliseconds of a step and where they go.
"""

import sys
import time

import torch

from thrifty.lsh import LazyAdam, LSHSoftmaxLoss

FEATURES, BATCH = 128, 128


def main(classes: int = 1_000_000, steps: int = 200) -> None:
    torch.manual_seed(0)
    centres = torch.randn(max(16, classes // 50), FEATURES)
    head = LSHSoftmaxLoss(FEATURES, classes)
    optimizer = LazyAdam(head.parameters(), lr=1e-2)
    optimizer.watch(head)
    for step in range(1, steps + 1):
        labels = torch.randint(classes, (BATCH,))
        x = centres[labels % len(centres)] + 0.5 * torch.randn(BATCH, FEATURES)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = head(x, labels)
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - start
        if step % 20 == 0 or step == 1:
            active = 0 if head.last is None else head.last.head + head.last.tail
            print(f"step {step}: loss {loss.item():.3f}, {1e3 * seconds:.1f} ms, {active} of {classes} classes")
    spent = {stage: f"{1e3 * total / steps:.1f} ms" for stage, total in head.stages.items()}
    print(f"mean of the forward stages: {spent}; tables and scratch: {head.extra_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
