"""ExactConv2d: a convolution for inference that loses nothing: no zeros multiplied, ReLU and pool in one pass.

The other way to gain behind a ReLU, for layers where looking up costs too much time or exactness. Keeps its weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.surgery import adopt
from thrifty.ops._backend import use_native
from thrifty.ops.conv_block import relu_pool
from thrifty.ops.geometry import Geometry, Pool
from thrifty.ops.skip_conv2d import share_of_nonzeros, skip_conv2d
from thrifty.reuse.frozen_layer import pool_numbers, zeros_around

# A batch may have so many more nonzeros than calibration's before the dense route is taken.
SLACK = 1.3


class ExactConv2d(nn.Conv2d):
    """As the `nn.Conv2d` that it was made from, and the ReLU and max-pool behind it.

    Inputs that the kernels do not take (another dtype, one image without its batch axis, a gradient asked for) go
    through the stock layers' functions.
    """

    exact: dict[str, Any]

    @staticmethod
    def of(conv: nn.Conv2d, x: Tensor, *, skip: bool, relu: bool, pool: nn.MaxPool2d | None) -> "ExactConv2d":
        """From a convolution; `skip` leaves zeros out as long as they are about as many as in the input `x`."""
        limit = min(1.0, share_of_nonzeros(x) * SLACK) if skip else -1.0
        return ExactConv2d.restored(conv, {"limit": limit, "relu": relu, "pool": pool_numbers(pool)})

    @staticmethod
    def restored(conv: nn.Conv2d, exact: dict[str, Any]) -> "ExactConv2d":
        """From a convolution and what `exact` held. Raises ValueError for settings that make no sense."""
        pool = exact["pool"]
        if not isinstance(exact["limit"], float) or type(exact["relu"]) is not bool:
            raise ValueError("limit must be a number and relu true or false")
        if len(pool) not in (0, 6) or any(type(number) is not int or number < 0 for number in pool):
            raise ValueError(f"pool is {pool}: expected six whole numbers, or none")
        return adopt(conv, ExactConv2d, exact=exact)

    def forward(self, input: Tensor) -> Tensor:
        """As the stock layers' forward, one after the other."""
        relu, pool, limit = self.exact["relu"], self.exact["pool"], self.exact["limit"]
        wants_gradient = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        half = use_native(input, self.weight, dtype=torch.bfloat16)
        plain = wants_gradient or input.dim() != 4 or not (half or use_native(input, self.weight))
        if plain or half or limit < 0:
            y = super().forward(input)
        else:
            size = (input.shape[2], input.shape[3])
            geometry = Geometry.of(size, self.kernel_size, self.stride, zeros_around(self), self.dilation)  # type: ignore[arg-type]
            y = skip_conv2d(input, self.weight, self.bias, geometry.flat(), [limit, 0.0])
        if pool and relu and not plain:
            windows = Pool.of((y.shape[2], y.shape[3]), *((pool[i], pool[i + 1]) for i in (0, 2, 4)))
            return relu_pool(y.contiguous(memory_format=torch.channels_last), windows)[0]
        if relu:
            y = y.relu() if wants_gradient else y.relu_()
        if pool:
            y = nn.functional.max_pool2d(y, pool[:2], pool[2:4], pool[4:])
        return y
