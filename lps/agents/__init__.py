"""The agents, by the name used on every command line.  Adding one is a file here and a line below."""

from lps.agents.base import Agent
from lps.agents.dsrl import DSRL
from lps.agents.flow_bc import FlowBC
from lps.agents.lps import LPS
from lps.agents.meanflow_bc import MeanFlowBC

AGENTS: dict[str, type[Agent]] = {
    "lps": LPS,
    "dsrl": DSRL,
    "meanflow_bc": MeanFlowBC,
    "flow_bc": FlowBC,
}
