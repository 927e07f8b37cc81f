"""The walls between the packages and inside lps, and rules for every file of the repository.

lps is the science and works without Ray; sweeps orchestrates it; analysis reads only results. Each test collects all
violations before it fails.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from lps.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN: dict[str, set[str]] = {
    "lps": {"ray", "mlflow", "optuna", "pandas", "matplotlib", "sweeps", "analysis"},
    "sweeps": {"analysis"},
    "analysis": {"torch", "ray", "mlflow", "optuna", "sweeps"},
}
"""Package -> packages that no module of it may import, at the top or inside a function."""

INNER_WALLS: dict[str, tuple[str, ...]] = {
    "lps.data": ("lps.tasks",),
    "lps.nets": ("lps.agents",),
    "lps.tasks": ("lps.agents",),
    "lps.policy": ("lps.evaluation", "lps.training", "lps.runs.store"),
    "lps.runs.run": ("torch",),
}
"""Folder or module -> modules that it may not import."""

LEVELS = 9
"""Number of folders of lps that may stand on top of one another."""


def tracked(suffix: str = "") -> list[str]:
    """Return the files with this suffix that git tracks, or all files of a copy without git."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:
        skip = ("build", "data", "results", "mlruns")
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [str(p) for p in paths if p.parts[0] not in skip and not any(d.startswith(".") for d in p.parts[:-1])]
    return sorted(name for name in names if name.endswith(suffix) and (ROOT / name).exists())


PYTHON = tracked(".py")
MODULES = {
    name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name
    for name in PYTHON
    if name.split("/")[0] in FORBIDDEN
}
"""Name of each module -> its file."""


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), filename=name)


def nodes(parent: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `parent` that run: blocks under TYPE_CHECKING are left out."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from nodes(node)


def imports(name: str) -> set[str]:
    """Names of all modules that a file imports anywhere, also in `import_module("...")`."""
    found = set()
    for node in nodes(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its package. A name may be a module itself.
            module = name.split("/")[0] if node.level else node.module or ""
            parts = {f"{module}.{alias.name}" for alias in node.names}
            found |= (parts & MODULES.keys()) | ({module} if parts - MODULES.keys() else set())
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {
                arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return found


def packages(name: str) -> set[str]:
    """Top-level names of all packages that a file imports."""
    return {module.split(".")[0] for module in imports(name)}


def inside(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after this statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


Graph = dict[str, set[str]]


def module_graph() -> Graph:
    return {module: (imports(name) & MODULES.keys()) - {module} for module, name in MODULES.items()}


def folder_graph(package: str) -> Graph:
    """Folders and modules at the top of a package -> those that they import."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    graph: Graph = {}
    for module, targets in module_graph().items():
        if inside(module, package):
            own = graph.setdefault(folder(module), set())
            own |= {folder(target) for target in targets if inside(target, package)} - {folder(module)}
    return graph


def levels(graph: Graph) -> list[set[str]]:
    """The lowest level imports nothing, each other level only lower ones. Modules of import cycles are left out."""
    found: list[set[str]] = []
    done: set[str] = set()
    while level := {module for module, targets in graph.items() if module not in done and targets <= done}:
        found.append(level)
        done |= level
    return found


def cycles(graph: Graph) -> list[str]:
    """Lines "a -> b" of all imports that belong to a cycle or lie between two cycles."""
    done = set().union(*levels(graph))
    used = levels({module: {m for m, t in graph.items() if module in t} - done for module in graph.keys() - done})
    return sorted(
        f"{module} -> {target}"
        for module in graph.keys() - done - set().union(*used)
        for target in graph[module] - done
    )


# --- walls ---


def test_every_package_has_modules():
    assert {name.split(".")[0] for name in MODULES} == set(FORBIDDEN)


def test_imports_stay_behind_the_walls():
    crossed = {name: found for name in MODULES.values() if (found := packages(name) & FORBIDDEN[name.split("/")[0]])}
    assert not crossed


@pytest.mark.parametrize("room", INNER_WALLS)
def test_imports_stay_behind_the_inner_walls(room):
    crossed = {
        f"{module} -> {target}"
        for module, name in MODULES.items()
        if inside(module, room)
        for target in imports(name)
        if any(inside(target, wall) for wall in INNER_WALLS[room])
    }
    assert not crossed


def test_no_import_cycle():
    assert not cycles(module_graph())


def test_the_folders_of_lps_stand_on_one_another():
    graph = folder_graph("lps")
    assert not cycles(graph)
    assert len(levels(graph)) <= LEVELS, levels(graph)


def test_the_face_of_a_package_is_empty_or_a_table():
    table = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    faces = [name for name in MODULES.values() if name.endswith("/__init__.py") and name != "lps/__init__.py"]
    code = {name: type(node).__name__ for name in faces for node in tree(name).body if not isinstance(node, table)}
    assert not code


def test_nothing_else_imports_sweeps_or_analysis():
    files = set(PYTHON) - set(MODULES.values())
    others = [name for name in files if not name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in others if packages(name) & {"sweeps", "analysis"}]


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    declared = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}
    installed = packages_distributions()
    missing = {
        f"{name}: {package}"
        for name in MODULES.values()
        for package in packages(name) - set(sys.stdlib_module_names) - set(FORBIDDEN)
        if not declared & {normal(distribution) for distribution in installed.get(package, [package])}
    }
    assert not missing, "pyproject.toml does not name these packages"


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lps", {"torch", "gymnasium", "mujoco", "scipy", *FORBIDDEN["lps"]}),
        ("lps.training.options", {"torch"}),
        ("lps.runs.run", {"torch"}),
        ("lps.tasks.suites", {"torch"}),
        ("lps.__main__", {"torch", "numpy"}),
        *((f"lps.commands.{name}", {"torch", "numpy"}) for name in COMMANDS),
        # A driver and its trials do without torch.
        *((f"sweeps.{name}", {"torch"}) for name in ("launcher.launch", "launcher.pack", "ogbench_all")),
    ],
)
def test_an_import_is_light(module, heavy):
    assert not loaded_by(f"import {module}") & heavy


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_importing_every_module_loads_nothing_from_behind_the_walls(package):
    """The same as the imports above, with all that third-party packages import."""
    modules = [module for module in MODULES if inside(module, package) and not module.endswith("__main__")]
    assert not loaded_by("import " + ", ".join(modules)) & FORBIDDEN[package]


# --- files ---


def test_every_public_module_says_what_it_is():
    public = [name for name in MODULES.values() if not Path(name).name.startswith("_")]
    assert not [name for name in public if len(ast.get_docstring(tree(name)) or "") < 10]


def test_nothing_points_at_one_machine():
    roots = ("work", "root", "tmp/w", "mnt/data", r"(?:home|Users)/(?!ubuntu\b|ray\b|you\b)\w+")
    pattern = re.compile(r"(?<![\w.~$}/:-])/(?:" + "|".join(roots) + r")(?![\w-])")
    found = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if "lock" not in Path(name).suffix and b"\0" not in data[:8192]:
            lines = enumerate(data.decode().splitlines(), 1)
            found += [f"{name}:{number}" for number, line in lines if pattern.search(line)]
    assert not found


def test_links_between_files_lead_somewhere():
    missing = []
    for name in tracked(".md"):
        text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
        targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        missing += [f"{name}: {target}" for target in targets if not (ROOT / name).parent.joinpath(target).exists()]
    assert not missing
