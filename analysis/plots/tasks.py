"""Learning curves by task: small multiples, one panel per task."""

from analysis.numbers import summaries
from analysis.plots import style
from analysis.plots.curves import lines
from analysis.results.study import Study

ACROSS = 5  # panels in a row: the tasks of one of OGBench's groups


def draw(study: Study) -> style.Plot | None:
    data = summaries.of_shown(study, summaries.task_curves(study))
    if data.groupby("group")["task"].nunique().max() < 2 or data.empty:
        return None
    figure = lines(study, data, ["group", "task"], 1.25, across=ACROSS)
    caption = (
        f"{study.unit(*set(data['group'])).title} at every evaluation, by task: mean over seeds. Bands: pointwise 95 % "
        "bootstrap intervals over seeds; a series with a single seed has none."
    )
    notes = [*summaries.small_print(study), *summaries.others_note(study)]
    return style.Plot(figure, data, "Learning curves by task", caption, notes)
