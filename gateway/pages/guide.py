"""The documentation, rendered from its Markdown: `docs/` of the repository, `gateway/guide` in the wheel."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_PAGES = files("gateway").joinpath("guide")
_FILES = {"png": "image/png", "svg": "image/svg+xml", "json": "application/json"}
HOME = "index"


@lru_cache(maxsize=1)
def contents() -> Mapping[str, str | None]:
    """Return every path below `/guide`: of pages, with None, and of other files, with their media type.

    Only these are read: a path of a request never reaches the file system.
    """
    found: dict[str, str | None] = {}
    ahead = [(_PAGES, "")]
    while ahead:
        folder, path = ahead.pop()
        for each in folder.iterdir():
            name = f"{path}{each.name}"
            if each.is_dir():
                ahead.append((each, name + "/"))
            elif name.endswith(".md"):
                found[name.removesuffix(".md")] = None
            elif name.rpartition(".")[2] in _FILES:
                found[name] = _FILES[name.rpartition(".")[2]]
    return found


def content(path: str) -> bytes:
    """Return the bytes of a file that is no page. `path`: one of `contents`."""
    return _PAGES.joinpath(*path.split("/")).read_bytes()


def guide_page(path: str) -> dict[str, Any]:
    """Return what the template shows of a page. `path`: one of `contents`; `index`: the first page."""
    text = _PAGES.joinpath(*f"{path}.md".split("/")).read_text("utf-8")
    root = "../" * (path.count("/") + 1) if path != HOME else ""
    tokens = _MARKDOWN.parse(text)
    title = next(tokens[n + 1].content for n, each in enumerate(tokens) if each.tag == "h1")
    _anchor(tokens)
    for each in tokens:
        for child in each.children or ():
            name = "href" if child.type == "link_open" else "src"
            if child.type in {"link_open", "image"}:
                child.attrSet(name, _target(str(child.attrGet(name)), path, root))
    return {
        "area": "guide",
        "root": root,
        "title": title,
        "text": _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}),
        "nav": _nav(path, root),
    }


def _target(href: str, page: str, root: str) -> str:
    """Return where a link leads from a page under `/guide`."""
    if re.match(r"[a-z]+:|#|/", href):
        return href
    path, hash_, anchor = href.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    path = path.removesuffix(".md")
    place = "guide" if path == HOME else f"guide/{path}"
    return root + place + hash_ + anchor


def _nav(path: str, root: str) -> list[dict[str, Any]]:
    groups: Sequence[Mapping[str, Any]] = json.loads(content("nav.json"))
    return [
        {
            "title": group["title"],
            "links": [
                {
                    "title": each["title"],
                    "href": _target(each["path"], HOME, root),
                    "current": each["path"] == f"{path}.md",
                }
                for each in group["pages"]
            ],
        }
        for group in groups
    ]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as `mkdocs` makes it. Pure."""
    kept = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def _anchor(tokens: Sequence[Token]) -> None:
    """Give every heading below the first its anchor, and a link to itself."""
    seen: dict[str, int] = {}
    for number, each in enumerate(tokens):
        if each.type != "heading_open":
            continue
        words = "".join(child.content for child in tokens[number + 1].children or ())
        name = slug(words)
        seen[name] = seen.get(name, -1) + 1
        name += f"_{seen[name]}" if seen[name] else ""
        each.attrSet("id", name)
        if each.tag != "h1":
            link = Token("link_open", "a", 1)
            link.attrs = {"class": "anchor", "href": f"#{name}", "aria-label": f"Link to {words}"}
            text = Token("text", "", 0, content="#")
            children = tokens[number + 1].children
            if children is not None:
                children += [link, text, Token("link_close", "a", -1)]


def _table(_: RendererHTML, *__: object) -> str:
    return '<div class="wide" tabindex="0" role="group" aria-label="Table"><table>'


def _table_end(_: RendererHTML, *__: object) -> str:
    return "</table></div>"


def _fence(_: RendererHTML, tokens: Sequence[Token], index: int, *__: object) -> str:
    # Scrolled with the keyboard, so it takes the focus.
    code = tokens[index].content.replace("&", "&amp;").replace("<", "&lt;")
    return f'<pre tabindex="0"><code>{code}</code></pre>\n'


def _markdown() -> MarkdownIt:
    # The pages are files of the package, not user input: their comments pass as HTML.
    made = MarkdownIt("commonmark", {"html": True}).enable("table")
    made.add_render_rule("table_open", _table)
    made.add_render_rule("table_close", _table_end)
    made.add_render_rule("fence", _fence)
    return made


_MARKDOWN = _markdown()
