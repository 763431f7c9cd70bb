"""Who imports whom, as docs/architecture.md tells it: lazily too, but for types alone."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("data_prep", "models", "hpo")
FORBIDDEN = {
    "data_prep": {"torch", "optuna", "nflows", "submitit", "sqlalchemy", "dash"},
    "models": {"optuna", "submitit", "sqlalchemy", "dash", "plotly", "matplotlib", "click"},
}
EXCEPTION = ("hpo.records.record", "hpo.records.thesis")
NAMES = re.compile(r"`([\w/.-]+)`")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(tree: ast.AST) -> set[str]:
    """Full names of all that a module imports, of a module itself where it is one of ours."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{each.name}" for each in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        else:
            found |= imported(node)
    return found


IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in MODULES.items()}


def rows(head: str) -> list[tuple[str, list[str]]]:
    """First cell and names of each row of the table that begins so."""
    body = TEXT.partition(f"| {head} |")[2].partition("\n\n")[0]
    lines = [line.split("|")[1:3] for line in body.splitlines() if line.startswith("| ")]
    return [(first.strip(), NAMES.findall(second)) for first, second in lines]


def order(package: str) -> list[str]:
    """The package's modules as its table lists them."""
    found = []
    for first, names in rows(f"`{package}`"):
        inside = NAMES.findall(first)
        for name in names:
            found.append(".".join([package, *inside, name]))
    return found


def listed(package: str) -> list[str]:
    """Modules that its table has to list; a folder of modules of equal rank is one."""
    names = {re.sub(r"(\.pages)\..*", r"\1", name) for name in MODULES}
    ours = {name for name in names if name.startswith(f"{package}.")}
    return sorted(name for name in ours if not name.endswith(("__init__", "__main__")))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_one_place(package):
    assert sorted(order(package)) == listed(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_imports_only_what_stands_before_it(package):
    places = {name: place for place, name in enumerate(order(package))}

    def place(name: str) -> int | None:
        return places.get(re.sub(r"(\.pages)\..*", r"\1", name))

    for name, found in IMPORTS.items():
        mine = place(name)
        for other in found:
            theirs = place(other)
            if mine is None or theirs is None or (name, other) == EXCEPTION:
                continue
            assert theirs < mine or (".pages" in name and theirs == mine), f"{name} -> {other}"


@pytest.mark.parametrize(("package", "later"), [("data_prep", PACKAGES[1:]), ("models", ("hpo",))])
def test_a_package_imports_none_that_comes_after_it_and_none_of_its_libraries(package, later):
    for name, found in IMPORTS.items():
        if name.startswith(f"{package}."):
            assert not {each.partition(".")[0] for each in found} & {*later, *FORBIDDEN[package]}


@pytest.mark.parametrize(
    ("library", "doors"), [pytest.param(*row, id=row[0]) for row in rows("library")]
)
def test_a_library_comes_in_by_its_doors_alone(library, doors):
    package = library.replace("-", "_")
    users = {
        str(MODULES[name].relative_to(ROOT))
        for name, found in IMPORTS.items()
        if package in {each.partition(".")[0] for each in found}
    }

    assert {next((door for door in doors if user.startswith(door)), user) for user in users} == {
        *doors
    }


def test_only_slots_touches_private_names_of_optuna():
    for name, found in IMPORTS.items():
        private = [each for each in found if re.match(r"optuna\..*\b_", each)]
        assert not private or name == "hpo.queue.slots", f"{name} -> {private}"


def test_the_picture_names_every_package():
    picture = (ROOT / "docs" / "architecture.svg").read_text()

    assert all(f">{package}<" in picture for package in PACKAGES)
