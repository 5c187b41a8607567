"""Fill the generated regions of the documentation; with `--check`, only say whether they are fresh.

A region stands between `<!-- generated: NAME -->` and `<!-- /generated -->`. The JSON Schemas of the
events are whole files.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel

from gateway import adapter as contract
from gateway import model
from gateway.api.openapi import document
from gateway.api.openapi_schemas import standalone
from gateway.api.openapi_webhooks import EVENT_MODELS
from gateway.api.problems import PROBLEMS
from gateway.cli import exits
from gateway.cli.main import app
from gateway.config.settings import Settings
from gateway.custodians.registry import BrokenAdapter, find_adapters
from gateway.examples import example_event
from gateway.execution import claims, decide, gate, interpret, late, proof, unsent
from gateway.keys import USUAL, USUAL_OF_OPERATORS, Scope
from gateway.model import Attention
from gateway.states import NEXT, STATUS_OF
from gateway.views import EVENT_TYPES

DOCS = Path(__file__).parent.parent / "docs"
_EXAMPLE_AT = datetime(2026, 3, 2, 10, tzinfo=UTC)
_REGION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(each) for each in line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def meanings(enum: type) -> dict[str, str]:
    """Return the `#:` line of each member of an enum."""
    source = inspect.getsource(enum)
    return dict(re.findall(r'^ +(?:[A-Z_]+ = )?"([a-z_]+)"  #: (.*)', source, re.MULTILINE))


def states() -> str:
    """Statuses, what may follow them, and the sub-statuses of each."""
    says = meanings(model.Status)
    follow = [
        [
            f"`{each}`",
            says[each],
            ", ".join(f"`{following}`" for following in NEXT[each]) or "nothing: final",
        ]
        for each in model.Status
    ]
    inner = meanings(model.SubStatus)
    sub = [
        [
            f"`{each}`",
            f"`{STATUS_OF[each]}`" if STATUS_OF[each] else "the one it is met in",
            inner[each],
        ]
        for each in model.SubStatus
    ]
    failures = [[f"`{code}`", text] for code, text in meanings(model.FailureCode).items()]
    attention = [[f"`{code}`", text] for code, text in meanings(Attention).items()]
    return "\n".join(
        [
            table(["status", "holds when", "may be followed by"], follow),
            table(["sub-status", "under status", "holds when"], sub),
            "### Why a payout failed\n",
            table(["failure code", "meaning"], failures),
            "### What an operator is told\n",
            table(["attention code", "meaning"], attention),
        ]
    )


#: The rules for Prometheus.
ALERTS = DOCS.parent / "deploy/prometheus/alerts.yml"


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules in their order."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def runbook() -> str:
    """Every alert and every attention code, with the first paragraph of its page."""
    rows = []
    for rule in alerts():
        name, severity = rule["alert"], rule["labels"]["severity"]
        page = rule["annotations"]["runbook_url"]
        if "{{" in page:
            rows.append([f"`{name}`", severity, "The page of the attention code, below."])
        else:
            rows.append([f"[`{name}`](alerts/{name}.md)", severity, _first_words(f"alerts/{name}")])
    codes = [
        [f"[`{each}`](attention/{each}.md)", _first_words(f"attention/{each}")]
        for each in Attention
    ]
    return "\n".join(
        [
            "## Alerts\n",
            table(["alert", "severity", "meaning"], rows),
            "## Attention codes\n",
            table(["code", "meaning"], codes),
        ]
    )


def _first_words(page: str) -> str:
    """Return the first paragraph of a page of the runbook."""
    text = (DOCS / "runbook" / f"{page}.md").read_text(encoding="utf-8")
    return text.split("\n\n")[1]


def problems() -> str:
    """Every problem code."""
    rows = [
        [f"`{code}`", each.status, each.title, each.advice, "yes" if each.retryable else ""]
        for code, each in PROBLEMS.items()
    ]
    return table(["code", "HTTP", "title", "what to do", "retryable"], rows)


def events() -> str:
    """Every event type."""
    return table(["type", "when"], [[f"`{kind}`", text] for kind, text in EVENT_TYPES.items()])


def event_catalogue() -> str:
    """Every event type with its schema and an example."""
    parts = []
    for kind, text in EVENT_TYPES.items():
        body = json.loads(example_event(kind, _EXAMPLE_AT, livemode=True))  # type: ignore[arg-type]
        del body["test"]
        example = json.dumps(body, indent=2, ensure_ascii=False)
        parts.append(
            f"## `{kind}`\n\n{text}. JSON Schema: [{kind}.json](event-schemas/{kind}.json).\n\n"
            f"```json\n{example}\n```\n"
        )
    return "\n".join(parts)


def contents() -> dict[Path, str]:
    """The order of the pages, for `/guide`, from the navigation of `mkdocs.yml`."""
    nav = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text("utf-8"))["nav"]
    first: list[dict[str, str]] = []
    groups = [{"title": "Start", "pages": first}]
    for each in nav:
        [(title, pages)] = each.items()
        if isinstance(pages, str):
            first.append({"title": title, "path": pages})
        else:
            entries = [next(iter(page.items())) for page in pages]
            listed = [{"title": name, "path": path} for name, path in entries]
            groups.append({"title": title, "pages": listed})
    return {DOCS / "nav.json": json.dumps(groups, indent=1, ensure_ascii=False) + "\n"}


def schemas() -> dict[Path, str]:
    """The JSON Schema of every event type, by its file."""
    folder = DOCS / "reference/event-schemas"
    return {
        folder / f"{kind}.json": json.dumps(standalone(model), indent=1) + "\n"
        for kind, model in EVENT_MODELS.items()
    }


#: What the kit has shown of each adapter; `make matrix` writes it.
PROOFS = DOCS / "reference" / "adapter-proofs.json"
#: Capabilities that a topic of the kit proves.
_PROVEN_BY = {
    "batch": ("batch",),
    "cancel": ("cancel",),
    "quotes": ("quotes",),
    "step-up": ("step-up",),
    "webhooks": ("webhooks", "signatures"),
}


def proofs() -> dict[str, Any]:
    """Return what the kit has shown, by adapter and class of the kit."""
    told: dict[str, Any] = json.loads(PROOFS.read_text(encoding="utf-8"))
    return told


def feature_matrix() -> str:
    """What each adapter declares, and what the kit has shown of it."""
    shown = proofs()
    rows = []
    for name, found in find_adapters().items():
        if isinstance(found, BrokenAdapter):
            message = f"{name}: {found.reason}"
            raise SystemExit(message)
        can, keys = found.capabilities, found.capabilities.keys
        kits = shown.get(name, {})
        life = "forever" if keys.life_s is None else f"{keys.life_s / 3600:g} h"
        declared = {
            "batch": can.batch,
            "cancel": can.cancel,
            "quotes": can.quotes,
            "step-up": can.step_up,
            "webhooks": can.webhooks,
        }
        rows.append(
            [
                f"`{name}`",
                ", ".join(_destination(each, kits) for each in sorted(can.destination_types)),
                *(_capability(each, kits, declared=is_so) for each, is_so in declared.items()),
                "yes" if can.one_at_a_time else "no",
                life,
                f"{_seconds(can.call_life_s)} / {_seconds(can.visibility_s)}",
            ]
        )
    head = ["adapter", "destinations", *_PROVEN_BY, "one at a time", "keys"]
    return table([*head, "call life / visibility"], rows)


def _destination(kind: str, kits: dict[str, Any]) -> str:
    """Return a destination type, and whether a payout to one was delivered under the kit."""
    paid = any(kind in each["delivered_to"] for each in kits.values())
    return f"`{kind}`" if paid else f"`{kind}` (declared, not proven)"


def _capability(name: str, kits: dict[str, Any], *, declared: bool) -> str:
    if not declared:
        return "no"
    proven = all(any(_holds(each, topic) for each in kits.values()) for topic in _PROVEN_BY[name])
    return "yes" if proven else "declared, not proven"


def _holds(kit: dict[str, Any], topic: str) -> bool:
    counts = kit["topics"].get(topic, {})
    return bool(counts.get("passed")) and not counts.get("failed")


def kit_topics() -> str:
    """What the kit has shown of each way to pay, topic by topic."""
    kits = [
        (f"`{name}` {kind}", each)
        for name, classes in sorted(proofs().items())
        for kind, each in sorted(classes.items())
    ]
    topics = sorted({topic for _, each in kits for topic in each["topics"]})
    rows = [
        [topic, *(_topic_cell(each["topics"].get(topic, {})) for _, each in kits)]
        for topic in topics
    ]
    return table(["topic", *(name for name, _ in kits)], rows)


def _topic_cell(counts: dict[str, int]) -> str:
    if counts.get("failed"):
        return "fails"
    passed = str(counts.get("passed", 0) or ("—" if counts else "not tried"))
    return f"{passed}, {counts['gaps']} known to fail" if counts.get("gaps") else passed


def adapter_contract() -> str:
    """Every type of the contract, from its docstrings."""
    parts = []
    for name in contract.__all__:
        kind = getattr(contract, name)
        text = inspect.getdoc(kind) or ""
        if inspect.isfunction(kind):
            parts.append(f"## `{name}{_signature(kind)}`\n\n{text}\n")
        elif isinstance(kind, type):
            parts.append(f"## `{name}`\n\n{text}\n")
            parts.append(_type_members(kind))
        else:
            parts.append(f"## `{name}`\n\nOne of {_alternatives(kind)}.\n")
    return "\n".join(part for part in parts if part)


def _type_members(kind: type) -> str:
    """Return the members of a type with what is said of each."""
    comments = _comments(kind)
    rows = []
    if issubclass(kind, StrEnum):
        rows = [[f"`{each.value}`", comments.get(each.name, "")] for each in kind]
        return table(["value", "meaning"], rows)
    if issubclass(kind, BaseModel):
        fields: dict[str, str] = {
            each: str(_plain_type(info.annotation)) for each, info in kind.model_fields.items()
        }
    else:
        fields = {each: str(text) for each, text in inspect.get_annotations(kind).items()}
    rows = [
        [f"`{each}`", f"`{text}`", comments.get(each, "")]
        for each, text in fields.items()
        if not each.startswith("_")
    ]
    parts = [table(["member", "type", "meaning"], rows)] if rows else []
    for each, member in vars(kind).items():
        if each.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        said = inspect.getdoc(member) or ""
        if isinstance(member, property):
            parts.append(f"### `{kind.__name__}.{each}`\n\n{said}\n")
        else:
            kept = "async " if inspect.iscoroutinefunction(member) else ""
            parts.append(f"### `{kept}{kind.__name__}.{each}{_signature(member)}`\n\n{said}\n")
    return "\n".join(parts)


def _plain_type(annotation: Any) -> Any:
    """Return a type as an author writes it: without pydantic's constraints and module names."""
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type):
        return annotation.__name__
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return " | ".join(str(_plain_type(each)) for each in get_args(annotation))
    return str(annotation).replace("typing.", "")


def _signature(function: Callable[..., Any]) -> str:
    text = str(inspect.signature(function)).replace("'", "")
    return text.replace("(self, ", "(").replace("(self)", "()")


def _alternatives(kind: Any) -> str:
    inner = getattr(kind, "__args__", (kind,))
    union = getattr(inner[0], "__args__", inner)
    return ", ".join(f"`{getattr(each, '__name__', each)}`" for each in union)


def _comments(kind: type) -> dict[str, str]:
    """Return what stands beside or above each member after `#:`."""
    found: dict[str, str] = {}
    above: list[str] = []
    wrapped: str | None = None  # a member whose value, with its comment, is on the following lines
    for line in inspect.getsource(kind).splitlines():
        stripped = line.strip()
        if wrapped and "#:" in stripped:
            found.setdefault(wrapped, stripped.partition("#:")[2].strip())
        if wrapped:
            wrapped = None if stripped.startswith(")") else wrapped
            continue
        if stripped.startswith("#:"):
            above.append(stripped.removeprefix("#:").strip())
            continue
        member = re.match(r"(\w+)\s*(?::|=)", stripped)
        if member:
            beside = stripped.partition("#:")[2].strip()
            said = beside or " ".join(above)
            if said:
                found.setdefault(member[1], said)
            wrapped = member[1] if stripped.endswith("(") else None
        above = []
    return found


def _seconds(duration: float | None) -> str:
    return "forever" if duration is None else f"{duration:g} s"


def api() -> str:
    """Every call."""
    rows = [
        [
            f"`{method.upper()} {path}`",
            call["summary"],
            " ".join(f"`{each}`" for each in _scopes(call)),
            ", ".join(call["responses"]),
        ]
        for path, item in document("https://pay.example")["paths"].items()
        for method, call in item.items()
    ]
    return table(["call", "what", "scope", "answers"], rows)


def _scopes(call: dict[str, Any]) -> list[str]:
    return [scope for way in call.get("security", ()) for scope in way.get("apiKey", ())]


def scopes() -> str:
    """Every scope of API keys."""
    rows = [
        [f"`{each}`", text, *_of_keys(each)]
        for each, text in (
            (Scope(value), text)
            for value, text in re.findall(r'= "([a-z:]+)"  #: (.*)', inspect.getsource(Scope))
        )
    ]
    return table(["scope", "allows to", "whose key", "without `--scope`"], rows)


def _of_keys(scope: Scope) -> tuple[str, str]:
    """Return whose key may have a scope, and whether one has it that was minted without any."""
    if scope in USUAL_OF_OPERATORS:
        return "operator", "yes"
    if scope in USUAL:
        return "org", "yes"
    return "any; reserved: no call takes it yet", "no"


def settings() -> str:
    """Every setting of the gateway, then of each adapter."""
    parts = [table(["setting", "default", "meaning"], _members(Settings, ""))]
    for name, found in find_adapters().items():
        if not isinstance(found, BrokenAdapter):
            parts.append(f"### Adapter `{name}`\n")
            parts.append(
                table(
                    ["setting", "default", "meaning"], _members(found.Settings, "custodians.NAME.")
                )
            )
    return "\n".join(parts)


def _members(kind: type[BaseModel], prefix: str) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, field in kind.model_fields.items():
        inner = _model_in(field.annotation)
        path = prefix + name
        if inner is not None and field.description is None:
            rows += _members(inner, path + ".")
            continue
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        rows.append([f"`{path}`", default, field.description or ""])
        if inner is not None:
            key = {
                "custodians": ".NAME.",
                "orgs": ".NAME.",
                "accounts": ".NAME[].",
                "routes": "[].",
                "assets": "[].",
            }.get(name, ".")
            rows += (
                _members(inner, path + key) if inner.model_fields.keys() - {"id", "type"} else []
            )
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "not set")
    if isinstance(value, BaseModel):
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(each) for each in value) + "]"
    return str(value)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def exit_codes() -> str:
    """Every exit code of the commands."""
    return table(["exit code", "meaning"], [[code, text] for code, text in exits.MEANINGS.items()])


def cli() -> str:
    """Every command with its options."""
    group = typer.main.get_command(app)
    return "\n".join(_commands(group, "payout-gateway"))


def _commands(command: Any, path: str) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner:
        return [part for name in sorted(inner) for part in _commands(inner[name], f"{path} {name}")]
    rows = []
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        argument = parameter.param_type_name == "argument"
        names = str(parameter.name).upper() if argument else ", ".join(parameter.opts)
        rows.append([f"`{names}`", _default(parameter), _meaning(parameter)])
    parts = [f"### `{path}`\n", (command.help or "").strip() + "\n"]
    return [*parts, table(["option", "default", "meaning"], rows)] if rows else parts


def _default(parameter: Any) -> str:
    """Return the default of an option as it is written; nothing for a switch that is off."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value in {None, False, ""} or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _meaning(parameter: Any) -> str:
    """Return what an option is for, what it may be, and where else it may come from."""
    text = getattr(parameter, "help", None) or ""
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        text += " One of " + ", ".join(f"`{each.value}`" for each in kind) + "."
    variable = parameter.envvar
    return f"{text} Environment: `{variable}`." if variable else text


#: The rules of `never-twice.md`: each is one predicate, and its docstring says what it is for.
MONEY_RULES: dict[str, tuple[Callable[..., Any], ...]] = {
    "What looks prove": (
        proof.may_have_arrived,
        interpret.date_of,
        proof.names_call,
        proof.same_clock,
        proof.beat_knows_call,
        proof.waited_out,
        proof.life_of,
        proof.call_can_die,
        claims.covers_calls,
        proof.enough_looks,
        proof.uncontradicted,
        proof.same_account,
        proof.at_account,
    ),
    "What words prove": (
        proof.only_call,
        proof.late_look,
        proof.ruled_out,
        proof.speaks_of,
        interpret.names_execution,
        interpret.fits_order,
        decide.sent_once,
        decide.speaks_for_call,
        interpret.is_ours,
        claims.has_mark,
        interpret.knows_every_call,
    ),
    "When a call may be made": (
        gate.is_current,
        gate.store_is_current,
        gate.witness_works,
        gate.knows_the_gate,
        gate.nothing_blocks,
        gate.rules_are_active,
        gate.not_paused,
        gate.is_funded,
        gate.no_news,
        gate.items_are_pending,
        gate.others_are_closed,
        gate.earlier_is_closed,
        gate.repeat_is_harmless,
        gate.key_is_alive,
    ),
    "What people may do": (
        gate.may_reopen,
        gate.may_fail_over,
        late.contradicts_closing,
        gate.may_cancel,
        gate.may_end_unpaid,
        unsent.never_sent,
        proof.console_look,
        proof.operator_looked,
        proof.lost_call,
    ),
}


def money_rules() -> str:
    """Every rule that guards a moving call, and what happens without it."""
    parts = []
    for topic, rules in MONEY_RULES.items():
        rows = [[f"`{each.__name__}`", *_rule(each)] for each in rules]
        parts += [f"### {topic}\n", table(["rule", "what it asks", "without it"], rows)]
    return "\n".join(parts)


def _rule(predicate: Callable[..., Any]) -> tuple[str, str]:
    """Return what a predicate's docstring says, and what it says of a world without the rule."""
    says, _, rest = (inspect.getdoc(predicate) or "").partition("\n\n")
    missed = re.search(r"Without this rule (.*?)\.(?:\s|$)", rest, flags=re.DOTALL)
    if missed is None:
        message = f"{predicate.__name__}: the docstring does not say what happens without the rule"
        raise SystemExit(message)
    says = re.sub(r"^Return (\w)", lambda match: match[1].upper(), says)
    return says, missed[1]


GENERATORS: dict[str, Callable[[], str]] = {
    "money-rules": money_rules,
    "api": api,
    "scopes": scopes,
    "states": states,
    "problems": problems,
    "events": events,
    "event-catalogue": event_catalogue,
    "feature-matrix": feature_matrix,
    "kit-topics": kit_topics,
    "adapter-contract": adapter_contract,
    "settings": settings,
    "cli": cli,
    "exit-codes": exit_codes,
    "runbook": runbook,
}


def main() -> int:
    """Fill or check every region; 1 where one is stale."""
    check = "--check" in sys.argv[1:]
    stale = []
    made = schemas() | contents()
    filled: set[str] = set()
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        filled.update(match[2] for match in _REGION.finditer(text))
        made[page] = _REGION.sub(
            lambda match: match[1] + "\n" + GENERATORS[match[2]]().strip() + "\n\n" + match[4], text
        )
    if lost := GENERATORS.keys() - filled:
        # A merge that takes one side of a page can lose a whole region without any conflict.
        sys.stderr.write(f"no page has the region {', '.join(sorted(lost))}\n")
        return 1
    for page, fresh in made.items():
        if not page.exists() or fresh != page.read_text(encoding="utf-8"):
            stale.append(str(page.relative_to(DOCS.parent)))
            if not check:
                page.parent.mkdir(exist_ok=True)
                page.write_text(fresh, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run: make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
