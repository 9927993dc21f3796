"""Data parallelism in a loop of your own: `torchrun --nproc-per-node 2 examples/data_parallel.py --epochs 2`.

Adaptive deep reuse, bfloat16 with fp32 masters, LARS, gradients merged by a plan of this machine and sent in bfloat16.
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import thrifty
from thrifty import distributed
from thrifty.data import ImageBatches, load_images
from thrifty.models import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist-slice", help="a named image set")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="images a step, of all processes")
    parser.add_argument("--plan", default=None, help="file that keeps the measured plan")
    arguments = parser.parse_args()
    distributed.join()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    data = load_images(arguments.data)

    def batches(epoch: int) -> ImageBatches:
        return ImageBatches(
            data.train, arguments.batch_size, mean=data.mean, std=data.std, augment=data.augment, shuffle=True, seed=0,
            epoch=epoch, drop_last=True, share=(rank, ranks),
        )  # fmt: skip

    torch.manual_seed(0)
    model = build("cifarnet", num_classes=len(data.classes), in_channels=data.channels, image_size=data.image_size)
    optimizer = distributed.LARS(distributed.parameter_groups(model, weight_decay=5e-4, lr=4.0, exempt_lr=0.05), lr=4.0)
    applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer, group=dist.group.WORLD)
    precision = distributed.MixedPrecision(
        distributed.Precision("bf16", weights="compute"), model, optimizer, group=dist.group.WORLD
    )
    images, labels = next(iter(batches(0)))

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with precision.autocast():
            return cross_entropy(parallel(images), labels)

    parallel: torch.nn.Module = model
    parallel = distributed.data_parallel(
        model, lambda: loss_of(images, labels), distributed.MergedGradients(saved=arguments.plan, transfer_s=2.0)
    )
    hook = distributed.attach(parallel, distributed.Wire("bf16"))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: distributed.polynomial((step + 0.5) / (arguments.epochs * len(batches(0))))
    )
    for epoch in range(arguments.epochs):
        total = torch.zeros(())
        for images, labels in batches(epoch):
            loss = loss_of(images, labels)
            precision.zero_grad()
            precision.backward(loss)
            precision.step()
            schedule.step()
            applied.step(loss)
            total += loss.detach()
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {total.item() / ranks / len(batches(0)):.3f}", flush=True)
    hook.close()
    if rank == 0:
        torch.save(precision.weights(), "data_parallel.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
