"""What `mkdocs.yml` cannot say: pages whose text stands elsewhere, links to them, generated tables.

Text stands once. README and its like are pages of the site as they are, and links between files of
the repository are turned into links between pages; one that leads to no page ends the build.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from hpo.study import space, spec

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "demo.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data_prep/sample/README.md": "sample.md",
}
"""Pages whose text is elsewhere in the repository."""
SOURCES = {page: source for source, page in PAGES.items()}
FIELDS = "<!-- fields of hpo/records/run.schema.json -->"
"""Stands where the tables of a run.json's fields are to be."""
TABLES = "<!-- tables of a study file -->"
"""Stands where the tables of a study file are to be, with their keys and defaults."""
CODE = re.compile(r"<!-- code of (\S+\.py) -->")
"""Stands where a script of the repository is to be."""

_LINK = re.compile(r"(\]\(|<img src=\")([^)\"\s#:]+)((?:#[^)\s]*)?[)\"])")
_FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages from elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Links between files of the repository as links between pages, and generated tables."""
    uri = page.file.src_uri
    source = SOURCES.get(uri, f"docs/{uri}")

    def between_pages(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        place = PAGES.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{posixpath.relpath(place, posixpath.dirname(uri) or '.')}{link[3]}"

    text = _LINK.sub(between_pages, markdown)
    text = text.replace(FIELDS, _fields()).replace(TABLES, _study_tables())
    return CODE.sub(lambda script: f"```python\n{(ROOT / script[1]).read_text()}```", text)


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """No default where a command's option has none: mkdocs-click shows click's mark of that."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Refuse a page that would load something from another server."""
    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output


def _fields() -> str:
    """A table for each object of the schema of `run.json`, the whole file first."""
    schema = json.loads((ROOT / "hpo" / "records" / "run.schema.json").read_text(encoding="utf-8"))
    parts = [_table(schema)]
    for name, part in schema["$defs"].items():
        parts.append(f"**{name}.** {part['description']}\n\n{_table(part)}")
    return "\n\n".join(parts)


def _study_tables() -> str:
    """A row for each table of a study file: its keys, with their defaults where they have one."""
    kinds = get_type_hints(spec.StudySpec)
    rows = ["| table | keys (default) |", "|---|---|"]
    for table in spec.TABLES:
        if table == "space":
            keys = [f"`{key}`" for key in sorted(space.FLOW | space.TRAINING)]
        else:
            keys = [f"`{one.name}`{_default(one)}" for one in dataclasses.fields(kinds[table])]
        rows.append(f"| `[{table}]` | {', '.join(keys)} |")
    return "\n".join(rows)


def _default(option: Any) -> str:
    """As TOML has it; nothing where an absent key means something else than any value."""
    value = option.default
    if value is dataclasses.MISSING or value is None:
        return ""
    return f" ({json.dumps(value)})"


def _table(part: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {_type(field)} | {' '.join(field.get('description', '').split())} |"
        for name, field in part["properties"].items()
    ]
    return "\n".join(["| field | type | |", "|---|---|---|", *rows])


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"{field['$ref'].rpartition('/')[2]}"
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    return str(field.get("type", "any"))
