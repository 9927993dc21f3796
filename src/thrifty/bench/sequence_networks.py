"""The recurrent networks of `reuse-sequences`: a language model, and a reader of packed reviews."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class LanguageModel(nn.Module):
    """Token ids (T, B) int64 -> logits of the next tokens (T * B, tokens). `kind`: LSTM or GRU."""

    def __init__(self, kind: str, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.recurrent = getattr(nn, kind)(width, width)
        self.decoder = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits step after step; every window starts from a state of zeros."""
        states, _ = self.recurrent(self.embedding(tokens))
        return self.decoder(states.flatten(0, 1))


class ReviewReader(nn.Module):
    """(Token ids (B, T) int64, lengths (B,) int64) -> logits (B, num_classes), from the last states both ways."""

    def __init__(self, kind: str, tokens: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.recurrent = getattr(nn, kind)(width, width, bidirectional=True, batch_first=True)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Padding is left out of the recurrence."""
        tokens, lengths = inputs
        steps = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(steps)
        ended = last[0] if isinstance(last, tuple) else last
        return self.classifier(torch.cat([ended[0], ended[1]], 1))
