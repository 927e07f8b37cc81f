// What the page does beyond reading: charts in place of pictures, legends that switch series, the current chapter.
// vl-convert-python bundles this file with Vega; `ast` is Vega's interpreter, which needs no `eval`.
const specs = JSON.parse(document.getElementById("specs").textContent);
const places = [...document.querySelectorAll(".chart")];
const buttons = [...document.querySelectorAll(".legend button")];
const hidden = new Set();
const views = [];
const text = { labelColor: "var(--muted)", titleColor: "var(--muted)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
const config = {
  background: "transparent",
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: { ...text, domainColor: "var(--line)", gridColor: "var(--line)", ticks: false, labelPadding: 6, titlePadding: 8, labelLimit: 170 },
  axisX: { grid: false },
  axisYBand: { labelColor: "var(--ink)", domain: false, grid: false },
  axisYPoint: { labelColor: "var(--ink)" },
  legend: text,
};
const options = { mode: "vega-lite", ast: true, actions: false, renderer: "svg", config, tooltip: { disableDefaultStyle: true } };

document.documentElement.classList.add("live");

for (const button of buttons) {
  button.addEventListener("click", async () => {
    const series = button.dataset.series;
    if (!hidden.delete(series)) hidden.add(series);
    for (const other of buttons) other.setAttribute("aria-pressed", String(!hidden.has(other.dataset.series)));
    await Promise.all(views.map((view) => view.signal("hidden", [...hidden]).runAsync()));
  });
}

// A closed chapter would be missing on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const parts = [...links.keys()].map((id) => document.getElementById(id));
function mark() {
  const current = parts.filter((part) => part.getBoundingClientRect().top < innerHeight / 3).pop() ?? parts[0];
  for (const [id, link] of links) link.toggleAttribute("aria-current", id === current.id);
}
addEventListener("scroll", mark, { passive: true });
mark();

(async () => {
  for (const place of places) {
    try {
      const { view } = await vegaEmbed(place, specs[place.id], options);
      if (!specs[place.id].params?.some((one) => one.name === "hidden")) continue;
      views.push(view);
      if (hidden.size) await view.signal("hidden", [...hidden]).runAsync();
    } catch (error) {
      console.error(place.id, error);
      place.closest("figure").classList.add("still"); // its picture is shown instead
    }
  }
  document.documentElement.classList.add("drawn");
})();
