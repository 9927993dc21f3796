"""Train the same PyTorch network for less compute, and see what you saved.

Names are loaded on first use, so that `import thrifty` costs little beside `import torch`.
"""
