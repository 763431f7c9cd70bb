// Cells of the table. Text stays text: React escapes what it is given.
const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
const functions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});

cells.RunLink = function (props) {
  const address = "/runs/run/" + String(props.value).split("/").map(encodeURIComponent).join("/");
  return React.createElement("a", { href: address }, String(props.value));
};

cells.RunState = function (props) {
  const state = String(props.value ?? "");
  return React.createElement("span", { className: "state " + state }, state.replace("_", " "));
};

cells.RunSpark = function (props) {
  if (!props.value) return null;
  const key = String(props.data.run).split("/").map(encodeURIComponent).join("/");
  return React.createElement("img", { src: `/runs/spark/${key}.svg?${props.value}`, alt: "validation NLL along the epochs", width: 96, height: 24 });
};

// Five digits, as everywhere: hpo runs shows the same.
functions.digits = function (value) {
  if (typeof value !== "number") return value === null || value === undefined ? "" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  const rounded = Number(value.toPrecision(5));
  return size !== 0 && (size < 1e-4 || size >= 1e6) ? rounded.toExponential() : String(rounded);
};

functions.nats = function (value) {
  return typeof value === "number" && Math.abs(value) < 1e6 ? value.toFixed(4) : functions.digits(value);
};

functions.missingLast = function (a, b, _rowA, _rowB, descending) {
  const absent = (value) => value === null || value === undefined;
  if (absent(a) || absent(b)) {
    const order = absent(a) - absent(b);
    return descending ? -order : order;
  }
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
};

functions.runsTheme = function (themeQuartz) {
  return themeQuartz.withParams({
    backgroundColor: "var(--card)",
    foregroundColor: "var(--ink)",
    headerBackgroundColor: "var(--back)",
    borderColor: "var(--line)",
    accentColor: "var(--accent)",
    browserColorScheme: "inherit",
    fontSize: 13,
    wrapperBorderRadius: 6,
    spacing: 6,
  });
};
