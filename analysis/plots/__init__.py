"""The figures. Each is one file with one function `draw(study)`, and one line here.

`draw` returns a `Plot`, or None where the results have nothing for it. It is called, and its figure saved, inside
`style.styled()`. `analysis.page.figures.all_plots` calls all of them.
"""

from collections.abc import Callable

from analysis.plots import (
    ablations,
    aggregates,
    budget,
    compute,
    curves,
    data_scaling,
    differences,
    flops,
    importances,
    improvement,
    landscape,
    latents,
    profiles,
    ring,
    sensitivity,
    success,
    tasks,
)
from analysis.plots.style import Plot
from analysis.results.study import Study

PLOTS: dict[str, Callable[[Study], Plot | None]] = {
    "success": success.draw,
    "curves": curves.draw,
    "tasks": tasks.draw,
    "differences": differences.draw,
    "aggregates": aggregates.draw,
    "profiles": profiles.draw,
    "improvement": improvement.draw,
    "ablations": ablations.draw,
    "latents": latents.draw,
    "sensitivity": sensitivity.draw,
    "landscape": landscape.draw,
    "budget": budget.draw,
    "importances": importances.draw,
    "data_scaling": data_scaling.draw,
    "compute": compute.draw,
    "flops": flops.draw,
    "ring": ring.draw,
}
