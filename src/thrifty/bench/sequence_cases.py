"""Networks on real sequences for `reuse-sequences`: what is trained on what, and which ways of reuse are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thrifty.data import ImageSplit
    from thrifty.reuse import Reuse

Batch = tuple[Any, "Tensor"]  # what the network takes, and the targets
Settings = Mapping[str, Mapping[str, Any]]

EXACT = {"sequences": "exact"}
CLUSTERS = {"sequences": "clusters", "linear": True}
CONTROL_NAME, CONTROL = "nothing shared", dict[str, Any]()  # thrifty's recurrence with dense products


@dataclass(frozen=True)
class Loaded:
    """Data ready for training: where they are from, endless training batches, test batches, width of the output."""

    source: str
    train: Callable[[], Iterator[Batch]]
    test: list[Batch]
    classes: int
    tokens: int = 0


@dataclass(frozen=True)
class Case:
    """One network on one data set.

    Attributes:
        metric: of the test batches: `perplexity` (a lower one is better) or `accuracy`.
        settings: the ways of reuse to try, by what the row calls them.
        steps: training steps of a full and of a quick run.
    """

    network: str
    data: str
    metric: str
    load: Callable[[Path | None], Loaded]
    build: Callable[[Loaded], nn.Module]
    settings: Settings
    steps: tuple[int, int]


def reuse(settings: Mapping[str, Any]) -> Reuse:
    """The config of an arm: one setting for the whole training."""
    from thrifty.reuse import Reuse, Stage

    return Reuse(stages=(Stage(32, 8),), fixed=True, **settings)


def words(root: Path | None) -> Loaded:
    """PTB by words, 64 streams of 35 words a step."""
    from thrifty.data import load_text

    data = load_text("ptb", root=root, download=False)
    return _language(data.source, data.train, data.valid[:40_000], len(data.vocab), streams=64, length=35)


def characters(root: Path | None) -> Loaded:
    """PTB by characters, 64 streams of 100 characters a step; a space after each word, <eos> is one character."""
    import torch

    from thrifty.data import load_text

    data = load_text("ptb", root=root, download=False)
    spelt = [[*word, " "] if word != "<eos>" else ["\n"] for word in data.vocab]
    number = {c: i for i, c in enumerate(sorted({c for word in spelt for c in word}))}
    pieces = [[number[c] for c in word] for word in spelt]
    train, valid = (
        torch.tensor([c for word in tokens.tolist() for c in pieces[word]])
        for tokens in (data.train[:300_000], data.valid[:10_000])
    )
    return _language(data.source, train, valid, len(number), streams=64, length=100)


def _language(source: str, train: Tensor, valid: Tensor, tokens: int, streams: int, length: int) -> Loaded:
    def windows(of: Tensor, count: int) -> Iterator[Batch]:
        lanes = of[: len(of) // count * count].view(count, -1).t()
        for start in range(0, len(lanes) - length, length):
            yield lanes[start : start + length], lanes[start + 1 : start + length + 1].reshape(-1)

    def forever() -> Iterator[Batch]:
        while True:
            yield from windows(train, streams)

    return Loaded(source, forever, list(windows(valid, 16)), tokens, tokens)


def reviews(length: int, batch: int, packed: bool) -> Callable[[Path | None], Loaded]:
    """IMDB reviews cut after `length` words, shuffled; `packed` hands on their lengths."""

    def load(root: Path | None) -> Loaded:
        import torch

        from thrifty.data import load_labelled_text

        data = load_labelled_text("imdb-reviews", root=root, max_length=length, download=False)
        source = torch.Generator().manual_seed(0)

        def batches(split: Any, rows: Tensor) -> Iterator[Batch]:
            for some in rows.split(batch):
                tokens = split.tokens[some]
                yield (tokens, split.lengths[some]) if packed else tokens, split.labels[some]

        def forever() -> Iterator[Batch]:
            while True:
                order = torch.randperm(len(data.train), generator=source.manual_seed(source.initial_seed()))
                yield from batches(data.train, order[: len(order) // batch * batch])

        few = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))[:1024]
        return Loaded(data.source, forever, list(batches(data.test, few)), len(data.classes), len(data.vocab))

    return load


def image_rows(root: Path | None) -> Loaded:
    """Fashion-MNIST, an image as a sequence of 28 rows of 28 pixels."""
    from thrifty.bench.activations import load_or_slice
    from thrifty.data import ImageBatches

    data = load_or_slice("fashion-mnist", root, 20_000)

    def batches(split: ImageSplit, train: bool, epoch: int = 0) -> Iterator[Batch]:
        yield from ImageBatches(
            split, 128, mean=data.mean, std=data.std, augment=None, shuffle=train, seed=0, epoch=epoch, drop_last=train
        )

    def forever() -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from batches(data.train, True, epoch)
            epoch += 1

    return Loaded(data.source, forever, list(batches(data.test, False)), len(data.classes))


def language_model(kind: str, width: int) -> Callable[[Loaded], nn.Module]:
    """Embedding, one recurrent layer, Linear; targets are the next tokens."""

    def make(data: Loaded) -> nn.Module:
        from thrifty.bench.sequence_networks import LanguageModel

        return LanguageModel(kind, data.tokens, width)

    return make


def review_reader(kind: str, width: int) -> Callable[[Loaded], nn.Module]:
    """Embedding, one recurrent layer in both directions over packed sequences, Linear on the last states."""

    def make(data: Loaded) -> nn.Module:
        from thrifty.bench.sequence_networks import ReviewReader

        return ReviewReader(kind, data.tokens, width, data.classes)

    return make


def transformer(data: Loaded) -> nn.Module:
    """The house's Transformer encoder: two layers of width 128, four heads, learned positions."""
    from thrifty.models import build

    return build("transformer", num_classes=data.classes, vocabulary=data.tokens)


def row_reader(data: Loaded) -> nn.Module:
    """The house's LSTM over the rows of an image."""
    from thrifty.models import build

    return build("lstm", num_classes=data.classes, in_channels=1, image_size=28)


_EQUAL = {CONTROL_NAME: CONTROL, "equal rows": EXACT}
_BOTH = {**_EQUAL, "clusters": {"sequences": "clusters"}}
CASES = (
    Case("LSTM 256", "ptb words", "perplexity", words, language_model("LSTM", 256), _EQUAL, (100, 10)),
    Case("GRU 256", "ptb words", "perplexity", words, language_model("GRU", 256), _EQUAL, (100, 10)),
    Case(
        "LSTM 256", "ptb characters", "perplexity", characters, language_model("LSTM", 256),
        {**_BOTH, "clusters, state too": {"sequences": "clusters", "recurrent": True}}, (200, 10),
    ),
    Case("GRU 256", "ptb characters", "perplexity", characters, language_model("GRU", 256), _BOTH, (200, 10)),
    Case(
        "bidirectional GRU 128", "imdb, 256 words", "accuracy", reviews(256, 32, True), review_reader("GRU", 128),
        _EQUAL, (300, 10),
    ),
    Case(
        "Transformer 128", "imdb, 512 words", "accuracy", reviews(512, 16, False), transformer,
        {
            "equal rows": EXACT,
            "queries, 32": {"attention": "queries", "attention_bits": 5},
            "queries, 64": {"attention": "queries"},
            "keys, 64": {"attention": "keys"},
            "clusters": CLUSTERS,
        },
        (400, 10),
    ),
    Case(
        "LSTM 128", "fashion-mnist rows", "accuracy", image_rows, row_reader, _BOTH, (450, 20),
    ),
)  # fmt: skip
