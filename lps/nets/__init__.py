"""The kinds of network, by the value of the hyperparameter `network`.  A new kind is a file here and a line below;
other packages add theirs through the entry point `lps.networks`, or by import path."""

from lps.registry import Registry

NETWORKS = Registry("lps.networks", {"mlp": "lps.nets.mlp:mlp"})
