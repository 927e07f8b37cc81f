"""Makes fixture.json: what rliable says about fixed random scores, for tests/test_analysis_stats.py.

    python -m venv rliable && rliable/bin/pip install rliable==1.2.0 "pandas<3"    # arch 7.2 does not know pandas 3.1
    rliable/bin/python tests/rliable/make.py

rliable (Agarwal et al., arXiv 2108.13264) brings arch and seaborn along, which nothing else here needs: so its numbers
are kept, and it is installed only to make them: seven minutes of one core.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import library, metrics

LEVELS = (0.94, 0.96)  # on both sides of the 95 % that the test asks for
PROFILE_LEVELS = (0.91, 0.99)  # wider: ours has 2,000 resamples
RESAMPLES, PAIR_RESAMPLES = 50_000, 10_000  # a pair is a Mann-Whitney test per task and resample
THRESHOLDS = [0.0, 0.2, 0.5, 0.75, 0.9, 1.0]
AGGREGATES = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "iqm": metrics.aggregate_iqm,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def studies(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Scores (seeds, tasks) of agents in two studies: an odd and an even number of tasks, unequal seeds of agents."""

    def evaluated(rates: np.ndarray, seeds: int) -> np.ndarray:
        return rng.binomial(50, rates, (seeds, len(rates))) / 50  # 50 episodes a run: with ties

    flipped = rng.integers(2, size=(6, 5)).astype(float)
    flipped[:, 0], flipped[:, 1] = 0, 1  # two tasks where all seeds agree
    return {
        "five tasks": {
            "middling": evaluated(np.linspace(0.2, 0.9, 5), 8),
            "similar": evaluated(np.linspace(0.3, 0.8, 5), 3),
            "all or nothing": flipped,
        },
        "four tasks": {
            "smooth": rng.random((10, 4)),
            "beyond the optimum": rng.normal(0.9, 0.3, (7, 4)),
        },
    }


def intervals(scores: np.ndarray | list[np.ndarray], func, resamples: int) -> dict[str, list[float]]:
    """level: [low, high]; the same resamples at every level."""
    found = {}
    for level in LEVELS:
        np.random.seed(0)  # rliable draws from numpy's global state
        _, ends = library.get_interval_estimates(
            {"": scores},
            lambda *x: np.array([func(*x)]),
            reps=resamples,
            confidence_interval_size=level,
        )
        found[str(level)] = np.ravel(ends[""]).tolist()
    return found


def profile(scores: np.ndarray) -> dict[str, object]:
    found = {}
    for level in PROFILE_LEVELS:
        np.random.seed(0)
        shares, ends = library.create_performance_profile(
            {"": scores}, THRESHOLDS, reps=RESAMPLES, confidence_interval_size=level
        )
        found[str(level)] = ends[""].tolist()
    return {"share": shares[""].tolist(), "intervals": found}


def main() -> None:
    document = {
        "made with": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "thresholds": THRESHOLDS,
        "studies": {},
    }
    for name, agents in studies(np.random.default_rng(2108)).items():
        document["studies"][name] = {
            "scores": {agent: scores.tolist() for agent, scores in agents.items()},
            "aggregates": {
                agent: {
                    label: {"value": float(func(scores)), "intervals": intervals(scores, func, RESAMPLES)}
                    for label, func in AGGREGATES.items()
                }
                for agent, scores in agents.items()
            },
            "profiles": {agent: profile(scores) for agent, scores in agents.items()},
            "improvements": [
                {
                    "ours": ours,
                    "theirs": theirs,
                    "value": float(metrics.probability_of_improvement(agents[ours], agents[theirs])),
                    "intervals": intervals(
                        [agents[ours], agents[theirs]], metrics.probability_of_improvement, PAIR_RESAMPLES
                    ),
                }
                for i, ours in enumerate(agents)
                for theirs in list(agents)[i + 1 :]
            ],
        }
    Path(__file__).with_name("fixture.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
