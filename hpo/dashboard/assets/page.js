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

    title() {
      requestAnimationFrame(() => {
        const head = document.querySelector("h1")?.textContent;
        document.title = head ? `${head} · hpo` : "hpo";
      });
    },

    once(now, before) {
      return now && !before ? true : window.dash_clientside.no_update;
    },

    // The run below the mouse in one picture stands out in all of them, and in the table.
    highlight(hovered, figure) {
      const point = [hovered].flat().find((each) => each?.points)?.points[0];
      light(point ? point.customdata ?? figure?.data[point.curveNumber]?.meta : null);
    },
  },
});

// The arrow keys go from one simulated value to the next; with Shift the slider moves as others do.
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  const slide = event.target.closest?.("[data-places]");
  if (!step || !slide || event.shiftKey || event.target.getAttribute("role") !== "slider") return;
  const now = Number(event.target.getAttribute("aria-valuenow"));
  const ahead = JSON.parse(slide.dataset.places).filter((place) => step * (place - now) > 2e-3);
  if (!ahead.length) return;
  event.preventDefault();
  event.stopPropagation();
  const value = step > 0 ? Math.min(...ahead) : Math.max(...ahead);
  window.dash_clientside.set_props({ kind: "slide", condition: slide.dataset.condition }, { value });
}, true);

const shownGraphs = () => [...document.querySelectorAll(".js-plotly-plot")];

// What the graphics card draws has no elements.
function dim(graph, key) {
  const curves = graph.data.map((trace, index) => [trace, index]).filter(([trace]) => trace.type === "scattergl" && trace.meta);
  if (!curves.length || graph.lit === key) return;
  graph.lit = key;
  const opacity = curves.map(([trace]) => {
    trace.given ??= trace.opacity ?? 1;
    return key && trace.meta !== key ? 0.12 * trace.given : trace.given;
  });
  window.Plotly.restyle(graph, { opacity }, curves.map(([, index]) => index));
}

function light(key) {
  const run = (element, data) => element.classList.toggle("unlit", Boolean(key) && data !== undefined && data !== key);
  shownGraphs().forEach((graph) => dim(graph, key));
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

// Every name of a filter is completed, not the first alone.
document.addEventListener("input", (event) => {
  if (event.target.id !== "where") return;
  const before = event.target.value.replace(/\w*$/, "");
  document.querySelectorAll("#names option").forEach((each) => (each.value = before + each.dataset.name));
}, true);

// What assistive technology needs and Dash leaves out, whenever something was drawn anew. Dash's
// lists of choices call themselves list boxes with controls inside, which none may have, and
// leave their names out.
function repair() {
  const nameOf = (element) => element.closest(".field")?.querySelector("span")?.textContent;
  document.querySelectorAll(".dash-radioitems, .dash-checklist").forEach((list) => {
    list.setAttribute("role", list.matches(".dash-radioitems") ? "radiogroup" : "group");
    list.setAttribute("aria-label", nameOf(list) ?? "Choice");
    list.querySelectorAll("[role=option]").forEach((each) => ["role", "aria-selected"].forEach((name) => each.removeAttribute(name)));
  });
  document.querySelectorAll("button.dash-dropdown").forEach((each) => {
    each.removeAttribute("aria-labelledby");
    each.setAttribute("aria-label", `${nameOf(each) ?? "Choice"}: ${each.textContent || "none"}`);
  });
  document.querySelectorAll(".field [role=slider]:not([aria-label])").forEach((each) => each.setAttribute("aria-label", nameOf(each)));
  // A slider tells its value with its unit to who cannot see it.
  document.querySelectorAll("[data-places]").forEach((slide) => {
    const thumb = slide.querySelector("[role=slider]");
    thumb?.setAttribute("aria-label", slide.dataset.condition);
    thumb?.setAttribute("aria-valuetext", slide.querySelector(".slider-head b").textContent);
  });
  document.querySelectorAll(".dash-dropdown-focus-target").forEach((each) => each.setAttribute("tabindex", "-1"));
}
new MutationObserver(repair).observe(document.documentElement, { childList: true, characterData: true, subtree: true });
