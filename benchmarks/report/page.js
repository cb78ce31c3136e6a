"use strict";
document.documentElement.classList.add("js");

// tables: a heading sorts the methods beneath it, missing values last
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.querySelector("tbody.methods");
  if (!body || body.rows.length < 2) continue;
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows];
      const numbers = rows.some((row) => row.cells[column]?.dataset.value !== undefined);
      const keyed = rows.map((row) => {
        const cell = row.cells[column];
        const text = cell?.textContent.trim() ?? "";
        const key = numbers ? Number(cell?.dataset.value ?? NaN) : text;
        return { row, key, missing: numbers ? Number.isNaN(key) : text === "" || text === "–" };
      });
      keyed.sort((a, b) => {
        if (a.missing || b.missing) return a.missing - b.missing;
        const order = numbers ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
        return up ? order : -order;
      });
      body.append(...keyed.map((one) => one.row));
    });
  });
}

// one of several: a list to choose from in place of <details>; lists of one kind go together
const lists = new Map();
for (const choices of document.querySelectorAll(".choices")) {
  const parts = [...choices.children].filter((child) => child.tagName === "DETAILS");
  if (!parts.length) continue;
  const label = document.createElement("label");
  const select = document.createElement("select");
  label.className = "choose";
  label.append(choices.dataset.label, " ", select);
  parts.forEach((part, i) => select.add(new Option(part.firstElementChild.textContent, String(i))));
  choices.prepend(label);
  const show = () => parts.forEach((part, i) => { part.open = i === select.selectedIndex; });
  lists.set(select, { kind: choices.dataset.sync, show });
  select.addEventListener("change", () => {
    const { kind } = lists.get(select);
    const text = select.selectedOptions[0].text;
    show();
    for (const [other, it] of kind ? lists : []) {
      const at = [...other.options].findIndex((option) => option.text === text);
      if (it.kind !== kind || at < 0) continue;
      other.selectedIndex = at;
      it.show();
    }
  });
  show();
}

// options: those in which two chosen rows differ
for (const table of document.querySelectorAll(".pairs table")) {
  const heads = [...table.tHead.rows[0].cells].slice(1);
  if (heads.length < 3) continue;
  const chosen = ["Options of ", " beside "].map((text) => {
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.add(new Option("all rows", ""));
    heads.forEach((head, i) => select.add(new Option(head.textContent, String(i + 1))));
    label.className = "choose";
    label.append(text, select);
    table.closest(".pairs").insertBefore(label, table.closest(".box"));
    return select;
  });
  const show = () => {
    const pair = chosen.map((select) => Number(select.value));
    const two = pair.every((column) => column > 0);
    for (const row of table.rows) {
      const cells = [...row.cells];
      cells.forEach((cell, i) => { cell.hidden = two && i > 0 && !pair.includes(i); });
      const [one, other] = pair.map((column) => cells[column]?.textContent);
      row.hidden = two && row.parentNode !== table.tHead && one === other;
    }
  };
  for (const select of chosen) select.addEventListener("change", show);
}

// pictures: larger on top of the page, and from one to the next by the arrow keys
const links = [...document.querySelectorAll("a.enlarge")];
if (links.length) {
  const dialog = document.createElement("dialog");
  const bar = document.createElement("p");
  const told = document.createElement("span");
  const image = document.createElement("img");
  let at = 0;
  const show = (i) => {
    at = (i + links.length) % links.length;
    const small = links[at].querySelector("img");
    image.src = links[at].href;
    image.alt = small.alt;
    image.width = small.getAttribute("width");
    image.height = small.getAttribute("height");
    told.textContent = links[at].closest("figure").querySelector("figcaption").textContent;
    dialog.setAttribute("aria-label", told.textContent);
    dialog.scrollTo(0, 0);
  };
  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", act);
    return made;
  };
  bar.append(
    told,
    button("Previous", () => show(at - 1)),
    button("Next", () => show(at + 1)),
    button("Close", () => dialog.close()),
  );
  dialog.append(bar, image);
  document.body.append(dialog);
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key === "ArrowRight") show(at + 1);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => links[at].focus());
  links.forEach((link, i) => link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    show(i);
    dialog.showModal();
  }));
}
