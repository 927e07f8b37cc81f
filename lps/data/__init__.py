"""The formats of recordings.  A new format is a module (lps.data.recordings) and a line below; other packages offer
theirs through the entry point `lps.formats`."""

from lps.registry import Registry

FORMATS = Registry(
    "lps.formats",
    {name: f"lps.data.{name}" for name in ("lerobot", "robomimic", "droid", "minari", "npz")},
    modules=True,
)
