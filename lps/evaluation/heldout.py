"""Held-out checks: how a policy and its critics fit recorded episodes that training has not seen.

They are for robots without an environment.  They do not measure success: a policy may imitate well and fail, or leave
the recorded actions and do better.

| metric | value |
| --- | --- |
| heldout/action_error | mean absolute difference of the policy's and the recorded chunk, actions in [-1, 1] |
| heldout/first_action_error | the same of the first action of a chunk |
| heldout/q_recorded, heldout/q_policy | mean of Q for the recorded chunk, and for the policy's |
| heldout/q_disagreement | mean standard deviation of Q over the critics, for the policy's chunk |
| heldout/return | mean discounted return to go G of the recorded episodes |
| heldout/q_minus_return | mean of Q - G for the recorded chunk |
| heldout/q_return_correlation | correlation of Q and G for the recorded chunk |
| heldout/calibration_q_k, heldout/calibration_return_k | means of Q and G in fifth k of the states, ordered by Q |

G needs the end of the task: those metrics are over the episodes with a mask of 0, and are absent where there are none.
Metrics of Q are absent for agents without a critic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lps.agents.base import Agent, values
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.members.streams import Stream
from lps.runs.scores import HELD_OUT

MOST = 2048
"""Most chunks, spread evenly over all of the held-out episodes."""
TOGETHER = 64
"""Chunks of a batch."""
FIFTHS = 5
"""Groups of the calibration."""


class HeldOut:
    """Checks the members of a pack on held-out episodes.

    Args:
        dataset: the held-out episodes.
        batches: the same for the members of the pack.
        discounts: discount per environment step of each member.
    """

    def __init__(self, dataset: Dataset, batches: Batches, discounts: Sequence[float]):
        self.batches = batches
        picked = np.linspace(0, len(batches.starts) - 1, min(len(batches.starts), MOST)).astype(int)
        starts = batches.starts[torch.from_numpy(picked).to(batches.device)]
        self.starts = starts.expand(len(discounts), -1)
        rows = batches.task.flatten().tolist()
        returns = [returns_to_go(dataset, row, discount) for row, discount in zip(rows, discounts, strict=True)]
        self.returns = torch.from_numpy(np.stack(returns)).to(batches.device).gather(1, self.starts)
        self.seeds = torch.tensor(batches.seeds, dtype=torch.int64, device=batches.device)

    @torch.no_grad()
    def __call__(self, agent: Agent) -> dict[str, Tensor]:
        """Return the metrics by name, (M,) each; NaN where one is not defined."""
        errors, recorded, policy = [], [], []
        noise = None
        if agent.noise_dim:  # the same at every step, so that steps compare
            noise = Stream(self.seeds, 0, "heldout").normal(self.starts.shape[1], agent.noise_dim)
        for first in range(0, self.starts.shape[1], TOGETHER):
            part = slice(first, first + TOGETHER)
            batch = self.batches.at(self.starts[:, part])
            actions = agent.act(batch.observations, None if noise is None else noise[:, part]).clamp(-1, 1)
            errors.append((actions - batch.actions).abs())
            if "critic" in agent.nets:
                recorded.append(values(agent.critic, batch.observations, batch.actions))
                policy.append(values(agent.critic, batch.observations, actions))
        error = torch.cat(errors, 1)
        found = {
            "action_error": error.mean((1, 2)),
            "first_action_error": error[..., : agent.action_dim].mean((1, 2)),
        }
        if recorded:
            q, of_policy = torch.cat(recorded, -1), torch.cat(policy, -1)
            found |= {
                "q_recorded": q.mean((1, 2)),
                "q_policy": of_policy.mean((1, 2)),
                "q_disagreement": of_policy.std(1, correction=0).mean(-1),
            }
            found |= calibration(q.mean(1), self.returns)
        return {f"{HELD_OUT}{name}": value for name, value in found.items()}


def calibration(q: Tensor, returns: Tensor) -> dict[str, Tensor]:
    """Return how values q (M, n) fit returns to go (M, n), NaN where unknown; (M,) each.  {} if all are unknown."""
    known = ~returns[0].isnan()
    if not known.any():
        return {}
    q, returns = q[:, known].double(), returns[:, known].double()
    a, b = q - q.mean(1, keepdim=True), returns - returns.mean(1, keepdim=True)
    found = {
        "return": returns.mean(1),
        "q_minus_return": (q - returns).mean(1),
        "q_return_correlation": (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt(),
    }
    order = q.argsort(1)
    for number, part in enumerate(order.tensor_split(FIFTHS, 1), 1):
        found[f"calibration_q_{number}"] = q.gather(1, part).mean(1)
        found[f"calibration_return_{number}"] = returns.gather(1, part).mean(1)
    return found


def returns_to_go(dataset: Dataset, task: int, discount: float) -> np.ndarray:
    """Return the discounted return from each row on, (N,) float32: G_t = r_t + discount m_t G_{t+1}.  NaN in episodes
    that are cut off before the task ends."""
    rewards, masks = dataset.rewards[task].astype(np.float64), dataset.masks[task].astype(np.float64)
    found = np.full(len(rewards), np.nan)
    ahead = np.nan
    for row in range(len(rewards) - 1, -1, -1):
        if dataset.terminals[row]:
            ahead = np.nan  # no transition starts in the last row
        else:
            found[row] = ahead = rewards[row] + (discount * masks[row] * ahead if masks[row] else 0.0)
    return found.astype(np.float32)
