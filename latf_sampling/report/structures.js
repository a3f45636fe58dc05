// Draws the structures of a report with 3Dmol.js, and links them with the map of free energies.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("structures-data").textContent);
  const box = document.getElementById("structures");
  const svg = document.querySelector("figure.map svg");
  const bytes = Uint8Array.from(atob(data.coordinates), (letter) => letter.charCodeAt(0));
  const table = new DataView(bytes.buffer);
  const lines = data.pdb.split("\n");
  const options = { keepH: true, assignBonds: !data.bonds };
  const elements = { C: "#66727e", H: "#b9c2cb", N: "#3a86c8", O: "#d1495b", S: "#c9a227", P: "#e07b39", F: "#2e9e6b", Cl: "#2e9e6b" };
  const now = { set: 0, place: -1, frame: 0 };
  let viewer = null, turning = null, overlay = false;

  // The text of a PDB file with the positions of a frame, in angstrom.
  function text(frame) {
    const coordinate = (atom, axis) =>
      (10 * data.step * table.getInt16(2 * (3 * (frame * data.atoms + atom) + axis), true)).toFixed(3).padStart(8);
    return lines
      .map((line, atom) => atom < data.atoms
        ? line.slice(0, 30) + coordinate(atom, 0) + coordinate(atom, 1) + coordinate(atom, 2) + line.slice(54)
        : line)
      .join("\n");
  }

  const color = (frame) => data.colors[data.states === null ? 0 : (data.states[frame] + 1) % data.colors.length];

  function add(frame, faint) {
    const model = viewer.addModel(text(frame), "pdb", options), shade = color(frame);
    const byElement = (atom) => elements[atom.elem] || "#b85fa8";
    const stick = { radius: faint ? 0.05 : 0.14, colorfunc: faint ? () => shade : byElement };
    const beads = data.atoms < 400 && !faint ? { sphere: { radius: 0.3, colorfunc: byElement } } : {};
    const cartoon = { style: data.style === "trace" ? "trace" : "rectangle", color: shade, opacity: faint ? 0.4 : 1 };
    if (cartoon.style === "trace") cartoon.thickness = 0.6;
    model.setStyle({ hetflag: true }, { stick, ...beads });
    model.setStyle({ hetflag: false }, { cartoon, ...(data.sideChains && !faint ? { stick: { ...stick, radius: 0.08 } } : {}) });
    if (data.style === "trace") model.setStyle({ hetflag: true }, { sphere: { radius: 1.5, color: shade } });
  }

  function draw() {
    const set = data.sets[now.set];
    if (viewer !== null) {
      const first = viewer.getModel() === null || viewer.getModel() === undefined;
      viewer.removeAllModels();
      if (overlay) set.frames.filter((frame) => frame !== now.frame).forEach((frame) => add(frame, true));
      add(now.frame, false);
      if (first) {
        viewer.zoomTo();
        viewer.zoom(1.2);
      }
      viewer.render();
    }
    box.dataset.frame = now.frame;
    const state = data.states === null ? "" : `, state ${data.states[now.frame]}`;
    caption.textContent = data.labels[now.frame] + (data.archived[now.frame] ? state : state && ` (in${state.slice(1)})`);
    const member = now.place >= 0;
    slider.max = set.frames.length - 1;
    slider.value = member ? now.place : 0;
    steps.hidden = set.frames.length < 2;
    count.textContent = member ? `${now.place + 1} of ${set.frames.length}` : "from the map";
    chips.forEach((chip, index) => chip.setAttribute("aria-pressed", String(member && index === now.set)));
    mark();
  }

  function choose(set, place) {
    const other = set !== now.set || now.place < 0;
    now.set = set;
    now.place = place;
    now.frame = data.sets[set].frames[place];
    if (other) {
      pause();
      overlay = data.sets[set].kind === "state" && data.sets[set].frames.length > 1;
      all.checked = overlay;
    }
    draw();
  }

  // A frame of the map, which may belong to no set.
  function chooseFrame(frame) {
    pause();
    now.frame = frame;
    now.place = -1;
    overlay = all.checked = false;
    draw();
  }

  function pause() {
    clearInterval(turning);
    turning = null;
    play.textContent = "Play";
  }

  // Controls

  function element(name, parent, attributes = {}, content = "") {
    const made = document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.textContent = content;
    parent.append(made);
    return made;
  }

  box.textContent = "";
  const row = element("div", box, { class: "chips" });
  const chips = data.sets.map((set, index) => {
    const chip = element("button", row, { type: "button", "aria-pressed": "false" });
    if (set.state !== null) element("i", chip).style.background = data.colors[(set.state + 1) % data.colors.length];
    chip.append(set.name[0].toUpperCase() + set.name.slice(1));
    chip.addEventListener("click", () => choose(index, 0));
    return chip;
  });
  const canvas = element("div", box, { class: "canvas", role: "img", "aria-label": "Structure in three dimensions" });
  const steps = element("div", box, { class: "steps" });
  const play = element("button", steps, { type: "button" }, "Play");
  const slider = element("input", steps, { type: "range", min: 0, value: 0, "aria-label": "Structure of the set" });
  const count = element("span", steps, { class: "count" });
  const label = element("label", steps);
  const all = element("input", label, { type: "checkbox" });
  label.append(" overlay all");
  const below = element("div", box, { class: "below" });
  const caption = element("span", below, { class: "caption", "aria-live": "polite" });
  const save = element("button", below, { type: "button" }, "Save as PDB");
  element("p", box, { class: "soft hint" }, "Drag to turn; pinch, or Ctrl and the wheel, to zoom.");

  slider.addEventListener("input", () => choose(now.set, Number(slider.value)));
  all.addEventListener("change", () => { overlay = all.checked; draw(); });
  play.addEventListener("click", () => {
    if (turning !== null) return pause();
    play.textContent = "Pause";
    turning = setInterval(() => choose(now.set, (now.place + 1) % data.sets[now.set].frames.length), 250);
  });
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text(now.frame)], { type: "chemical/x-pdb" }));
    link.download = `structure-${now.frame}.pdb`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  // The wheel scrolls the page, as everywhere else in it.
  canvas.addEventListener("wheel", (event) => { if (!event.ctrlKey) event.stopPropagation(); }, true);

  // Map

  let ring = null, line = null, members = null;

  function shape(name, attributes, parent) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    parent.append(made);
    return made;
  }

  function mark() {
    if (ring === null) return;
    const [x, y] = data.places[now.frame];
    ring.forEach((circle) => { circle.setAttribute("cx", x); circle.setAttribute("cy", y); });
    const { kind, frames } = now.place >= 0 ? data.sets[now.set] : { kind: "", frames: [] };
    const points = kind === "path" ? frames.map((frame) => data.places[frame].join()).join(" ") : "";
    line.forEach((path) => path.setAttribute("points", points));
    members.replaceChildren();
    frames.forEach((frame) => shape("circle", { cx: data.places[frame][0], cy: data.places[frame][1], r: 2.6 }, members));
  }

  function prepareMap() {
    const layer = shape("g", { class: "places" }, svg);
    data.places.forEach(([x, y], frame) => {
      if (data.archived[frame]) shape("circle", { cx: x, cy: y, r: 1.5, class: "place" }, layer);
    });
    line = ["path under", "path"].map((kind) => shape("polyline", { class: kind, points: "" }, layer));
    members = shape("g", { class: "members" }, layer);
    data.sets.forEach((set, index) => {
      if (set.kind !== "state") return;
      const [x, y] = data.places[set.frames[0]];
      const sign = shape("g", { class: "state", tabindex: 0, role: "button", "aria-label": set.name }, layer);
      shape("circle", { cx: x, cy: y, r: 7, fill: data.colors[(set.state + 1) % data.colors.length] }, sign);
      shape("text", { x, y: y + 3.2 }, sign).textContent = set.state;
      const select = (event) => { event.stopPropagation(); choose(index, 0); };
      sign.addEventListener("click", select);
      sign.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(event); } });
    });
    ring = ["ring under", "ring"].map((kind) => shape("circle", { r: 10, class: kind }, layer));
    svg.addEventListener("click", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let nearest = 0, least = Infinity;
      data.places.forEach(([x, y], frame) => {
        const distance = (x - point.x) ** 2 + (y - point.y) ** 2;
        if (data.archived[frame] && distance < least) [nearest, least] = [frame, distance];
      });
      chooseFrame(nearest);
    });
  }

  // The one context of WebGL; the context that only asks whether there is WebGL is given back.
  function hasWebGL() {
    const trial = document.createElement("canvas");
    const context = trial.getContext("webgl2") ?? trial.getContext("webgl");
    if (context === null) return false;
    context.getExtension("WEBGL_lose_context")?.loseContext();
    return true;
  }

  if (svg !== null && data.places !== null) prepareMap();
  if (hasWebGL()) {
    viewer = $3Dmol.createViewer(canvas, { backgroundAlpha: 0, backgroundColor: "white", disableFog: true });
  } else {
    canvas.textContent = "This browser has no WebGL, which draws structures. “Save as PDB” works without it.";
    canvas.classList.add("none");
  }
  choose(0, 0);
})();
