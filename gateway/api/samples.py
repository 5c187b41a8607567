"""Examples of a call in curl, Python and TypeScript, from its example in the OpenAPI document. Pure."""

from __future__ import annotations

import json
import pprint
import re
from collections.abc import Mapping
from typing import Any

#: Ids of ours, as the examples have them, and the variables that stand for them.
_VARIABLES: Mapping[str, str] = {
    "bat": "BATCH_ID",
    "evt": "EVENT_ID",
    "pau": "PAUSE_ID",
    "pay": "PAYOUT_ID",
    "quo": "QUOTE_ID",
    "rec": "RECOVERY_ID",
    "whe": "ENDPOINT_ID",
}
_OWN_ID = re.compile(rf"\b({'|'.join(_VARIABLES)})_[0-9a-z]{{26}}\b")
_QUOTED_ID = re.compile(f'"{_OWN_ID.pattern}"')
#: How the id of a quote is taken out of its answer, by language.
_TAKE_QUOTE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "curl": (
        ("curl -X", 'QUOTE_ID="$(curl -sS -X'),
        ("\n}'", '\n}\' |\n  sed -n \'s/.*"quote_id": *"\\([^"]*\\)".*/\\1/p\')"'),
    ),
    "Python": (("print(answer.json())", 'os.environ["QUOTE_ID"] = answer.json()["quote_id"]'),),
    "TypeScript": (
        ("const answer", "const quote"),
        ("!answer.ok", "!quote.ok"),
        ("await answer.text());\nconsole", "await quote.text());\nconsole"),
        (
            "console.log(await answer.text())",
            "process.env.QUOTE_ID = (await quote.json()).quote_id",
        ),
    ),
}


def quote_then_pay(quote: Mapping[str, str], pay: Mapping[str, str]) -> dict[str, str]:
    """Return the examples of both calls as one program: the quote's id goes from the first to the second."""
    begun = dict(quote)
    for language, changes in _TAKE_QUOTE.items():
        for old, new in changes:
            if old not in begun[language]:
                raise ValueError(old)
            begun[language] = begun[language].replace(old, new, 1)
    again = {"import os", "import uuid", "", "import requests"}
    pay = {
        **pay,
        "Python": "\n".join(each for each in pay["Python"].split("\n") if each not in again),
    }
    return {language: f"{begun[language]}\n\n{pay[language]}" for language in quote}


def samples(
    method: str, path: str, body: Any, parameters: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the examples by language. `headers`: besides the key and the type of the body.

    They take the address of the gateway and the key from the environment, `URL` and `KEY`, and so the ids of
    what there is: an example that names a quote of the documentation would pay nobody.
    """
    path = re.sub(r"{(\w+)}", lambda found: str(parameters.get(found[1], found[1])), path)
    verb = method.upper()
    return {
        "curl": _curl(verb, path, body, headers),
        "Python": _python(method, path, body, headers),
        "TypeScript": _typescript(verb, path, body, headers),
    }


def variable(example: str) -> str | None:
    """Return the variable that stands for an id of the examples, such as QUOTE_ID; None for other texts."""
    found = _OWN_ID.fullmatch(example)
    return None if found is None else _VARIABLES[found[1]]


def _curl(verb: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    path = _OWN_ID.sub(lambda found: f"${_VARIABLES[found[1]]}", path)
    lines = [f'curl -X {verb} "$URL{path}"', '-H "Authorization: Bearer $KEY"']
    if verb == "GET":
        lines[0] = f'curl "$URL{path}"'
    lines += [f'-H "{name}: $(cat /proc/sys/kernel/random/uuid)"' for name in headers]
    if body is not None:
        lines.append('-H "Content-Type: application/json"')
        text = json.dumps(body, indent=2, ensure_ascii=False)
        text = _OWN_ID.sub(lambda found: f"'\"${_VARIABLES[found[1]]}\"'", text)
        lines.append(f"-d '{text}'")
    return " \\\n  ".join(lines)


def _python(method: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    imports = ["import os", *(["import uuid"] if headers else []), "", "import requests", ""]
    sent = ['"Authorization": f"Bearer {os.environ[\'KEY\']}"']
    sent += [f'"{name}": str(uuid.uuid4())' for name in headers]
    filled = _OWN_ID.sub(lambda found: f"{{os.environ['{_VARIABLES[found[1]]}']}}", path)
    lines = [
        *imports,
        f"answer = requests.{method}(",
        f'    os.environ["URL"] + {"f" if filled != path else ""}"{filled}",',
        "    headers={" + ", ".join(sent) + "},",
    ]
    if body is not None:
        text = pprint.pformat(body, indent=1, width=76, sort_dicts=False).replace("'", '"')
        text = _QUOTED_ID.sub(lambda found: f'os.environ["{_VARIABLES[found[1]]}"]', text)
        lines.append("    json=" + text.replace("\n", "\n         ") + ",")
    lines += ["    timeout=30,", ")", "answer.raise_for_status()"]
    lines.append("print(answer.text)" if method == "delete" else "print(answer.json())")
    return "\n".join(lines)


def _typescript(verb: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    sent = ["Authorization: `Bearer ${process.env.KEY}`"]
    sent += [f'"{name}": crypto.randomUUID()' for name in headers]
    if body is not None:
        sent.append('"Content-Type": "application/json"')
    path = _OWN_ID.sub(lambda found: f"${{process.env.{_VARIABLES[found[1]]}}}", path)
    lines = ["const answer = await fetch(`${process.env.URL}" + path + "`, {"]
    if verb != "GET":
        lines.append(f'  method: "{verb}",')
    lines.append("  headers: {")
    lines += [f"    {each}," for each in sent]
    lines.append("  },")
    if body is not None:
        text = json.dumps(body, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        text = _QUOTED_ID.sub(lambda found: f"process.env.{_VARIABLES[found[1]]}", text)
        lines.append(f"  body: JSON.stringify({text}),")
    lines += ["});", "if (!answer.ok) throw new Error(await answer.text());"]
    lines.append("console.log(await answer.text());")
    return "\n".join(lines)
