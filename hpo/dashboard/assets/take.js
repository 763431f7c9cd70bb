// Downloads of a figure: SVG, PNG, PDF and its numbers as CSV, under a name that says what it is.
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-take]");
  const graph = button?.closest("figure").querySelector(".js-plotly-plot");
  if (!graph) return;
  const kind = button.dataset.take;
  const content = kind === "csv" ? blobOf(csvOf(graph), "text/csv") : await pictureOf(graph, kind);
  const link = Object.assign(document.createElement("a"), { href: content, download: `${nameOf(button)}.${kind}` });
  link.click();
  if (content.startsWith("blob:")) URL.revokeObjectURL(content);
});

const blobOf = (content, type) => URL.createObjectURL(new Blob([content], { type }));

function nameOf(button) {
  const own = button.closest(".multiples") && button.closest("figure").getAttribute("aria-label");
  const card = own || button.closest(".card")?.querySelector("h2")?.textContent;
  const words = `${document.querySelector("h1")?.textContent ?? "runs"} ${card ?? ""}`;
  return words.toLowerCase().replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^-|-$/g, "");
}

// On the background of the page, which the text was coloured for.
async function pictureOf(graph, kind) {
  const back = getComputedStyle(document.documentElement).getPropertyValue("--card").trim();
  const { width, height } = graph._fullLayout;
  const figure = { data: graph.data, layout: { ...graph.layout, paper_bgcolor: back } };
  const scale = kind === "svg" ? 1 : 4;
  const url = await window.Plotly.toImage(figure, { format: kind === "pdf" ? "jpeg" : kind, width, height, scale });
  return kind === "pdf" ? blobOf(pdfOf(atob(url.split(",")[1]), width, height, scale), "application/pdf") : url;
}

// One page that holds one JPEG; four pixels for each of the screen's.
function pdfOf(jpeg, width, height, scale) {
  const [wide, high] = [0.75 * width, 0.75 * height];
  const draw = `q ${wide} 0 0 ${high} 0 0 cm /I Do Q`;
  const image = `/Width ${width * scale}/Height ${height * scale}/ColorSpace/DeviceRGB/BitsPerComponent 8/Filter/DCTDecode`;
  const objects = [
    "<</Type/Catalog/Pages 2 0 R>>",
    "<</Type/Pages/Kids[3 0 R]/Count 1>>",
    `<</Type/Page/Parent 2 0 R/MediaBox[0 0 ${wide} ${high}]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>`,
    `<</Length ${draw.length}>>stream\n${draw}\nendstream`,
    `<</Type/XObject/Subtype/Image${image}/Length ${jpeg.length}>>stream\n${jpeg}\nendstream`,
  ];
  let text = "%PDF-1.4\n";
  const places = objects.map((each, index) => {
    const place = text.length;
    text += `${index + 1} 0 obj\n${each}\nendobj\n`;
    return `${String(place).padStart(10, "0")} 00000 n \n`;
  });
  const table = text.length;
  text += `xref\n0 6\n0000000000 65535 f \n${places.join("")}trailer<</Size 6/Root 1 0 R>>\nstartxref\n${table}\n%%EOF\n`;
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

// A line for each point of each curve, or for each field of a map.
function csvOf(graph) {
  const title = (side) => graph._fullLayout[`${side}axis`]?.title?.text?.replace(/<[^>]*>/g, "") || side;
  const lines = [["curve", "run", title("x"), title("y"), "value"]];
  graph._fullData.forEach((trace) => {
    const run = (index) => trace.meta ?? (trace.type === "heatmap" ? "" : trace.customdata?.[index] ?? "");
    const name = (trace.name ?? "").replace(/<[^>]*>/g, "");
    if (trace.z) {
      trace.z.forEach((row, j) => row.forEach((value, i) => lines.push([name, "", trace.x?.[i], trace.y?.[j], value])));
    } else {
      Array.from(trace.x ?? []).forEach((x, index) => lines.push([name, run(index), x, trace.y[index], ""]));
    }
  });
  const kept = lines.filter((line, index) => !index || (line[2] ?? null) !== null);
  const told = (value) => (Number.isNaN(value) ? "" : `"${String(value ?? "").replaceAll('"', '""')}"`);
  return kept.map((line) => line.map((each) => (typeof each === "number" && isFinite(each) ? each : told(each))).join(",")).join("\n") + "\n";
}
