"""Every shell command of README and docs runs, at toy size or as a dry run; the exceptions are listed below."""

import contextlib
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLE = "docs/example/pointmaze-10k"
PAGES = [
    "README.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "adding-a-task.md"),
]
"""All pages but docs/adding-a-task.md, whose commands tests/test_docs.py runs together with its files."""

NOT_RUN = {
    "source": "the environment of the tests is active already",
    "pip": "installs packages",
    "kubectl": "needs a Kubernetes cluster",
    "python -m lps video": "needs OpenGL; tests/test_video.py films an episode where it works",
    "python -m lps evaluate CHECKPOINT": "names no checkpoint; the README's `evaluate` runs",
    "python -m lps train --agent mean_bc": "tests/test_docs.py runs it with the file of its page",
    "python -m lps train --agent lps --suite my_package.my_suite": "needs a Minari dataset; see tests/test_readers.py",
}
"""Beginnings of the commands that are not run -> the reason."""

with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as second:
    PORT, SECOND = free.getsockname()[1], second.getsockname()[1]

PLACEHOLDERS = {
    "s3://<bucket>/paper": EXAMPLE,
    "RESULTS": EXAMPLE,
    "results/scene": "docs/example/scene-9k",
    "results/visual": "docs/example/visual-pointmaze-10k",
    " --compile": "",  # tests/test_program.py compiles
    ":8000": f":{PORT}",
    "--port 8000": f"--port {PORT}",
    ":8001": f":{SECOND}",
    "--port 8001": f"--port {SECOND}",
    "<run>": "*",  # the checkpoint that an earlier command of the page has written
}
"""Words of the pages -> their value here."""

TOY = {
    "python -m lps collect": "--episodes 2 --workers 1",
    "python -m lps train": "--steps 2 --eval-interval 2 --eval-episodes 1 --seeds 0 --device cpu --set batch_size=4"
    " base_hidden=8",
    "python -m lps evaluate": "--episodes 1",
    "python -m lps drive": "--episodes 1 --rate 0",
    "python -m lps replay": "--count 3",
    "python benchmarks/serving.py": "--networks mlp --calls 32 --out .",
    "python sweeps/": "--dry-run",
    "python tests/long/": "--help",
    "make": "--dry-run",
    "ray": "--help",  # unknown options are still errors
}
"""Beginnings of commands -> options that make them quick."""


def commands(page: str) -> list[str]:
    """The commands of a page's shell blocks and of its `code` that begins with python or make, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines() + re.findall(r"`((?:python|make) [^`\n]+)`", prose)
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()))


def test_every_block_has_a_language_and_none_is_indented():
    for page in [*PAGES, "docs/adding-a-task.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
        assert all(fences[::2]) and not any(fences[1::2]), page
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"(?<=\n\n)    \S", prose), page


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path):
    for entry in ROOT.iterdir():
        if entry.name not in ("docs", "results", "data", "build") and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # a copy, because some commands write there
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LPS_DATA_DIR": str(tmp_path / "data"),
    }
    with contextlib.ExitStack() as servers:
        for line in commands(page):
            for command in executable(line):
                if command.startswith("python -m lps serve"):
                    servers.enter_context(running(command, tmp_path, env))
                    continue
                done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
                assert done.returncode == 0, f"{page}: {line}\n{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@contextlib.contextmanager
def running(command: str, cwd: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a server from its first line of output to the end of the page; then it must end as asked."""
    server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline().startswith("serving "), command
        yield
        server.terminate()
        assert server.wait(60) == 0, command
    finally:
        server.kill()
        server.communicate()


def executable(line: str) -> Iterator[str]:
    """The quick form of a documented command, and of a Ray command also the one that it starts on the cluster."""
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(placeholder, value)
    words = shlex.split(line)
    plain = " ".join(itertools.dropwhile(lambda word: "=" in word, words))  # without variables
    if not plain.startswith(tuple(NOT_RUN)):
        toy = [options for beginning, options in TOY.items() if plain.startswith(beginning)]
        yield " ".join([*(word if "*" in word else shlex.quote(word) for word in words), *toy])
    for inner in re.findall(r"^ray .* cd lps && (.*)", plain):
        yield from executable(inner)
