"""Trajectories of policies in a maze, and their critics' values over its floor, as the data of a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from lps.agents import AGENTS
from lps.agents.base import values
from lps.errors import UserError
from lps.evaluation.rollout import ChunkPolicy, evaluate, noise_stream
from lps.files import local_path, replacing
from lps.runs.checkpoint import Checkpoint
from lps.runs.record import Episode
from lps.tasks.suites import get_suite
from lps.tasks.task import Maze, Task

PER_CELL = 8
"""Values of a critic along each side of a maze's cell."""


def write_trajectories(
    policies: Sequence[tuple[ChunkPolicy, Checkpoint]],
    path: str | os.PathLike[str],
    *,
    episodes: int = 10,
    progress: Callable[[Episode], None] | None = None,
) -> list[list[Episode]]:
    """Run `episodes` episodes of every policy, given with its checkpoint, write the npz file `path`, and return the
    episodes.

    The seeds of a run's episodes are those of its evaluations after its last update.  The file is for
    `python -m analysis maze`; P policies, E episodes of at most T steps:

        task (), agents (P,), colours (P,)   titles of the task and the agents, and the agents' colours
        seeds (P,), steps (P,)               of the runs
        walls, cell, origin, goal, goal_radius   the maze (lps.tasks.task.Maze)
        positions (P, E, T + 1, 2) float32   x and y, NaN after the end of an episode
        success (P, E) bool
        values (P, rows, columns) float32    state values on a grid with `per_cell` points along each side of a cell;
                                             NaN for an agent without a critic, or if the position is not the state

    `progress` is called after each episode.  UserError: checkpoints of several tasks, a task that is not in a maze, or
    a file that cannot be written.
    """
    path, checkpoints = local_path(path), [checkpoint for _, checkpoint in policies]
    task = checkpoints[0].run.resolved_task
    if others := {c.run.task for c in checkpoints if c.run.resolved_task != task}:
        raise UserError(f"checkpoints of several tasks: {', '.join(sorted({task.name, *others}))}. Choose one task")
    maze = _maze(task)
    played = [_play(policy, checkpoint, task, episodes, progress) for policy, checkpoint in policies]
    agents = [AGENTS[checkpoint.run.agent] for checkpoint in checkpoints]
    content: dict[str, Any] = {
        "task": task.title,
        "agents": [agent.title for agent in agents],
        "colours": [agent.colour for agent in agents],
        "seeds": [checkpoint.run.seed for checkpoint in checkpoints],
        "steps": [checkpoint.step for checkpoint in checkpoints],
        **maze._asdict(),
        "positions": np.stack([positions for positions, _ in played]),
        "success": [[episode.success for episode in rows] for _, rows in played],
        "per_cell": PER_CELL,
        "values": np.stack([_values(checkpoint, maze) for checkpoint in checkpoints]),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, **content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another file") from error
    return [rows for _, rows in played]


def _maze(task: Task) -> Maze:
    suite: Any = get_suite(task.suite)
    maze = suite.maze(task) if hasattr(suite, "maze") else None
    if maze is None:
        raise UserError(f"{task.title} is not in a maze. Choose a task in a maze, or film the policy with lps video")
    return maze


def _play(
    policy: ChunkPolicy,
    checkpoint: Checkpoint,
    task: Task,
    episodes: int,
    progress: Callable[[Episode], None] | None,
) -> tuple[np.ndarray, list[Episode]]:
    """Positions (E, T + 1, 2) and results of the episodes of one policy."""
    positions = np.full((episodes, task.max_episode_steps + 1, 2), np.nan, np.float32)
    length = [0] * episodes

    suite: Any = get_suite(task.suite)

    def note(episode: int, observation: Mapping[str, np.ndarray], env: gymnasium.Env) -> None:
        state = observation.get("state")
        positions[episode, length[episode]] = (suite.position(env) if state is None else state)[:2]
        length[episode] += 1

    rows = evaluate(
        policy,
        task,
        seed=checkpoint.run.seed,
        step=checkpoint.step,
        episodes=episodes,
        progress=progress,
        observations=note,
    )
    return positions, rows


def _values(checkpoint: Checkpoint, maze: Maze) -> np.ndarray:
    """mean_k Q_k(s, pi(s)) on the grid, (rows, columns) float32."""
    rows, columns = (PER_CELL * cells for cells in maze.walls.shape)
    state = checkpoint.observation.get("state")
    if "critic" not in checkpoint.params or state is None or state.shape != (2,):
        return np.full((rows, columns), np.nan, np.float32)
    params = {net: {name: value[None] for name, value in tensors.items()} for net, tensors in checkpoint.params.items()}
    run = checkpoint.run
    agent = AGENTS[run.agent].for_acting(run.config, checkpoint.observation, checkpoint.scale.offset.size, params)
    x, y = (
        (np.arange(count) + 0.5) * (maze.cell / PER_CELL) - maze.cell / 2 + start
        for count, start in zip((columns, rows), maze.origin, strict=True)
    )
    grid = np.stack(np.meshgrid(x, y), -1).astype(np.float32)
    noise = noise_stream(run.seed, checkpoint.step, 0).standard_normal((1, rows * columns, agent.noise_dim), np.float32)
    with torch.no_grad():
        s = {"state": torch.from_numpy(grid).view(1, -1, 2)}
        actions = agent.act(s, torch.from_numpy(noise) if agent.noise_dim else None)
        return values(agent.critic, s, actions).mean(1).view(rows, columns).numpy()
