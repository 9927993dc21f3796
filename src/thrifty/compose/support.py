"""What each method does beside torch's own features, stated cell by cell. Every cell has a test of its name.

A cell says `works` (the method keeps acting, with the values that the feature promises), `falls back` (the result is
right, the method does not act, or acts outside of what the feature covers) or `refuses` (an error that says what to do
instead). There is no fourth: nothing is silently wrong.
"""

from dataclasses import dataclass

WORKS, FALLS_BACK, REFUSES = "works", "falls back", "refuses"
VERDICTS = (WORKS, FALLS_BACK, REFUSES)


@dataclass(frozen=True)
class Cell:
    """How one method and one feature go together.

    Attributes:
        verdict: one of `VERDICTS`.
        says: what happens, in a sentence; for a refusal, the way that works.
    """

    verdict: str
    says: str


# feature -> what the user does
FEATURES = {
    "compile-training": "`torch.compile` of a changed model, training",
    "compile-evaluation": "`torch.compile` of a changed model, evaluation",
    "compile-first": "methods on a model that is compiled already",
    "autocast-bfloat16": "`torch.autocast` to bfloat16",
    "autocast-float16": "`torch.autocast` to float16 with a `GradScaler`",
    "bfloat16-model": "`model.bfloat16()`",
    "export-evaluation": "`torch.export` of a changed model in eval mode",
    "export-training": "`torch.export` of a changed model in training mode",
    "ddp": "`DistributedDataParallel` of a changed model",
    "ddp-first": "methods on a model in `DistributedDataParallel`",
    "state-dict": "`state_dict`, loaded into the stock model",
}

# method -> feature -> cell: those of `catalog` that change layers, then those of the whole training
CELLS: dict[str, dict[str, Cell]] = {
    "reuse": {
        "compile-training": Cell(FALLS_BACK, "changed layers run as they do uncompiled, between compiled parts"),
        "compile-evaluation": Cell(WORKS, "the stock layers, compiled whole"),
        "compile-first": Cell(REFUSES, "call `apply_` before `torch.compile`"),
        "autocast-bfloat16": Cell(WORKS, "products in bfloat16 by nonzeros; clusters are multiplied in float32"),
        "autocast-float16": Cell(FALLS_BACK, "exact layers run as stock ones; clusters are multiplied in float32"),
        "bfloat16-model": Cell(FALLS_BACK, "exact layers run as stock ones; clusters are multiplied in float32"),
        "export-evaluation": Cell(WORKS, "exports the stock network"),
        "export-training": Cell(FALLS_BACK, "exports the stock network"),
        "ddp": Cell(WORKS, "each process finds its own zeros and clusters; hand `step` the mean loss"),
        "ddp-first": Cell(REFUSES, "call `apply_` before `DistributedDataParallel`"),
        "state-dict": Cell(WORKS, "stock keys"),
    },
    "lsh": {
        "compile-training": Cell(FALLS_BACK, "changed layers run as they do uncompiled, between compiled parts"),
        "compile-evaluation": Cell(FALLS_BACK, "as in training: the layer chooses neurons in evaluation too"),
        "compile-first": Cell(REFUSES, "call `apply_` before `torch.compile`"),
        "autocast-bfloat16": Cell(WORKS, "neurons are chosen and computed in float32"),
        "autocast-float16": Cell(WORKS, "neurons are chosen and computed in float32"),
        "bfloat16-model": Cell(WORKS, "neurons are chosen and computed in bfloat16"),
        "export-evaluation": Cell(REFUSES, "call `thrifty.remove_(model)` first: the choice depends on the data"),
        "export-training": Cell(REFUSES, "call `thrifty.remove_(model)` first: the choice depends on the data"),
        "ddp": Cell(WORKS, "each process finds the neurons of its own batch"),
        "ddp-first": Cell(REFUSES, "call `apply_` before `DistributedDataParallel`"),
        "state-dict": Cell(WORKS, "stock keys; tables are made anew or travel in `Applied.state_dict`"),
    },
    "precision": {
        "compile-training": Cell(WORKS, "the same casts, compiled; compile after `MixedPrecision`"),
        "compile-evaluation": Cell(WORKS, "the same casts, compiled"),
        "compile-first": Cell(REFUSES, "make `MixedPrecision` before `torch.compile`"),
        "autocast-bfloat16": Cell(FALLS_BACK, "the innermost context decides the format: leave your own out"),
        "autocast-float16": Cell(FALLS_BACK, 'as with bfloat16; `Precision("fp16")` brings context and scaler itself'),
        "bfloat16-model": Cell(REFUSES, 'build it in float32; `Precision("bf16", weights="compute")` halves it'),
        "export-evaluation": Cell(WORKS, "exports the network with the casts of the context it is in"),
        "export-training": Cell(WORKS, "exports the network with the casts of the context it is in"),
        "ddp": Cell(WORKS, "made before it, so that buckets are laid out in the weights' format"),
        "ddp-first": Cell(REFUSES, "make `MixedPrecision` before `DistributedDataParallel`"),
        "state-dict": Cell(WORKS, "`MixedPrecision.weights()` holds float32 masters under stock keys"),
    },
    "merge": {
        "compile-training": Cell(FALLS_BACK, "the mean of all; compiled code hands its gradients over 1 MiB at a time"),
        "compile-evaluation": Cell(WORKS, "the stock layers, compiled"),
        "compile-first": Cell(REFUSES, "call `data_parallel` before `torch.compile`"),
        "autocast-bfloat16": Cell(WORKS, "planned by steps in the same context; gradients are float32"),
        "autocast-float16": Cell(WORKS, "planned by steps in the same context; an overflow anywhere reaches all"),
        "bfloat16-model": Cell(WORKS, "buckets of half the bytes; 16-bit wires add up in float32"),
        "export-evaluation": Cell(WORKS, "exports the stock network, the wrapped one's `.module`"),
        "export-training": Cell(WORKS, "exports the stock network, the wrapped one's `.module`"),
        "ddp": Cell(WORKS, "`data_parallel` returns one, with the buckets of the plan; `attach` adds 16-bit wires"),
        "ddp-first": Cell(REFUSES, "call `data_parallel` in its place; `attach` takes one that is there"),
        "state-dict": Cell(WORKS, "the model's own, or the wrapped one's `.module`"),
    },
    "checkpointing": {
        "compile-training": Cell(FALLS_BACK, "runs uncompiled inside: what compiled code saves cannot be seen"),
        "compile-evaluation": Cell(FALLS_BACK, "runs uncompiled inside, compiled outside of `checkpointing`"),
        "compile-first": Cell(FALLS_BACK, "runs uncompiled inside: what compiled code saves cannot be seen"),
        "autocast-bfloat16": Cell(WORKS, "made again in the same formats, bit for bit"),
        "autocast-float16": Cell(WORKS, "made again in the same formats, bit for bit"),
        "bfloat16-model": Cell(WORKS, "bit for bit"),
        "export-evaluation": Cell(WORKS, "exports the stock network"),
        "export-training": Cell(WORKS, "exports the stock network"),
        "ddp": Cell(WORKS, "bit for bit, on each process for itself"),
        "ddp-first": Cell(WORKS, "it is around the step, whatever wraps the model"),
        "state-dict": Cell(WORKS, "the model's own: nothing is changed"),
    },
}


def markdown() -> str:
    """The table for people: a line a feature, a column a method, and below what the cells mean."""
    methods = list(CELLS)
    lines = [f"| | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for feature, what in FEATURES.items():
        cells = (CELLS[method][feature] for method in methods)
        lines.append(f"| {what} | {' | '.join(f'**{cell.verdict}**: {cell.says}' for cell in cells)} |")
    return "\n".join(lines)
