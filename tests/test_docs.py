"""Pages that show code are executed."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from small import make_agent, member_params, run_updates

from lps.agents import AGENTS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def mean_bc(monkeypatch):
    """The agent of docs/adding-an-agent.md: its file as a module, its line in the table."""
    page, line = re.findall(r"```python\n(.*?)```", (DOCS / "adding-an-agent.md").read_text(), re.DOTALL)
    module = types.ModuleType("lps.agents.mean_bc")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(page, "docs/adding-an-agent.md", "exec"), module.__dict__)
    table = eval("{" + line.strip() + "}")
    for name, path in table.items():
        monkeypatch.setitem(AGENTS.table, name, path)
    return next(iter(table))


def test_the_agent_of_the_page_trains_alone_as_packed(mean_bc):
    packed, alone = make_agent(mean_bc, [0, 1]), make_agent(mean_bc, [1])
    start = member_params(alone, 0)
    run_updates(packed, [0, 1], 1, 50)
    run_updates(alone, [1], 1, 50)
    ours, theirs = member_params(alone, 0), member_params(packed, 1)
    assert all(not torch.equal(ours[k], start[k]) for k in ours)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)
