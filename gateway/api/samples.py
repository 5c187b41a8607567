"""Examples of a call in curl, Python and TypeScript, from its example in the OpenAPI document. Pure."""

from __future__ import annotations

import json
import pprint
import re
from collections.abc import Mapping
from typing import Any


def samples(
    method: str, path: str, body: Any, parameters: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the examples by language. `headers`: besides the key and the type of the body.

    They take the address of the gateway and the key from the environment: `URL` and `KEY`.
    """
    path = re.sub(r"{(\w+)}", lambda found: str(parameters.get(found[1], found[1])), path)
    verb = method.upper()
    return {
        "curl": _curl(verb, path, body, headers),
        "Python": _python(method, path, body, headers),
        "TypeScript": _typescript(verb, path, body, headers),
    }


def _curl(verb: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    lines = [f'curl -X {verb} "$URL{path}"', '-H "Authorization: Bearer $KEY"']
    if verb == "GET":
        lines[0] = f'curl "$URL{path}"'
    lines += [f'-H "{name}: $(cat /proc/sys/kernel/random/uuid)"' for name in headers]
    if body is not None:
        lines.append('-H "Content-Type: application/json"')
        lines.append(f"-d '{json.dumps(body, indent=2, ensure_ascii=False)}'")
    return " \\\n  ".join(lines)


def _python(method: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    imports = ["import os", *(["import uuid"] if headers else []), "", "import requests", ""]
    sent = ['"Authorization": f"Bearer {os.environ[\'KEY\']}"']
    sent += [f'"{name}": str(uuid.uuid4())' for name in headers]
    lines = [
        *imports,
        f"answer = requests.{method}(",
        f'    os.environ["URL"] + "{path}",',
        "    headers={" + ", ".join(sent) + "},",
    ]
    if body is not None:
        text = pprint.pformat(body, indent=1, width=76, sort_dicts=False).replace("'", '"')
        lines.append("    json=" + text.replace("\n", "\n         ") + ",")
    lines += ["    timeout=30,", ")", "answer.raise_for_status()"]
    lines.append("print(answer.text)" if method == "delete" else "print(answer.json())")
    return "\n".join(lines)


def _typescript(verb: str, path: str, body: Any, headers: Mapping[str, str]) -> str:
    sent = ["Authorization: `Bearer ${process.env.KEY}`"]
    sent += [f'"{name}": crypto.randomUUID()' for name in headers]
    if body is not None:
        sent.append('"Content-Type": "application/json"')
    lines = ["const answer = await fetch(`${process.env.URL}" + path + "`, {"]
    if verb != "GET":
        lines.append(f'  method: "{verb}",')
    lines.append("  headers: {")
    lines += [f"    {each}," for each in sent]
    lines.append("  },")
    if body is not None:
        text = json.dumps(body, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        lines.append(f"  body: JSON.stringify({text}),")
    lines += ["});", "if (!answer.ok) throw new Error(await answer.text());"]
    lines.append("console.log(await answer.text());")
    return "\n".join(lines)
