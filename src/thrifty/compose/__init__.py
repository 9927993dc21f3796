"""Methods on a model: the verb that puts them on, the one that takes them off, the plan that tries them beforehand."""

from thrifty.compose.applied import Applied
from thrifty.compose.apply import NoEffectWarning, apply_, remove_
from thrifty.compose.auto import Auto, auto_
from thrifty.compose.planning import Plan, plan

__all__ = ["Applied", "Auto", "NoEffectWarning", "Plan", "apply_", "auto_", "plan", "remove_"]
