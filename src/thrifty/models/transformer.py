"""A small Transformer encoder classifier: patches of an image, or tokens (Vaswani 2017; Dosovitskiy 2021).

Two pre-norm encoder layers of width 128, learned positions, the mean over positions, one Linear. An image is cut in
patches of 4 px (8 px from 64 px on, 16 px from 128 px on), its lower and right edge padded with zeros to whole patches.
"""

import torch
from torch import Tensor, nn

SMALLEST = 1
_WIDTH, _HEADS, _LAYERS, _HIDDEN = 128, 4, 2, 256
_LONGEST = 512


class Patches(nn.Sequential):
    """Images `(B, C, H, W)` -> patch vectors `(B, T, width)`."""

    def __init__(self, in_channels: int, image_size: tuple[int, int], width: int) -> None:
        side = max(image_size)
        patch = 4 if side < 64 else 8 if side < 128 else 16
        height, breadth = image_size
        super().__init__(
            nn.ZeroPad2d((0, -breadth % patch, 0, -height % patch)),
            nn.Conv2d(in_channels, width, kernel_size=patch, stride=patch),
            nn.Flatten(2),
        )
        self.length = -(-height // patch) * -(-breadth // patch)

    def forward(self, images: Tensor) -> Tensor:
        """One vector a patch, row by row."""
        return super().forward(images).transpose(1, 2)


class TransformerClassifier(nn.Module):
    """Images `(B, C, H, W)`, or token ids `(B, T)` int64 when `vocabulary` is given -> logits `(B, num_classes)`.

    Args:
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: (height, width) in pixels.
        vocabulary: number of token ids; None reads images.
        dropout: probability of dropping a value inside the encoder layers.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        vocabulary: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if vocabulary is None:
            patches = Patches(in_channels, image_size, _WIDTH)
            self.embedding: nn.Module = patches
            length = patches.length
        else:
            self.embedding, length = nn.Embedding(vocabulary, _WIDTH), _LONGEST
        self.positions = nn.Parameter(torch.empty(1, length, _WIDTH))
        nn.init.normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _HEADS, _HIDDEN, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, _LAYERS, norm=nn.LayerNorm(_WIDTH), enable_nested_tensor=False)
        for copy in self.encoder.layers:  # the layers are copies of one: draw each anew
            for weight in copy.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)
        self.classifier = nn.Linear(_WIDTH, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(B, num_classes)` from the mean over positions."""
        steps = self.embedding(inputs)
        steps = steps + self.positions[:, : steps.shape[1]]
        return self.classifier(self.encoder(steps).mean(dim=1))


def transformer(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    vocabulary: int | None = None,
    dropout: float = 0.0,
) -> TransformerClassifier:
    """Build the classifier for image patches, or for up to 512 token ids when `vocabulary` is given."""
    return TransformerClassifier(
        num_classes, in_channels=in_channels, image_size=image_size, vocabulary=vocabulary, dropout=dropout
    )
