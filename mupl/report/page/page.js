// Draws the charts of a page, and lets the buttons of each legend switch series on and off.
"use strict";

const OPTIONS = { renderer: "svg", actions: false, tooltip: { disableDefaultStyle: true } };

function pressed(group) {
  return [...group.querySelectorAll("button.series")].filter(
    (button) => button.getAttribute("aria-pressed") === "true",
  );
}

function hiddenSeries(group) {
  const shown = new Set(pressed(group));
  return [...group.querySelectorAll("button.series")]
    .filter((button) => !shown.has(button))
    .map((button) => button.dataset.series);
}

function chosen(group) {
  const radio = group.querySelector("input[type=radio]:checked");
  return radio === null ? null : Number(radio.value);
}

function update(group, views) {
  for (const view of views) {
    view.signal("hidden", hiddenSeries(group));
    if (chosen(group) !== null) view.signal("choice", chosen(group));
    view.runAsync();
  }
}

function connect(group, views) {
  for (const button of group.querySelectorAll("button.series")) {
    button.addEventListener("click", () => {
      const isPressed = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!isPressed));
      update(group, views);
    });
  }
  for (const button of group.querySelectorAll("button.all")) {
    button.addEventListener("click", () => {
      const all = group.querySelectorAll("button.series");
      const show = pressed(group).length < all.length;
      for (const other of all) other.setAttribute("aria-pressed", String(show));
      update(group, views);
    });
  }
  for (const radio of group.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => update(group, views));
  }
}

async function drawGroup(group) {
  const views = [];
  connect(group, views);
  for (const place of group.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.querySelector("script").textContent);
    const { view } = await vegaEmbed(place, spec, OPTIONS);
    view.signal("hidden", hiddenSeries(group));
    await view.runAsync();
    // the place of the chart says what it shows; Vega's own marks would be read one by one
    place.querySelector("svg").setAttribute("aria-hidden", "true");
    views.push(view);
    place.dataset.drawn = "yes";
  }
}

async function drawAll() {
  for (const group of document.querySelectorAll(".charts")) await drawGroup(group);
  document.documentElement.dataset.ready = Math.round(performance.now());
}

drawAll();
