"""Which folder imports which, as docs/architecture.md draws it: lazily too, but for types alone."""

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
MOST_MODULES, MOST_LINES = 9, 400
PATHS = {
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
            found |= {name if name in PATHS else str(node.module) for name in names}
        else:
            found |= imported(node)
    return found


IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in PATHS.items()}


def chains() -> dict[str, list[list[str]]]:
    """The folders of each package from the innermost outwards; those of equal rank together."""
    lines = re.findall(r"^([\w/]+):\s+(.+<--.+)$", TEXT, flags=re.MULTILINE)
    return {
        where.replace("/", "."): [
            [name.strip() for name in rank.split(",")] for rank in chain.split("<--")
        ]
        for where, chain in lines
    }


CHAINS = chains()


def part_of(module: str, package: str) -> str | None:
    """The folder below the package that holds the module; `.` for the package's own files."""
    inside = module.removeprefix(f"{package}.")
    if inside == module:
        return None
    first, _, rest = inside.partition(".")
    return first if rest or f"{module}.__init__" in PATHS or _named(package, first) else "."


def _named(package: str, name: str) -> bool:
    return any(name in rank for rank in CHAINS[package])


@pytest.mark.parametrize("package", CHAINS)
def test_every_folder_has_one_place(package):
    parts = {part_of(name, package) for name in PATHS if not name.endswith("__init__")} - {None}

    assert sorted(name for rank in CHAINS[package] for name in rank) == sorted(parts)


@pytest.mark.parametrize("package", CHAINS)
def test_a_folder_imports_only_those_before_it(package):
    ranks = {name: rank for rank, names in enumerate(CHAINS[package]) for name in names}
    for module, found in IMPORTS.items():
        mine = part_of(module, package)
        if mine is None or module.endswith("__init__"):
            continue
        for other in found:
            theirs = part_of(other, package)
            if theirs is not None and theirs != mine:
                assert ranks[theirs] < ranks[mine], f"{module} -> {other}"


def test_no_two_modules_import_each_other():
    def reached(module: str, seen: frozenset[str]) -> set[str]:
        return {other for other in IMPORTS[module] if other in PATHS and other not in seen}

    for start in IMPORTS:
        if start.endswith("__init__"):
            continue
        found, rest = frozenset[str](), [start]
        while rest:
            new = reached(rest.pop(), found)
            assert start not in new, f"{start} imports itself by way of others"
            found |= new
            rest += new


@pytest.mark.parametrize(("package", "later"), [("data_prep", PACKAGES[1:]), ("models", ("hpo",))])
def test_a_package_imports_none_that_comes_after_it_and_none_of_its_libraries(package, later):
    for name, found in IMPORTS.items():
        if name.startswith(f"{package}."):
            assert not {each.partition(".")[0] for each in found} & {*later, *FORBIDDEN[package]}


def doors() -> list[tuple[str, list[str]]]:
    """Each outside library with the folders and files through which it comes in."""
    body = TEXT.partition("| library |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in body.splitlines() if line.startswith("| ")]
    return [(library.strip(), re.findall(r"`([\w/.-]+)`", places)) for library, places in rows]


@pytest.mark.parametrize(("library", "places"), doors(), ids=lambda value: str(value))
def test_a_library_comes_in_by_its_doors_alone(library, places):
    package = library.replace("-", "_").replace("scikit_learn", "sklearn")
    users = {
        str(PATHS[name].relative_to(ROOT))
        for name, found in IMPORTS.items()
        if package in {each.partition(".")[0] for each in found}
    }
    entered = {next((door for door in places if user.startswith(door)), user) for user in users}

    assert entered == set(places)


def test_only_the_queue_touches_private_names_of_optuna():
    for name, found in IMPORTS.items():
        private = [each for each in found if re.match(r"optuna\..*\b_", each)]
        assert not private or name.startswith("hpo.queue."), f"{name} -> {private}"


def test_a_folder_and_a_file_can_be_taken_in():
    folders: dict[Path, int] = {}
    for path in PATHS.values():
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
        folders[path.parent] = folders.get(path.parent, 0) + (path.name[:2] != "__")

    assert {str(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}


def test_the_picture_names_every_package():
    picture = (ROOT / "docs" / "architecture.svg").read_text()

    assert all(f">{package}<" in picture for package in PACKAGES)
