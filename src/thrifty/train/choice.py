"""The arm `auto`: before its first step `thrifty.plan` tries the methods on the run's own network and images.

Trying costs time that the training is to win back, so it gets a share of what the training is expected to take. What it
chose is part of the run's record, so a resumed run goes on with it and does not try again. Of several workers
the first one tries, on its share of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from thrifty.compose.catalog import config_type, method_names
from thrifty.compose.planning import Plan as Tried
from thrifty.compose.planning import plan as try_methods
from thrifty.compose.trial import Combination, Trial, default_loss
from thrifty.core.config import MethodConfig
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.report.plan_table import verdict
from thrifty.train import optimizers
from thrifty.train.arms import AUTO, Arm, method_configs
from thrifty.train.session import build_model
from thrifty.train.trial import Plan

MOST_BUDGET_S, BUDGET_SHARE = 20.0, 0.01
"""Of the timed steps: seconds, and part of the seconds that all of the dense training would take."""


def choose(
    plan: Plan, arms: Sequence[Arm], earlier: Mapping[str, Any] | None, say: Callable[[str], None]
) -> tuple[list[Arm], Tried | None]:
    """Give the arm `auto` its methods and precision: as recorded in `earlier`, else by trying.

    Args:
        plan: of the run.
        arms: of the run, with or without `auto`.
        earlier: the record of the run that is gone on with.
        say: told what is being tried, and what was chosen.

    Returns:
        The arms, and what was measured where something was.

    Raises:
        CheckpointError: the record has no choice in it.
        ModelError, UsageError: as `thrifty.plan`.
    """
    if all(arm.name != AUTO for arm in arms):
        return list(arms), None
    tried = None
    if earlier is not None:
        methods, amp = _recorded(earlier)
    else:
        tried = _try(plan, say)
        methods, amp = tried.choice.methods, tried.choice.amp
        say(f"auto: {verdict(tried)}")
    return [replace(arm, methods=methods, amp=amp) if arm.name == AUTO else arm for arm in arms], tried


def _try(plan: Plan, say: Callable[[str], None]) -> Tried:
    config, rate = plan.config, plan.config.learning_rate
    assert rate is not None  # filled in by resolved()

    def optimizer(model: nn.Module) -> Optimizer:
        return optimizers.make(
            config.optimizer, model, learning_rate=rate, momentum=config.momentum,
            nesterov=config.nesterov, weight_decay=config.weight_decay,
        )  # fmt: skip

    model, batch = build_model(config, plan.data), next(iter(plan.train_batches(0, 0)))
    dense = Trial(model, batch, Combination(), default_loss, optimizer)
    dense.step()  # what is made on first use
    budget_s = min(MOST_BUDGET_S, BUDGET_SHARE * plan.steps * dense.step())
    return try_methods(
        model,
        batch,
        methods=method_configs(method_names(), (), config.seed),
        make_optimizer=optimizer,
        budget_s=budget_s,
        progress=lambda name: say(f"auto: trying {name}"),
    )


def _recorded(earlier: Mapping[str, Any]) -> tuple[tuple[MethodConfig, ...], str]:
    for name in method_names():
        config_type(name)  # imported, its config is known
    try:
        state = next(arm for arm in earlier["arms"] if arm["name"] == AUTO)
        return tuple(MethodConfig.from_dict(method) for method in state["methods"]), str(state["amp"] or "none")
    except (StopIteration, KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"the record does not say what the arm auto uses ({error!r}): start anew") from error
