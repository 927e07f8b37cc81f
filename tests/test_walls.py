"""The walls between the three packages, and what holds for every file of the repository.

lps is the science and works where Ray is not installed; sweeps orchestrates it; analysis reads only results.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "lps": {"ray", "mlflow", "optuna", "pandas", "matplotlib", "sweeps", "analysis"},
    "sweeps": {"analysis"},
    "analysis": {"torch", "ray", "mlflow", "optuna", "sweeps"},
}
"""Package -> what no module of it may import, at the top or inside a function."""


def tracked(suffix: str = "") -> list[str]:
    """The repository's files with this suffix: those git tracks, or all of a copy without git."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:
        skip = ("build", "data", "results", "mlruns")
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [str(p) for p in paths if p.parts[0] not in skip and not any(d.startswith(".") for d in p.parts[:-1])]
    return sorted(name for name in names if name.endswith(suffix) and (ROOT / name).exists())


PYTHON = tracked(".py")
MODULES = [name for name in PYTHON if name.split("/")[0] in FORBIDDEN]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), filename=name)


def imports(name: str) -> set[str]:
    """The top-level names of all packages that a file imports anywhere, also in `import_module("...")`."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its package.
            found.add(name.split("/")[0] if node.level else node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {
                arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return {module.split(".")[0] for module in found}


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after this statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_every_package_has_modules():
    assert {name.split("/")[0] for name in MODULES} == set(FORBIDDEN)


@pytest.mark.parametrize("name", MODULES)
def test_imports_stay_behind_the_walls(name):
    crossed = imports(name) & FORBIDDEN[name.split("/")[0]]
    assert not crossed, f"{name} imports {', '.join(sorted(crossed))}"


def test_nothing_else_imports_sweeps_or_analysis():
    others = [name for name in PYTHON if name not in MODULES and not name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in others if imports(name) & {"sweeps", "analysis"}]


@pytest.mark.parametrize("name", MODULES)
def test_every_import_is_a_declared_dependency(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    declared = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}
    installed = distributions()
    foreign = imports(name) - set(sys.stdlib_module_names) - set(FORBIDDEN)
    missing = {m for m in foreign if not declared & {normal(dist) for dist in installed.get(m, [m])}}
    assert not missing, f"{name} imports {', '.join(sorted(missing))}, which pyproject.toml does not name"


@functools.cache
def distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_importing_lps_is_light():
    heavy = loaded_by("import lps") & (FORBIDDEN["lps"] | {"gymnasium", "mujoco", "scipy"})
    assert not heavy, f"import lps loads {', '.join(sorted(heavy))}"


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_importing_every_module_loads_nothing_from_behind_the_walls(package):
    """The same as the imports above, but with what third-party packages bring along."""
    names = [name for name in MODULES if name.startswith(f"{package}/") and not name.endswith("__main__.py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    crossed = loaded_by("import " + ", ".join(modules)) & FORBIDDEN[package]
    assert not crossed, f"importing {package} loads {', '.join(sorted(crossed))}"


@pytest.mark.parametrize("name", [name for name in MODULES if not Path(name).name.startswith("_")])
def test_every_public_module_says_what_it_is(name):
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in tracked() if "lock" not in Path(name).suffix])
def test_nothing_points_at_one_machine(name):
    text = (ROOT / name).read_bytes()
    if b"\0" in text[:8192]:
        return
    roots = ("work", "root", "tmp/w", "mnt/data", r"(?:home|Users)/(?!ubuntu\b|ray\b|you\b)\w+")
    pattern = r"(?<![\w.~$}/:-])/(?:" + "|".join(roots) + r")(?![\w-])"
    for number, line in enumerate(text.decode().splitlines(), 1):
        found = re.search(pattern, line)
        assert not found, f"{name}:{number} names a path of one machine: {found[0]}"


@pytest.mark.parametrize("name", tracked(".md"))
def test_links_between_files_lead_somewhere(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    missing = [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()]
    assert not missing, f"{name} links to {', '.join(missing)}"
