"""A small LSTM classifier (Hochreiter & Schmidhuber, 1997): one layer, then one Linear on the last hidden state.

It reads an image as a sequence of its rows (W * C numbers each), or, with `vocabulary`, token ids through an
embedding. The forget gate starts with a bias of 1 (Gers et al., 2000): the state survives the first steps.
"""

import torch
from torch import Tensor, nn

SMALLEST = 1


class LSTMClassifier(nn.Module):
    """Images `(B, C, H, W)`, or token ids `(B, T)` int64 when `vocabulary` is given -> logits `(B, num_classes)`.

    Args:
        num_classes: width of the output.
        features: numbers a step: W * C of an image row, or the width of the embedding.
        hidden: width of the state.
        vocabulary: number of token ids; None reads images.
        dropout: probability of dropping a value of the last state.
    """

    def __init__(
        self, num_classes: int, *, features: int, hidden: int = 128, vocabulary: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, features)
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)
        parameters = dict(self.lstm.named_parameters())
        with torch.no_grad():  # gates lie in the order input, forget, cell, output; two biases are added
            parameters["bias_ih_l0"][hidden : 2 * hidden].fill_(1.0)
            parameters["bias_hh_l0"][hidden : 2 * hidden].zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(B, num_classes)` after the last step of each sequence."""
        states, _ = self.lstm(_rows(inputs) if self.embedding is None else self.embedding(inputs))
        return self.classifier(self.dropout(states[:, -1]))


def _rows(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).flatten(2)  # (B, H, W * C): a view when the images are channels_last


def lstm(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    vocabulary: int | None = None,
    hidden: int = 128,
    dropout: float = 0.0,
) -> LSTMClassifier:
    """Build the classifier for image rows, or for token ids when `vocabulary` is given."""
    features = hidden if vocabulary is not None else in_channels * image_size[1]
    return LSTMClassifier(num_classes, features=features, hidden=hidden, vocabulary=vocabulary, dropout=dropout)
