"""The agents, by the name used on every command line.  Adding one is a file here and a line below."""

from lps.agents.base import Agent
from lps.agents.best_of_n import BestOfN
from lps.agents.cfgrl import CFGRL
from lps.agents.dsrl import DSRL
from lps.agents.flow_bc import FlowBC
from lps.agents.fm_lps import FMLPS
from lps.agents.lps import LPS
from lps.agents.meanflow_bc import MeanFlowBC
from lps.agents.qcfql import QCFQL
from lps.agents.qcmfql import QCMFQL

AGENTS: dict[str, type[Agent]] = {
    "lps": LPS,
    "fm_lps": FMLPS,
    "dsrl": DSRL,
    "qcfql": QCFQL,
    "qcmfql": QCMFQL,
    "best_of_n": BestOfN,
    "cfgrl": CFGRL,
    "meanflow_bc": MeanFlowBC,
    "flow_bc": FlowBC,
}
