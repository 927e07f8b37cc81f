"""The page: one file that holds everything and asks nobody for anything; and the command that writes it."""

import base64
import itertools
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_analysis import fill, put, studied

from analysis.__main__ import main
from analysis.numbers import summaries
from analysis.numbers.claims import claims
from analysis.page import html as page
from analysis.page import provenance
from analysis.page.tables import TABLES
from analysis.plots import PLOTS
from lps.runs.hyperparameters import parse_settings
from lps.runs.run import Run
from lps.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "example"
KEPT = sorted(schema.parent for schema in EXAMPLE.glob("*/schema.json"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
OF_STUDIES = {
    "ablations",
    "sensitivity",
    "landscape",
    "latents",
    "budget",
    "importances",
    "data_scaling",
    "compute",
    "flops",
    "ring",
}
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What stands in a page: its text, its addresses and its ids; refuses what is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        self.ids |= {values["id"]} if "id" in values else set()
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = fill(tmp_path_factory.mktemp("results"), ("lps", "dsrl", "flow_bc"), tasks=(1, 2), seeds=3)
    put(path, "lps", seed=7, status="failed", error="RuntimeError: <b>NaN</b> & more", curve=(0.1,))
    return path


@pytest.fixture(scope="module")
def written(results, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("out") / "here" / "page.html"
    assert main(["report", str(results), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_is_complete_and_asks_nobody(written):
    here = Page(written)
    outside = [address for address in here.addresses if not address.startswith(("data:", "#"))]
    assert not outside and "<script" not in written and "default-src 'none'" in written
    assert {address[1:] for address in here.addresses if address.startswith("#")} <= here.ids
    for name in PLOTS:
        assert (f"figure-{name}" in here.ids) is (name not in OF_STUDIES)
    for name in TABLES.keys() - {"claims"}:
        assert f"table-{name}" in here.ids
    assert "LPS is better than DSRL on cube-single" in here.text
    assert "RuntimeError: <b>NaN</b> & more" in here.text and "<b>NaN" not in written
    assert "python -m lps train --agent lps" in here.text and "2.13.0" in here.text


def test_figures_and_numbers_are_inside(written):
    data = [address for address in Page(written).addresses if address.startswith("data:")]
    kinds = {address.split(";")[0] for address in data}
    assert kinds == {"data:image/svg+xml", "data:text/csv", "data:text/x-tex"}
    for address in data:
        text = base64.b64decode(address.split(",", 1)[1]).decode()
        assert "<svg" in text if "svg" in address[:20] else len(text) > 1


def test_many_claims_without_enough_runs_are_folded_away(tmp_path):
    for agent, seed in itertools.product(("lps", "dsrl", "qcfql", "cfgrl", "flow_bc"), range(2)):
        put(tmp_path, agent, seed=seed)
    made = claims(studied(tmp_path))
    assert {claim.verdict for claim in made} == {"too few"} and len(made) == 4
    text = page.render(studied(tmp_path))
    assert "4 comparisons with too few runs to tell" in text and all(
        claim.sentence in Page(text).text for claim in made
    )


def test_the_same_results_make_the_same_page(results):
    assert page.render(studied(results)) == page.render(studied(results))


def test_commands_make_the_same_runs(tmp_path):
    """What a command asks for is, by its id, the run that is in the results."""
    task = "cube-single-play-singletask-task2-v0"
    runs = [
        Run.create(agent, task, seed, steps=4000, eval_interval=1000, eval_episodes=10, **settings)
        for agent, settings in (
            ("lps", {}),
            ("qcfql", {}),
            ("dsrl:matched", {"lr": 1e-3}),
            ("lps", {"dataset": "cube-single-play-100", "base_hidden": (64, 64), "options": {"reward_timing": "post"}}),
        )
        for seed in (0, 3)
    ]
    for run in runs:
        put(tmp_path, **(run.to_dict() | {"task": 2}))
    commands = [shlex.split(command) for command in provenance.commands(studied(tmp_path))]
    assert len(commands) == 4 and not any("--set" in command for command in commands if "qcfql" in command)
    made = set()
    for command in commands:
        options: dict[str, list[str]] = {}
        for word in command[4:]:
            if word.startswith("--"):
                options[word[2:].replace("-", "_")] = values = []
            else:
                values.append(word)
        settings = parse_settings(options.pop("set", []))
        suite = parse_settings(options.pop("option"))
        seeds = [int(seed) for seed in options.pop("seeds")]
        rest = {name: int(value) if value.isdigit() else value for name, (value,) in options.items()}
        made |= {Run.create(seed=seed, **rest, **settings, options=suite).id for seed in seeds}
    assert made == {run.id for run in runs}


def test_the_place_of_mlflow_is_on_the_page(tmp_path, monkeypatch):
    put(tmp_path, "lps")
    assert provenance.mlflow(studied(tmp_path)) == ""
    (tmp_path / "mlflow.db").touch()
    found = provenance.mlflow(studied(tmp_path))
    assert found.startswith("mlflow ui --backend-store-uri sqlite:////") and found in page.render(studied(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert provenance.mlflow(studied(tmp_path)) == "https://mlflow.example.org"


def test_the_sweep_that_made_the_runs_is_on_the_page(tmp_path):
    here = fill(tmp_path)
    command = "python sweeps/ogbench_all.py --preset small --set 'lr=1e-3'"
    Store(here).write_sweep("small", {"sweep": "small", "command": command, "runs": {}})
    assert provenance.sweeps(studied(here)) == [command]
    assert command in Page(page.render(studied(here))).text


def test_command_line(tmp_path, capsys):
    put(tmp_path, "lps")
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "files")]) == 0
    assert (tmp_path / "files" / "tables" / "success.md").is_file()
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "file" / "x.html")]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_the_example_in_the_docs_says_what_its_results_say():
    study = studied(EXAMPLE / "cube-single-30k")
    assert study.results.problems == [] and (study.runs["state"] == "done").all()
    text = Page((EXAMPLE / "report.html").read_text(encoding="utf-8")).text
    made = claims(study)
    assert made and all(claim.sentence in text for claim in made)
    for row in [*TABLES["success"](study).rows, *TABLES["published"](study).rows]:
        assert all(cell in text for cell in row)


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_the_tables_of_the_docs_say_what_their_results_say(kept):
    study = studied(kept)
    (group,) = study.groups
    assert study.results.problems == [] and (study.runs["state"] == "done").all()
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    last = study.results.evaluations.sort_values("step").groupby("run_id")["value"].last()
    lead = {claim.theirs: claim.evidence.difference for claim in claims(study)}
    for _, row in summaries.by_group(study).iterrows():
        ends = ", ".join(f"{100 * last[run]:.0f}" for run in study.cell(row["series"], group).index)
        title = study.series[row["series"]].title
        cells = [title, f"{100 * row['mean']:.0f} % [{100 * row['low']:.0f}, {100 * row['high']:.0f}]", f"{ends} %"]
        if ahead := lead.get(row["series"]):
            cells.append(f"{100 * ahead.mean:+.0f} [{100 * ahead.low:+.0f}, {100 * ahead.high:+.0f}]")
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_opens_in_a_browser_without_a_network(written, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(written, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", "--enable-logging=stderr", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "CONSOLE" not in done.stderr
    shown = Page(done.stdout)
    assert {f"figure-{name}" for name in PLOTS if name not in OF_STUDIES} <= shown.ids
