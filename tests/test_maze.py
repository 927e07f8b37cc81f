"""Trajectories in a maze, and their picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_hyperparameters

from analysis import maze
from analysis.__main__ import main as analysis
from lps.__main__ import main
from lps.agents import AGENTS
from lps.agents.base import values
from lps.errors import UserError
from lps.evaluation.rollout import evaluate
from lps.evaluation.trajectories import PER_CELL, write_trajectories
from lps.policy.file import policy_of
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ogbench_env import maze as floor_plan
from lps.tasks.suites import get_task, make_env

MAZE = "pointmaze-medium-navigate-singletask-task3-v0"


def play(checkpoints: list[Checkpoint], path: Path) -> None:
    write_trajectories([(policy_of(one), one) for one in checkpoints], path, episodes=2)


def checkpoint(agent: str, seed: int = 0, task: str = MAZE) -> Checkpoint:
    """An untrained policy."""
    run = Run.create(agent, task, seed, steps=1, **small_hyperparameters(agent))
    made = AGENTS[agent]([run.config], [seed], run.resolved_task.observation, run.resolved_task.action.shape[0])
    return Checkpoint.of(made, 0, run, 1, "")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maze") / "new" / "t.npz"
    play([checkpoint("lps"), checkpoint("lps", 1), checkpoint("flow_bc")], path)
    return path


def test_the_floor_plan_is_that_of_the_environment() -> None:
    plan, env = floor_plan(get_task(MAZE)), make_env(get_task(MAZE))
    assert plan is not None and plan.walls.shape == (8, 8) and plan.walls[0].all()
    start, _ = env.reset(seed=0)
    column, row = np.round((start - plan.origin) / plan.cell).astype(int)
    assert (row, column) == (5, 3) and not plan.walls[row, column]
    core: Any = env.unwrapped
    core.set_xy(np.array(plan.goal) + [plan.goal_radius - 0.05, 0])
    assert env.step(np.zeros(2))[4]["success"]
    assert floor_plan(get_task("cube-single-play-singletask-task1-v0")) is None


def test_trajectories_are_those_of_an_evaluation(written: Path) -> None:
    data = maze.read(written)
    assert list(data["agents"]) == ["LPS", "LPS", "Flow BC"] and list(data["seeds"]) == [0, 1, 0]
    assert data["positions"].shape == (3, 2, 1001, 2)
    rows = evaluate(policy_of(checkpoint("lps", 1)), get_task(MAZE), seed=1, step=1, episodes=2)
    assert np.isfinite(data["positions"][1, ..., 0]).sum(-1).tolist() == [row.length + 1 for row in rows]
    steps = np.diff(data["positions"][1, 0], axis=0)
    assert 0 < np.nanmax(np.abs(steps)) < 1  # a point moves 0.2 in a step, and is pushed out of walls


def test_values_are_those_of_the_critic_at_the_places_of_the_grid(written: Path) -> None:
    data, made = maze.read(written), checkpoint("lps")
    assert data["values"].shape == (3, 8 * PER_CELL, 8 * PER_CELL)
    assert np.isnan(data["values"][2]).all()  # cloning has no critic
    # In the middle between four points of the grid lies the centre of cell (row 5, column 3).
    row, column = 5 * PER_CELL + PER_CELL // 2, 3 * PER_CELL + PER_CELL // 2
    around = data["values"][0, row - 1 : row + 1, column - 1 : column + 1]
    x, y = data["origin"] + data["cell"] * np.array([3, 5])
    shift = data["cell"] / PER_CELL / 2
    run = made.run
    agent = AGENTS["lps"]([run.config], [0], run.resolved_task.observation, 2)
    made.restore(agent, 0)
    with torch.no_grad():
        places = [[x + i * shift, y + j * shift] for j in (-1, 1) for i in (-1, 1)]
        s = {"state": torch.tensor([places], dtype=torch.float32)}
        expected = values(agent.critic, s, agent.act(s)).mean(1).view(2, 2)
    np.testing.assert_allclose(around, expected, rtol=1e-5)


def test_a_picture_and_an_animation(written: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(maze, "FRAMES", 3)
    assert analysis(["maze", str(written), "--out", str(tmp_path / "pictures" / "p")]) == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["p.gif", "p.pdf", "p.png"]
    assert capsys.readouterr().out.count("written:") == 3
    picture, film = Image.open(tmp_path / "pictures" / "p.png"), Image.open(tmp_path / "pictures" / "p.gif")
    assert picture.width > 1000 and len(set(np.asarray(picture.convert("L")).ravel())) > 50
    assert 2 <= getattr(film, "n_frames", 1) <= 4  # pictures that do not differ are one, shown for longer


def test_the_titles_count_the_episodes_that_have_arrived(written: Path) -> None:
    data = dict(maze.read(written))
    data["success"] = np.array([[True, False], [True, True], [False, False]])
    for run, episode, length in ((0, 0, 10), (1, 0, 20), (1, 1, 30)):
        data["positions"][run, episode, length:] = np.nan
    titles = [axes.get_title() for axes in maze.draw(data).axes[:2]]
    assert titles == ["LPS: 3 of 4 at the goal", "Flow BC: 0 of 2 at the goal"]
    figure, update, steps = maze.animate(data)
    assert steps[0] == 0 and steps[-1] == 29 * 2 + 1
    update(20)
    assert figure.axes[0].get_title() == "LPS: 2 of 4 at the goal"


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "t.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read.*lps trajectories"):
        maze.read(file)
    np.savez(tmp_path / "other.npz", walls=np.zeros(3))
    with pytest.raises(UserError, match="it has no agents, positions"):
        maze.read(tmp_path / "other.npz")


def test_only_tasks_in_one_maze(tmp_path: Path) -> None:
    cube = checkpoint("lps", task="cube-single-play-singletask-task1-v0")
    with pytest.raises(UserError, match="cube-single task 1 is not in a maze"):
        play([cube], tmp_path / "t.npz")
    with pytest.raises(UserError, match="several tasks"):
        play([checkpoint("lps"), cube], tmp_path / "t.npz")


def test_a_results_folder_stands_for_its_finished_runs(tmp_path: Path, capsys: Any) -> None:
    store, made = Store(tmp_path / "results"), [checkpoint("lps"), checkpoint("flow_bc"), checkpoint("lps", 1)]
    for one in made:
        store.write_bytes(checkpoint_path(one.run), one.to_bytes())
        store.write_run(store.record(one.run).update(Status.DONE if one is not made[2] else Status.RUNNING))
    out = tmp_path / "t.npz"
    assert main(["trajectories", store.path, str(out), "--episodes", "1"]) == 0
    assert sorted(maze.read(out)["agents"]) == ["Flow BC", "LPS"]
    assert "of 1 episodes succeed" in capsys.readouterr().out
    empty = Store(tmp_path / "empty")
    assert main(["trajectories", empty.path, str(out)]) == 2
    assert "no finished run" in capsys.readouterr().err
