// What happens in the browser alone: the theme, and the address that follows what is chosen.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  page: {
    theme(clicks, stored) {
      const wished = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const now = stored || wished;
      const theme = clicks ? (now === "dark" ? "light" : "dark") : now;
      document.documentElement.dataset.theme = theme;
      return theme;
    },

    // A new figure with the ranges that a person chose in the one before it. What the ranges were
    // before anybody chose is kept in the figure's own meta.
    keepZoom(fresh, shown) {
      if (!fresh) return window.dash_clientside.no_update;
      const layout = { ...fresh.layout };
      const before = shown?.layout?.meta?.given;
      const given = {};
      Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).forEach((name) => {
        given[name] = layout[name].range ?? null;
        const was = shown?.layout?.[name];
        const zoomed = before && was?.range && was.autorange !== true &&
          JSON.stringify(was.range) !== JSON.stringify(before[name]);
        if (zoomed && was.uirevision === layout[name].uirevision && was.type === layout[name].type) {
          layout[name] = { ...layout[name], range: was.range, autorange: false };
        }
      });
      layout.meta = { ...layout.meta, given };
      return { ...fresh, layout };
    },

    chosen(selected, where, columns, differing, asked) {
      const given = selected || [];
      // As rows once a person chose, as {ids: [...]} when the page set them.
      const keys = Array.isArray(given) ? given.map((row) => row.run) : given.ids || [];
      const query = new URLSearchParams();
      keys.forEach((key) => query.append("run", key));
      const compare = "/runs/compare?" + query.toString().replaceAll("%2F", "/");
      if (where) query.append("where", where);
      if (this.first === undefined) this.first = JSON.stringify(columns);
      if (asked.columns.length || JSON.stringify(columns) !== this.first) {
        (columns || []).forEach((name) => query.append("column", name));
      }
      if ((differing || []).length) query.append("differing", "1");
      const text = query.toString().replaceAll("%2F", "/");
      // Replaced, not pushed: one step back leaves the page.
      window.history.replaceState(window.history.state, "", text ? "?" + text : window.location.pathname);
      const many = keys.length > asked.most;
      const label = !keys.length
        ? "Compare"
        : many ? `Compare the first ${asked.most}` : keys.length === 1 ? "Look at 1 run" : `Compare ${keys.length} runs`;
      return [compare, label, keys.length ? "some" : "none"];
    },

    // The run below the mouse in one picture stands out in all of them, and in the table.
    highlight(hovered, figure) {
      const point = [hovered].flat().find((each) => each?.points)?.points[0];
      light(point ? point.customdata ?? figure?.data[point.curveNumber]?.meta : null);
    },
  },
});

const shownGraphs = () => [...document.querySelectorAll(".js-plotly-plot")];

function light(key) {
  const run = (element, data) => element.classList.toggle("unlit", Boolean(key) && data !== undefined && data !== key);
  shownGraphs().forEach((graph) => graph.querySelectorAll(".scatterlayer .trace").forEach((trace) => {
    const { meta, customdata } = trace.__data__?.[0]?.trace ?? {};
    if (meta) run(trace, meta);
    if (customdata) trace.querySelectorAll(".point").forEach((point) => run(point, point.__data__.data));
  }));
  document.querySelectorAll("[data-run]").forEach((row) => row.classList.toggle("lit", row.dataset.run === key));
}

document.addEventListener("mouseover", (event) => {
  const row = event.target.closest?.("[data-run]");
  if (row) light(row.dataset.run);
});
document.addEventListener("mouseout", (event) => {
  if (event.target.closest?.("[data-run]")) light(null);
});
