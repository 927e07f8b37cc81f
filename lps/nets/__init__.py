"""The kinds of network and of image encoder, by the values of the hyperparameters `network` and `encoder`.

A new kind is a file here and a line below.  Other packages add theirs through the entry points `lps.networks` and
`lps.encoders`, or by import path.
"""

from lps.registry import Registry

NETWORKS = Registry(
    "lps.networks",
    {
        "mlp": "lps.nets.mlp:mlp",
        "dit_nano": "lps.nets.dit:nano",
        "dit_tiny": "lps.nets.dit:tiny",
        "dit_small": "lps.nets.dit:small",
        "dit_base": "lps.nets.dit:base",
        "dit_large": "lps.nets.dit:large",
        "dit_xl": "lps.nets.dit:xl",
    },
)
ENCODERS = Registry(
    "lps.encoders",
    {
        "impala_small": "lps.nets.impala:small",
        "impala": "lps.nets.impala:impala",
        "impala_large": "lps.nets.impala:large",
        "flat": "lps.nets.encoder:Flat",
    },
)
