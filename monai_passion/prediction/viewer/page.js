"use strict";
// The viewer of a report page: NiiVue draws, the rest is plain HTML that works without it.
const { report, viewer_affine: affine, measured, images, subsets, uncertainty, focus } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

/** Buttons of which one is pressed; calls choose with its index. */
function choice(group, names, choose) {
  const buttons = names.map((name, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = () => {
      buttons.forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
      choose(i);
    };
    group.append(button, " ");
    return button;
  });
  buttons[0].setAttribute("aria-pressed", "true");
}

/** Voxel indices of the file, from mm of the viewer, in which no grid is oblique. */
function voxelOf(mm) {
  const [a, b, c] = affine.slice(0, 3).map((row) => row.slice(0, 3));
  const d = mm.slice(0, 3).map((value, i) => value - affine[i][3]);
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const columns = [0, 1, 2].map((j) => [a[j], b[j], c[j]]);
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
  const det = dot(columns[0], cross(columns[1], columns[2]));
  return [0, 1, 2].map((j) => dot(d, cross(columns[(j + 1) % 3], columns[(j + 2) % 3])) / det);
}
const placeOf = (affine, voxel) => affine.slice(0, 3).map((row) => row[3] + row.slice(0, 3).reduce((sum, value, j) => sum + value * voxel[j], 0));
const mmOf = (voxel) => placeOf(affine, voxel);

async function start() {
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1], isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: true, crosshairWidth: 0.4,
    measureLineColor: [1, 1, 1, 1], measureTextColor: [1, 1, 1, 1], measureTextJustify: "end", loadingText: "",
  });
  await viewer.attachToCanvas(byId("canvas"));
  const load = (base64, name, options) => niivue.NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, ...options });
  for (const [i, image] of images.entries()) {
    viewer.addVolume(await load(image.base64, image.name, { colormap: "gray", opacity: i ? 0 : 1, cal_min: 0, cal_max: 255 }));
  }
  if (uncertainty) viewer.addVolume(await load(uncertainty, "uncertainty", { colormap: "hot", opacity: 0, cal_min: 0, cal_max: 255 }));
  const first = viewer.volumes.length;
  const hex = (color, at) => parseInt(color.slice(at, at + 2), 16);
  let current = 0;
  viewer.addVolume(await load(subsets[0].base64, "segmentation", { opacity: 0.45 }));
  const segmentation = viewer.volumes[first], voxels = [segmentation.img], borders = [];
  /** Of each label the voxels that have a neighbor outside of it. */
  function border(filled) {
    const [, nx, ny, nz] = segmentation.hdr.dims, found = new filled.constructor(filled.length), steps = [1, nx, nx * ny];
    for (let n = 0; n < filled.length; n++) {
      const place = [n % nx, Math.floor(n / nx) % ny, Math.floor(n / (nx * ny))], value = filled[n];
      const inside = (j) => place[j] > 0 && place[j] < [nx, ny, nz][j] - 1 && filled[n - steps[j]] === value && filled[n + steps[j]] === value;
      if (value && !(inside(0) && inside(1) && inside(2))) found[n] = value;
    }
    return found;
  }
  /** The segmentation from one subset, in the one overlay that there is. */
  async function show(chosen) {
    voxels[chosen] ??= (await load(subsets[chosen].base64, "segmentation", {})).img;
    current = chosen;
    overlay();
    draw();
  }
  /** Colors of the labels that are switched on. */
  function paint() {
    const on = new Set(all("input.label:checked").map((box) => Number(box.value)));
    const values = report.labels.map((row) => row.value), channel = (at) => [0, ...report.labels.map((row) => hex(row.color, at))];
    segmentation.setColormapLabel({
      R: channel(1), G: channel(3), B: channel(5), A: [0, ...values.map((v) => (on.has(v) ? 255 : 0))], I: [0, ...values],
      labels: ["", ...report.labels.map((row) => row.title)],
    });
    viewer.updateGLVolume();
  }
  function overlay() {
    const outline = byId("outline").checked;
    segmentation.img = outline ? (borders[current] ??= border(voxels[current])) : voxels[current];
    segmentation.opacity = byId("overlay").checked ? (outline ? 1 : byId("opacity").value / 100) : 0;
    viewer.updateGLVolume();
  }
  function windowing() {
    const level = Number(byId("level").value), half = byId("window").value / 2;
    images.forEach((_, i) => Object.assign(viewer.volumes[i], { cal_min: level - half, cal_max: level + half }));
    viewer.updateGLVolume();
  }
  /** The diameters as lines on the slices they were measured in. */
  function draw() {
    const lesions = (report.regions.find((row) => row.name === measured) || { lesions: [] }).lesions;
    viewer.document.completedMeasurements = [];
    if (!byId("measures").checked || current) return viewer.drawScene();
    const here = voxelOf(viewer.frac2mm(viewer.scene.crosshairPos));
    for (const lesion of lesions) {
      if (Math.round(here[lesion.axis]) !== lesion.slice) continue;
      const world = affine.slice(0, 3).map((row) => Math.abs(row[lesion.axis])), across = world.indexOf(Math.max(...world));
      for (const [a, b, length] of [[0, 1, lesion.longest_mm], [2, 3, lesion.perpendicular_mm]]) {
        viewer.document.completedMeasurements.push({
          startMM: mmOf(lesion.ends[a]), endMM: mmOf(lesion.ends[b]), distance: length,
          sliceType: [2, 1, 0][across], sliceIndex: 0, slicePosition: viewer.scene.crosshairPos[across],
        });
      }
    }
    viewer.drawScene();
  }
  function go(voxel) {
    viewer.scene.crosshairPos = viewer.mm2frac(mmOf(voxel), 0, true);
    where();
    draw();
  }
  function where() {
    const voxel = voxelOf(viewer.frac2mm(viewer.scene.crosshairPos)).map(Math.round), mm = placeOf(report.grid.affine, voxel);
    byId("where").textContent = `slices i, j, k = ${voxel.join(", ")} of the file · x, y, z = ${mm.map((value) => value.toFixed(1)).join(", ")} mm`;
  }
  byId("overlay").onchange = byId("opacity").oninput = byId("outline").onchange = overlay;
  byId("level").oninput = byId("window").oninput = windowing;
  byId("measures").onchange = draw;
  all("input.label").forEach((box) => (box.onchange = paint));
  all("button.go").forEach((button) => (button.onclick = () => {
    const lesion = report.regions.find((row) => row.name === button.dataset.region).lesions[button.dataset.lesion];
    const center = [0, 1, 2].map((j) => (lesion.ends[0][j] + lesion.ends[1][j]) / 2);
    center[lesion.axis] = lesion.slice;
    go(center);
    byId("canvas").scrollIntoView({ block: "nearest" });
  }));
  if (uncertainty) byId("uncertainty").onchange = () => viewer.setOpacity(images.length, byId("uncertainty").checked ? 0.6 : 0);
  all("[data-subset]").forEach((button) => (button.onclick = async () => {
    await show(Number(button.dataset.subset));
    all("[data-subset]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    byId("helpful").dataset.whole ??= byId("helpful").textContent;
    byId("helpful").textContent = current ? subsets[current].helpful : byId("helpful").dataset.whole;
    byId("shown").textContent = current ? `from ${subsets[current].title}, beside those from all` : "";
    for (const row of all("#volumes tr[data-region]")) {
      const cell = row.querySelector(".volume"), own = subsets[current].volumes[row.dataset.region];
      cell.dataset.whole ??= cell.textContent;
      if (!current) cell.textContent = cell.dataset.whole;
      else cell.textContent = own === undefined ? "-" : `${own.toFixed(2)} (${cell.dataset.whole})`;  // of labels, none is known
    }
  }));
  const moves = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  byId("canvas").addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    viewer.moveCrosshairInVox(...moves[event.key]);
    where();
    draw();
  }, true);
  viewer.onLocationChange = () => { where(); draw(); };
  choice(byId("images"), images.map((image) => image.name), (chosen) => images.forEach((_, i) => viewer.setOpacity(i, i === chosen ? 1 : 0)));
  const views = { "all planes": "Multiplanar", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", "3-D": "Render" };
  choice(byId("views"), Object.keys(views), (chosen) => viewer.setSliceType(viewer[`sliceType${Object.values(views)[chosen]}`]));
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  paint();
  overlay();
  go(focus);
  window.viewer = viewer;
  document.body.dataset.state = "ready";
}
start().catch((error) => {
  byId("problem").textContent = `The viewer needs WebGL 2, which this browser does not offer here (${error.message}); a picture stands in its place.`;
  document.body.dataset.state = "failed";
});
