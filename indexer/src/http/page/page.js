// What the page can do beyond plain HTML: times as spans, a live refresh, the keyboard, ranges in the histogram.
(() => {
  "use strict";

  const REFRESH_EVERY = 3000; // milliseconds, while the page is visible
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- times: how long ago, with the exact time at hand ---

  const UNITS = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

  function ago(instant) {
    const seconds = (instant - Date.now()) / 1000;
    const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS[UNITS.length - 1];
    return relative.format(Math.trunc(seconds / size), unit);
  }

  function showTimes(root = document) {
    for (const time of all("time[datetime]", root)) {
      if (time.closest(".axis, .client")) continue;
      time.dataset.absolute ??= time.textContent;
      const { absolute } = time.dataset;
      const since = ago(Date.parse(time.dateTime));
      let wanted = `${absolute} (${since})`;
      if (time.closest(".freshness, .cards")) wanted = since;
      else if (time.closest(".hit")) wanted = `${since} · ${absolute.slice(0, "2026-11-20 10:00".length)}`;
      if (time.textContent !== wanted) time.textContent = wanted;
      if (time.title !== absolute) time.title = absolute;
    }
  }

  // --- live: when the index moved, the parts that depend on it are fetched again ---

  let seen = null;
  const onFirstPage = () => !new URLSearchParams(location.search).has("cursor");
  const busy = () => dragging !== null || String(getSelection()) !== "" || document.activeElement?.matches("main input");

  async function poll() {
    if (document.visibilityState !== "visible" || busy()) return;
    try {
      const response = await fetch("v1/status", { cache: "no-store" });
      const status = response.ok ? await response.json() : null;
      // What the service could not answer yet is asked again once it is ready.
      if (response.ok && one("[data-passes]")) return location.reload();
      const now = JSON.stringify(status && [status.manifest, status.overlay, status.entries, status.problems, status.lag_seconds]);
      if (seen !== null && now !== seen) await refresh();
      seen = now;
    } catch {
      one("#freshness")?.setAttribute("data-health", "bad");
    }
  }

  async function refresh() {
    const parts = onFirstPage() ? all("[data-live]") : all("#freshness");
    // Where nothing else is live, it comes from the page that costs no search and no request to a store.
    const source = parts.every((part) => part.id === "freshness") ? "status" : location.href;
    const response = await fetch(source, { cache: "no-store" });
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const focused = document.activeElement?.getAttribute("href");
    const known = new Set(all(".hit").map((hit) => hit.dataset.token));
    for (const part of parts) {
      const next = fresh.getElementById(part.id);
      if (next === null) continue;
      const open = all("details", part).filter((details) => details.open).map((details) => details.id);
      part.replaceWith(document.adoptNode(next));
      all("details", next).forEach((details) => { details.open = open.includes(details.id); });
    }
    for (const hit of all(".hit")) if (known.size > 0 && !known.has(hit.dataset.token)) hit.classList.add("is-new");
    showTimes();
    watchHistogram();
    if (focused) all("main a").find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
  }

  // --- keyboard ---

  const box = one("#q");
  const titles = () => all(".hit .title");

  function move(step) {
    const hits = titles();
    const at = hits.findIndex((hit) => hit.closest(".hit").contains(document.activeElement));
    const next = hits[at < 0 ? (step > 0 ? 0 : hits.length - 1) : Math.min(Math.max(at + step, 0), hits.length - 1)];
    next?.focus();
    next?.closest(".hit").scrollIntoView({ block: "nearest" });
  }

  function back() {
    const help = one(".help");
    if (help?.open) { help.open = false; return; }
    if (document.body.dataset.page === "search") { document.activeElement?.blur(); return; }
    const here = document.referrer.startsWith(new URL("./", location.href).href);
    if (here && history.length > 1) history.back(); else location.assign("./");
  }

  function inField(event) {
    if (event.key === "Escape") { box.blur(); event.preventDefault(); }
    if (event.key === "ArrowDown" && titles().length > 0) { move(1); event.preventDefault(); }
  }

  const KEYS = {
    "/": () => { box.focus(); box.select(); },
    j: () => move(1),
    k: () => move(-1),
    n: () => one("#next")?.click(),
    "?": () => { const help = one(".help"); help.open = !help.open; },
    Escape: back,
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target === box) { inField(event); return; }
    if (event.target.closest?.("input, select, textarea")) return;
    const action = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
    if (action) { event.preventDefault(); action(); }
  });

  document.addEventListener("click", (event) => {
    const help = one(".help");
    if (help?.open && !help.contains(event.target)) help.open = false;
    if (event.target.closest("[data-back]") && document.referrer !== "" && history.length > 1) {
      event.preventDefault();
      back();
    }
  });

  // --- histogram: dragging over bars narrows to their span ---

  let dragging = null;

  function watchHistogram() {
    const chart = one(".histogram svg");
    if (!chart || chart.dataset.watched) return;
    chart.dataset.watched = "yes";
    const bars = all("a", chart);
    const under = (event) => {
      const { left, width } = chart.getBoundingClientRect();
      const place = Math.floor(((event.clientX - left) / width) * bars.length);
      return Math.min(Math.max(place, 0), bars.length - 1);
    };
    const mark = () => bars.forEach((bar, place) => {
      const [first, last] = dragging ? [Math.min(...dragging), Math.max(...dragging)] : [1, 0];
      bar.classList.toggle("in-range", place >= first && place <= last);
    });
    chart.addEventListener("dragstart", (event) => event.preventDefault());
    chart.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && event.pointerType === "mouse") dragging = [under(event), under(event)];
    });
    window.addEventListener("pointermove", (event) => {
      if (dragging === null || !chart.isConnected) return;
      dragging[1] = under(event);
      mark();
    });
    window.addEventListener("pointerup", () => {
      if (dragging === null || !chart.isConnected) return;
      const [first, last] = [Math.min(...dragging), Math.max(...dragging)];
      dragging = null;
      mark();
      if (first !== last) narrow(bars[first].dataset.from, bars[last].dataset.to);
    });
  }

  function narrow(from, to) {
    const url = new URL(location.href);
    if (one(".histogram").dataset.by) {
      const query = url.searchParams.get("q") ?? "";
      const others = query.includes(" OR ") ? `(${query})` : query;
      url.searchParams.set("q", `${others} clientTime:>=${from} clientTime:<${to}`.trim());
    } else {
      url.searchParams.set("from", from);
      url.searchParams.set("to", to);
    }
    url.searchParams.delete("cursor");
    location.assign(url);
  }

  // --- what is unfolded is part of the address: it is shared and reloaded with it ---

  const folds = () => all("details[id]");

  const OPEN = "#open=";

  function unfold() {
    if (!location.hash.startsWith(OPEN)) return;
    const wanted = location.hash.slice(OPEN.length).split(",");
    for (const fold of folds()) fold.open = wanted.includes(encodeURIComponent(fold.id));
  }

  document.addEventListener("toggle", () => {
    // Another anchor is a place of the page, and stays.
    if (location.hash !== "" && !location.hash.startsWith(OPEN)) return;
    const open = folds().filter((fold) => fold.open).map((fold) => encodeURIComponent(fold.id));
    const wanted = open.length > 0 ? OPEN + open : "";
    if (location.hash !== wanted) history.replaceState(null, "", wanted || location.pathname + location.search);
  }, true);

  // --- copying what is long ---

  function offerCopies() {
    if (!navigator.clipboard) return;
    for (const source of all("[data-copy]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      });
      source.after(button);
    }
  }

  unfold();
  showTimes();
  watchHistogram();
  offerCopies();
  poll();
  setInterval(poll, REFRESH_EVERY);
  setInterval(showTimes, 1000);
  document.addEventListener("visibilitychange", poll);
})();
