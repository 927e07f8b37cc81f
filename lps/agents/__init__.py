"""The agents, by the name used on every command line.  A new agent is a file here and a line below."""

from lps.registry import Registry

AGENTS = Registry(
    "lps.agents",
    {
        "lps": "lps.agents.lps:LPS",
        "fm_lps": "lps.agents.fm_lps:FMLPS",
        "dsrl": "lps.agents.dsrl:DSRL",
        "dsrl_sac": "lps.agents.dsrl_sac:DSRLSAC",
        "qcfql": "lps.agents.qcfql:QCFQL",
        "qcmfql": "lps.agents.qcmfql:QCMFQL",
        "best_of_n": "lps.agents.best_of_n:BestOfN",
        "meanflow_best_of_n": "lps.agents.meanflow_best_of_n:MeanFlowBestOfN",
        "quantile_lps": "lps.agents.quantile_lps:QuantileLPS",
        "cfgrl": "lps.agents.cfgrl:CFGRL",
        "meanflow_bc": "lps.agents.meanflow_bc:MeanFlowBC",
        "flow_bc": "lps.agents.flow_bc:FlowBC",
    },
)
