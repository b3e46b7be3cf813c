(() => {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  document.getElementById("theme").onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; };

  // Samples: text, run, distribution and grade must all fit.
  const controls = document.getElementById("controls");
  if (controls) {
    const samples = [...document.querySelectorAll("details.sample")];
    const texts = samples.map(sample => sample.textContent.toLowerCase());
    const [text, run, source, grade] = ["text", "run", "source", "grade"].map(name => controls.querySelector(`[name=${name}]`));
    const filter = () => {
      const words = text.value.toLowerCase();
      let shown = 0;
      samples.forEach((sample, i) => {
        const fits = (field, value) => !field || !field.value || field.value === value;
        sample.hidden = !(texts[i].includes(words) && fits(run, sample.dataset.run) && fits(source, sample.dataset.source)
          && (!grade.value || sample.classList.contains(grade.value)));
        shown += !sample.hidden;
      });
      controls.querySelector("output").textContent = `${shown} of ${samples.length}`;
    };
    controls.hidden = false;
    controls.oninput = filter;
    filter();
  }

  // Line charts: the values of all lines at the nearest x, read back from the drawing.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const number = value => Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : +value.toPrecision(4) + "";
  const back = ([low, high, from, to], at) => low + (at - from) / (to - from) * (high - low);
  document.querySelectorAll("svg[data-x]").forEach(svg => {
    const paths = [...svg.querySelectorAll(".line")];
    if (!paths.length) return;
    const [xs, ys] = [svg.dataset.x, svg.dataset.y].map(text => text.split(",").map(Number));
    const lines = paths.map(path => path.getAttribute("d").slice(1).split("L").map(point => point.split(" ").map(Number)));
    const cross = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    cross.setAttribute("class", "cross");
    const leave = () => { tip.hidden = true; cross.setAttribute("d", ""); };
    svg.onmouseleave = leave;
    svg.onmousemove = event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      if (at < xs[2] - 4 || at > xs[3] + 4) return leave();
      const nearest = line => line.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
      const points = lines.map(nearest);
      const x = points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best)[0];
      const rows = points.map((point, i) => [back(ys, point[1]), paths[i], point]).filter(row => Math.abs(row[2][0] - x) < 6);
      rows.sort((a, b) => b[0] - a[0]);
      tip.replaceChildren(`at ${number(back(xs, x))}`, ...rows.slice(0, 16).map(([value, path]) => {
        const row = document.createElement("div"), mark = document.createElement("i");
        mark.style.setProperty("--k", getComputedStyle(path.parentNode).getPropertyValue("--k"));
        row.append(mark, `${path.dataset.label}: ${number(value)}`);
        return row;
      }));
      cross.setAttribute("d", `M${x} ${ys[3]}V${ys[2]}`);
      tip.hidden = false;
      tip.style.left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
    };
  });
})();
