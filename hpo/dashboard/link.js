// On optuna-dashboard's pages: the way to our page of what is shown there. It changes its address
// without loading anything, so the link follows each change.
(() => {
  const readOnly = document.currentScript.hasAttribute("data-read-only");
  const link = document.createElement("a");
  link.id = "hpo-runs";
  Object.assign(link.style, {
    position: "fixed",
    right: "16px",
    bottom: "16px",
    zIndex: 2000,
    padding: "8px 16px",
    borderRadius: "20px",
    background: "#0b5394",
    color: "#fff",
    font: "600 14px system-ui, sans-serif",
    textDecoration: "none",
    boxShadow: "0 1px 4px rgba(0, 0, 0, 0.4)",
  });

  const follow = () => {
    const [, study, view] = location.pathname.match(/^\/dashboard\/studies\/(\d+)\/?(\w*)/) || [];
    const trial = new URLSearchParams(location.search).get("numbers");
    const one = view === "trials" && /^\d+$/.test(trial || "");
    const [text, path] = !study
      ? ["Runs", "/runs/"]
      : one
        ? [`Run of trial ${trial}`, `/runs/trial/${study}/${trial}`]
        : ["Runs of this study", `/runs/study/${study}`];
    link.textContent = text;
    link.href = path;
  };

  for (const name of ["pushState", "replaceState"]) {
    const change = history[name];
    history[name] = function (...words) {
      change.apply(this, words);
      follow();
    };
  }
  addEventListener("popstate", follow);
  follow();
  document.body.append(link);

  // What would be refused is not offered.
  const changes = /^(create|rename|delete|edit|save|add|fail trial)\b/i;
  const hide = () => document.querySelectorAll("button, [role=button]").forEach((each) => {
    if (changes.test(each.getAttribute("aria-label") || each.textContent)) each.hidden = true;
  });
  if (readOnly) {
    link.title = "Optuna's pages are read-only: hpo dashboard --allow-edit permits changes";
    const style = document.createElement("style");
    style.textContent = "[hidden] { display: none !important; }";
    document.head.append(style);
    new MutationObserver(hide).observe(document.body, { childList: true, subtree: true });
    hide();
  }
})();
