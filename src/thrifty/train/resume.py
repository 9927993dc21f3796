"""Is it the same run? A continued run must have the settings, the data and the arms that it was begun with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thrifty.core.errors import CheckpointError
from thrifty.train.arms import Arm
from thrifty.train.config import NOT_SETTINGS, TrainConfig, flag


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a resolved config as they are recorded; what only the command was about is left out."""
    return {key: value for key, value in config.to_dict().items() if key not in ("out", "resume", "overwrite")}


def identity(settings: dict[str, Any], arm: Arm) -> dict[str, Any]:
    """Return what a checkpoint of `arm` must agree in."""
    same = {
        key: value for key, value in settings.items() if key not in NOT_SETTINGS and key not in ("methods", "baseline")
    }
    return {**same, "arm": arm.to_dict()}


def check_settings(folder: Path, record: dict[str, Any], settings: dict[str, Any]) -> None:
    """Compare a run's record with the settings that it shall go on with.

    Raises:
        CheckpointError: naming the first setting that differs, and what to do.
    """
    recorded = record["settings"]
    for key, value in settings.items():
        if key not in NOT_SETTINGS and recorded.get(key) != value:
            name = flag(key) if hasattr(TrainConfig, key) else key.replace("_", " ")
            raise CheckpointError(
                f"{folder} holds a run with {name} {_short(recorded.get(key))}, not {_short(value)}: "
                "resume it as it was begun, or name another --out"
            )


def check_arms(folder: Path, record: dict[str, Any], arms: Sequence[Arm]) -> None:
    """Compare the arms and their methods' configs; raises CheckpointError when they differ."""
    wanted = [(arm.name, arm.to_dict()["methods"]) for arm in arms]
    found = [(arm.get("name"), arm.get("methods")) for arm in record["arms"]]
    if wanted != found:
        raise CheckpointError(
            f"{folder} holds a run with the arms {', '.join(str(name) for name, _ in found)} "
            "under other settings of their methods: resume it as it was begun, or name another --out"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
