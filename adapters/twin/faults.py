"""The faults of a twin: the kinds that it knows, and those that wait to happen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class BadFault(ValueError):
    """The control API was given a fault that this twin does not know, or with wrong members."""


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault, with its calls, its members and their defaults."""

    name: str
    calls: frozenset[str]
    #: Members beside `call`, `fault` and `times`; the default's type is the member's type.
    params: Mapping[str, float | bool | str] = field(default_factory=dict)
    #: Members that take one of a few words.
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: True: holds for `seconds` from the moment it was set, not for a number of calls.
    window: bool = False


@dataclass
class Fault:
    """A fault that waits to happen."""

    id: int
    call: str
    kind: FaultKind
    params: Mapping[str, float | bool | str]
    set_at: float
    #: How often it will still happen; None while only its window counts.
    left: int | None

    @property
    def name(self) -> str:
        """Return the name of its kind."""
        return self.kind.name

    def number(self, param: str) -> float:
        """Return a member that is a number."""
        return float(self.params[param])

    def word(self, param: str) -> str:
        """Return a member that is text."""
        return str(self.params[param])

    def document(self) -> dict[str, object]:
        """Return it as the control API shows it."""
        return {
            "id": self.id,
            "call": self.call,
            "fault": self.name,
            "times": self.left,
            **self.params,
        }


#: Faults of a request and its answer, the same at every custodian; a twin names the calls.
HTTP_FAULTS: tuple[tuple[str, dict[str, float | bool | str]], ...] = (
    ("reject", {"status": 400}),
    ("rate_limit", {"retry_after_s": 1}),
    ("drop_before", {}),
    ("error_before", {"status": 500}),
    ("error_after", {"status": 502}),
    ("hang_after", {"seconds": 30.0}),
    ("lose_reply", {}),
    ("half_response", {}),
    ("bad_json", {}),
)
HTTP_FAULT_NAMES = frozenset(name for name, _ in HTTP_FAULTS) | {"burn_key"}

#: Faults of the webhooks a twin sends.
WEBHOOK_FAULTS = (
    FaultKind("duplicate", frozenset({"webhook"}), {"copies": 1}),
    FaultKind("delay", frozenset({"webhook"}), {"seconds": 5.0}),
    FaultKind("reorder", frozenset({"webhook"}), {"seconds": 5.0}),
    FaultKind(
        "forge",
        frozenset({"webhook"}),
        {"how": "wrong_key"},
        choices={"how": ("unsigned", "wrong_key", "changed_body")},
    ),
    FaultKind("drop", frozenset({"webhook"})),
)


def http_faults(calls: Sequence[str], moving: Sequence[str]) -> list[FaultKind]:
    """Return the request faults for these calls; `burn_key` is for the `moving` ones (POST)."""
    kinds = [FaultKind(name, frozenset(calls), params) for name, params in HTTP_FAULTS]
    return [*kinds, FaultKind("burn_key", frozenset(moving), {"done": False})]


class FaultBook:
    """The faults now waiting, oldest first."""

    def __init__(self, kinds: Sequence[FaultKind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._waiting: list[Fault] = []
        self._ids = itertools.count(1)

    def known(self) -> dict[str, list[str]]:
        """Return the fault names of every call."""
        calls = sorted({call for kind in self._kinds.values() for call in kind.calls})
        return {
            call: sorted(kind.name for kind in self._kinds.values() if call in kind.calls)
            for call in calls
        }

    def waiting(self) -> list[dict[str, object]]:
        """Return what waits, as the control API shows it."""
        return [fault.document() for fault in self._waiting]

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()

    def add(self, document: Mapping[str, object], now: float) -> Fault:
        """Let a fault wait; raise BadFault when it is not known or a member is wrong."""
        call, name = document.get("call"), document.get("fault")
        kind = self._kinds.get(name) if isinstance(name, str) else None
        if kind is None or not isinstance(call, str) or call not in kind.calls:
            raise BadFault(f"no fault {name!r} on call {call!r}")
        given = {k: v for k, v in document.items() if k not in {"call", "fault", "times"}}
        params = dict(kind.params)
        for param, value in given.items():
            params[param] = _checked(kind, param, value)
        times = document.get("times", None if kind.window else 1)
        if times is not None and (type(times) is not int or times < 1):
            raise BadFault("times is a whole number from 1 up, or null for always")
        fault = Fault(next(self._ids), call, kind, params, now, times)
        self._waiting.append(fault)
        return fault

    def take(self, call: str, names: frozenset[str], now: float) -> Fault | None:
        """Return the oldest fault of this call among `names`, counting it as happened."""
        for fault in list(self._waiting):
            if fault.kind.window and now >= fault.set_at + fault.number("seconds"):
                self._waiting.remove(fault)
            elif fault.call == call and fault.name in names:
                if fault.left is not None:
                    fault.left -= 1
                    if fault.left == 0:
                        self._waiting.remove(fault)
                return fault
        return None


def _checked(kind: FaultKind, param: str, value: object) -> float | bool | str:
    if param not in kind.params:
        raise BadFault(f"{kind.name} has no member {param!r}, only {sorted(kind.params)}")
    default = kind.params[param]
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(default, str):
        if isinstance(value, str) and value in kind.choices.get(param, (value,)):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return value
    wanted = kind.choices.get(param, type(default).__name__)
    raise BadFault(f"{kind.name}: {param} must be {wanted}")
