"""Which parameters are not weights: those of normalisation layers, and biases.

They are a handful (0.02 % of AlexNet's), and three rules leave them alone: no weight decay, which was worth 1.3 points
of accuracy at large batches (Jia et al., arXiv 1807.11205); no layer-wise rate; and 32 bits.
"""

from torch import nn

NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable weights of `model`, and apart from them its trainable biases and normalisation parameters.

    A vector is counted with the biases, wherever it stands: each of its elements is a scale or a shift.
    """
    norms = {id(p) for m in model.modules() if isinstance(m, NORMALISATION) for p in m.parameters(recurse=False)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    exempt = [p for p in trainable if p.dim() < 2 or id(p) in norms]
    held = {id(p) for p in exempt}
    return [p for p in trainable if id(p) not in held], exempt
