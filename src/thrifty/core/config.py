"""What every method's config has in common: a frozen dataclass that checks itself and travels as plain data.

A method declares

    @dataclass(frozen=True)
    class Reuse(MethodConfig):
        method: ClassVar[str] = "reuse"
        length: int = 8

        def validate(self) -> None:
            if self.length < 1:
                raise UsageError(f"Reuse.length must be at least 1, got {self.length}")
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from thrifty.core.codec import decode_fields, encode
from thrifty.core.errors import UsageError

_types: dict[str, type["MethodConfig"]] = {}


@dataclass(frozen=True)
class MethodConfig:
    """Base of the methods' configs.

    Attributes:
        method: the method's short name, as in `--methods reuse` and in layer reports.
        version: raised by a method when the meaning of its fields changes.
    """

    method: ClassVar[str]
    version: ClassVar[int] = 1

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        known = _types.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise TypeError(f"two configs are named {cls.__name__}: in {known.__module__} and in {cls.__module__}")
        _types[cls.__name__] = cls

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check the fields; a method overrides this.

        Raises:
            UsageError: naming the field, its value and what is allowed.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return `{"_type": class name, "_version": int, "_data": fields}` as plain data, fit for JSON."""
        return {"_type": type(self).__name__, "_version": self.version, "_data": encode(self)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Build the config that `to_dict` described; called on `MethodConfig` it takes any known type.

        Raises:
            UsageError: for another type or version, for unknown or missing fields (listing the fields), and for
                values that the type or `validate` refuses.
        """
        absent = [key for key in ("_type", "_version", "_data") if not isinstance(state, Mapping) or key not in state]
        if absent:
            raise UsageError(f"a config is a dictionary with _type, _version and _data; absent: {', '.join(absent)}")
        known = {name: kind for name, kind in _types.items() if issubclass(kind, cls)}
        kind = known.get(str(state["_type"]))
        if kind is None:
            listing = ", ".join(sorted(known)) or "none"
            raise UsageError(f"unknown config type {state['_type']!r}; known here: {listing}")
        if state["_version"] != kind.version:
            written = state["_version"]
            raise UsageError(f"{kind.__name__} was written as version {written!r}, this thrifty reads {kind.version}")
        return kind(**decode_fields(kind, state["_data"], kind.__name__))
