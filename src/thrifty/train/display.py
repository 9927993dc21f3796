"""What the user sees while arms train: bars on a terminal, one line an epoch everywhere."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

_HEADINGS = ("arm", "epoch", "loss", "train", "test", "training", "data", "testing", "rate")
_WIDTHS = (14, 9, 8, 8, 8, 11, 9, 9, 9)


class Display:
    """Prints to `console`; within `with`, a bar follows the steps when the console is a terminal.

    A `brief` one announces an arm only when it begins, not when it goes on, so that turns of many arms make one table.
    """

    def __init__(self, console: Console, *, brief: bool = False) -> None:
        self.console, self._brief = console, brief
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=1, loss="-", visible=False)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print one line as it is, without markup."""
        self._progress.console.print(Text(text, style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line that must not be overlooked."""
        self.say(f"warning: {text}", style="yellow")

    def begin_arm(self, arm: str, title: str, notes: Iterable[str], *, step: int, steps: int) -> None:
        """Announce `arm` with `title`, an arm that has done `step` of its `steps`."""
        if not (self._brief and step):
            self.say(title, style="bold")
            for note in notes:
                self.say(note)
        if not self._brief:
            self.headings()
        self._progress.reset(self._bar, description=arm, total=steps, completed=step, loss="-", visible=True)

    def headings(self) -> None:
        """Print the words above the columns of `epoch`."""
        self.say("".join(word.rjust(width) for word, width in zip(_HEADINGS, _WIDTHS, strict=True)), style="dim")

    def step(self, step: int, loss: float) -> None:
        """Move the bar."""
        if not self._progress.disable:
            self._progress.update(self._bar, completed=step, loss=f"{loss:.3f}")

    def epoch(self, arm: str, row: dict[str, Any], epochs: int) -> None:
        """Print the row of an epoch; the seconds are cumulative."""
        words = (
            arm,
            f"{row['epoch']}/{epochs}",
            f"{row['train_loss']:.4f}",
            f"{row['train_accuracy']:.2%}",
            f"{row['test_accuracy']:.2%}",
            f"{row['train_s']:.1f} s",
            f"{row['data_s']:.1f} s",
            f"{row['eval_s']:.1f} s",
            f"{row['learning_rate']:.2e}",
        )
        self.say("".join(word.rjust(width) for word, width in zip(words, _WIDTHS, strict=True)))

    def end_arm(self) -> None:
        """Take the bar away."""
        self._progress.update(self._bar, visible=False)
