"""The verb that puts methods on a model, and the one that takes them off."""

from thrifty.compose.applied import Applied
from thrifty.compose.apply import NoEffectWarning, apply_, remove_

__all__ = ["Applied", "NoEffectWarning", "apply_", "remove_"]
