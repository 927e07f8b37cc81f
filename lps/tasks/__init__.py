"""The suites of tasks.  A new suite is a module and a line below; other packages offer theirs through the entry point
`lps.suites`, or by their import path (`--suite my_package.my_suite`)."""

from lps.registry import Registry

SUITES = Registry("lps.suites", {name: f"lps.tasks.{name}" for name in ("ogbench", "ring", "robot")}, modules=True)
