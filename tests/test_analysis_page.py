"""The page: one file that holds everything and asks nobody for anything; and the command that writes it."""

import base64
import hashlib
import itertools
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_analysis import AGENTS, fill, put, studied

from analysis.__main__ import main
from analysis.numbers import summaries
from analysis.numbers.claims import claims
from analysis.page import html as page
from analysis.page import provenance
from analysis.page.figures import all_plots
from analysis.page.headline import headline, lead, verdict
from analysis.page.tables import TABLES, all_tables
from analysis.plots import PLOTS, style
from analysis.results.agents import AVERAGE, SPARE_COLOURS
from lps.runs.hyperparameters import parse_settings
from lps.runs.run import Run
from lps.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "example"
KEPT = sorted(schema.parent for schema in EXAMPLE.glob("*/schema.json"))
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
    """What stands in a page: its text, its addresses, its ids and its scripts; refuses what is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.scripts: list[str] = []
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
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
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
    assert not outside and len(written) < 6e6
    specs, script = here.scripts
    assert json.loads(specs).keys() == {key for key in here.ids if key.startswith("chart-")}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', written)[1]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{own}'" in policy and "eval" not in policy
    assert {address[1:] for address in here.addresses if address.startswith("#")} <= here.ids
    for name in PLOTS:
        assert (f"figure-{name}" in here.ids) is (name not in OF_STUDIES)
    empty = {"robustness", "tuned", "held_out"}
    for name in TABLES.keys() - {"claims", "success"}:
        assert (f"table-{name}" in here.ids) is (name not in empty)
    assert "Nothing was tuned" not in here.text
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
    few = claims(studied(tmp_path))
    assert {claim.verdict for claim in few} == {"too few"} and len(few) == 4
    text = page.render(studied(tmp_path))
    assert "4 comparisons with too few runs to tell" in text and all(claim.sentence in Page(text).text for claim in few)


def test_the_first_screen_is_the_answer(results, written):
    study = studied(results)
    text = Page(written).text
    top = text[: text.index("What the data support")]
    table = headline(study, TABLES["success"](study))
    assert [row.title for row in table.rows] == ["LPS", "DSRL", "Flow BC"] and table.columns == ["cube-single"]
    assert [row.cells[0].best for row in table.rows] == [True, False, False]
    assert lead(study, table) in " ".join(top.split())
    sentences = ["LPS is shown to be better than DSRL.", "Too few runs to compare LPS with Flow BC."]
    assert verdict(study, claims(study)) == sentences
    for row in TABLES["success"](study).rows:
        assert all(part in top for part in (row[1], *row[2].split(" ", 1), *row[3].split(" ", 1)))


def test_several_groups_are_columns_and_the_average_is_the_first(tmp_path):
    fill(tmp_path, ("lps", "flow_bc"), groups=("cube-single", "scene"), seeds=2)
    put(tmp_path, "dsrl", "scene", seed=0)
    study = studied(tmp_path)
    table = headline(study, TABLES["success"](study))
    assert table.columns == [AVERAGE, "cube-single", "scene"] and not table.bars
    assert [row.title for row in table.rows] == ["LPS", "Flow BC", "DSRL"], "what lacks a group comes last"
    dsrl = table.rows[-1].cells
    assert dsrl[:2] == [None, None] and dsrl[2].seeds == "1" and table.seeds == "2"
    assert lead(study, table).startswith("LPS has the highest mean success over 2 groups: ")


def test_equals_share_the_first_place(tmp_path):
    for agent, seed in itertools.product(("lps", "dsrl", "flow_bc"), range(2)):
        put(tmp_path, agent, seed=seed, curve=(0.1 if agent == "flow_bc" else 0.5,) * 4)
    study = studied(tmp_path)
    text = lead(study, headline(study, TABLES["success"](study)))
    assert text == "DSRL and LPS share the highest mean success on cube-single: 50.0 % [50.0, 50.0]."


def test_every_note_stands_once(written, results):
    study = studied(results)
    text = Page(written).text
    with style.styled():
        notes = {note for plot in all_plots(study).values() for note in plot.notes}
    notes |= {note for name, table in all_tables(study).items() if table.rows for note in table.notes}
    assert len(notes) > 5 and {note: text.count(note) for note in notes} == dict.fromkeys(notes, 1)


def test_colours_are_seen_on_dark_paper():
    """A dark colour is lightened, and no more than it needs; the others stay."""
    for colour in [agent.colour for agent in AGENTS.values()] + SPARE_COLOURS:
        found = style.on_dark(colour)
        contrast = (style._luminance(found) + 0.05) / (style._luminance(style.DARK[style.PAPER]) + 0.05)
        assert contrast >= style.CONTRAST and (found == colour.lower() or contrast < style.CONTRAST + 0.3)


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
    again = set()
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
        again |= {Run.create(seed=seed, **rest, **settings, options=suite).id for seed in seeds}
    assert again == {run.id for run in runs}


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
    found = claims(study)
    assert found and all(claim.sentence in text for claim in found)
    for row in TABLES["published"](study).rows:
        assert all(cell in text for cell in row)
    for _, title, value, published, *_ in TABLES["success"](study).rows:
        assert all(part in text for part in (title, *value.split(" ", 1), *published.split(" ", 1)))


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
        interval = f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" if row["low"] == row["low"] else ""  # one seed
        cells = [title, f"{100 * row['mean']:.0f} %{interval}", f"{ends} %"]
        if interval and (ahead := lead.get(row["series"])):
            cells.append(f"{100 * ahead.mean:+.0f} [{100 * ahead.low:+.0f}, {100 * ahead.high:+.0f}]")
        assert f"| {' | '.join(cells)} |" in text
