"""Data parallelism: `torchrun --nproc-per-node 2 examples/data_parallel.py --epochs 2`.

Reuse, bfloat16 with fp32 masters, LARS, gradients merged by a plan of this machine and sent in bfloat16.
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import thrifty
from thrifty import distributed
from thrifty.data import ImageBatches, load_images
from thrifty.models import build

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", default="fashion-mnist-slice", help="a named image set")
parser.add_argument("--images", type=int, default=None, help="training images to use")
parser.add_argument("--epochs", type=int, default=2)
arguments = parser.parse_args()
distributed.join()
rank, ranks = dist.get_rank(), dist.get_world_size()
data = load_images(arguments.data, limit_train=arguments.images)


def batches(epoch: int) -> ImageBatches:
    return ImageBatches(
        data.train, 64, mean=data.mean, std=data.std, augment=data.augment, shuffle=True, seed=0, epoch=epoch,
        drop_last=True, share=(rank, ranks),
    )  # fmt: skip


torch.manual_seed(0)
model = build("cifarnet", num_classes=len(data.classes), in_channels=data.channels, image_size=data.image_size)
optimizer = distributed.LARS(distributed.parameter_groups(model, weight_decay=5e-4, lr=4.0, exempt_lr=0.05), lr=4.0)
applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer, group=dist.group.WORLD)
policy = distributed.Precision("bf16", weights="compute")
precision = distributed.MixedPrecision(policy, model, optimizer, group=dist.group.WORLD)
images, labels = next(iter(batches(0)))
parallel = distributed.data_parallel(
    model, lambda: cross_entropy(model(images.bfloat16()), labels), distributed.MergedGradients(transfer_s=2.0)
)
hook = distributed.attach(parallel, distributed.Wire("bf16"))
for epoch in range(arguments.epochs):
    for images, labels in batches(epoch):
        with precision.autocast():
            loss = cross_entropy(parallel(images), labels)
        precision.zero_grad()
        precision.backward(loss)
        precision.step()
        applied.step(loss)  # the mean over the ranks counts
    if rank == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
hook.close()
dist.destroy_process_group()
