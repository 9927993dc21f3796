"""Does this installation work? Run with the Python of an environment into which a wheel was installed.

Applies a method to a small network, trains a step, takes it off, and runs the command line. Prints a line or fails.
"""

import subprocess
import sys

import torch
from torch import nn

import thrifty
from thrifty._load_native import native


def main() -> None:
    """Go through an installation from the import to the command line."""
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer)
    loss = nn.functional.cross_entropy(model(torch.randn(8, 16, 8, 8)), torch.arange(8) % 4)
    loss.backward()
    optimizer.step()
    applied.step(loss)
    thrifty.remove_(model)
    assert type(model[0]) is nn.Conv2d
    for words in (["--version"], ["doctor"], ["cite"]):
        subprocess.run([sys.executable, "-m", "thrifty", *words], check=True, capture_output=True)
    kernels = native.isa() if native is not None else "no kernels"
    print(f"thrifty {thrifty.__version__} with torch {torch.__version__}, {kernels}, at {thrifty.__file__}")


if __name__ == "__main__":
    main()
