"use strict";
// The page of `mqueue web`. Names, bodies and all other text of the queue are data: they are only ever set as the
// text of an element, with control and direction characters made visible.
(() => {
  const MAX_ROWS = 300; // further rows are shown on request
  const SPARK = 60;
  const QUIET_AFTER = 15000; // no event for so long: the connection is lost
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const escaped = (c) => "\\u{" + c.codePointAt(0).toString(16) + "}";
  const clean = (text) => String(text ?? "").replace(UNSEEN, escaped);
  const cleanBody = (text) => String(text ?? "").replace(UNSEEN, (c) => (c === "\n" || c === "\t" ? c : escaped(c)));
  const byId = (id) => document.getElementById(id);
  const integer = new Intl.NumberFormat("en");
  const count = (n) => integer.format(n ?? 0);
  const rate = (n) => (n === undefined || n === null ? "0" : n < 9.95 ? String(Math.round(n * 10) / 10) : count(Math.round(n)));
  const plural = (n, word) => count(n) + " " + word + (n === 1 ? "" : "s");

  // ---- elements ----

  function el(tag, options, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options ?? {})) {
      if (name === "on") for (const [type, run] of Object.entries(value)) node.addEventListener(type, run);
      else if (name === "text") node.textContent = clean(value);
      else if (name === "class") node.className = value;
      else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== undefined && child !== null));
    return node;
  }
  const setText = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const button = (label, run, options) => el("button", { type: "button", text: label, on: { click: run }, ...options });

  let saidTimer;
  function say(text) {
    setText(byId("said"), clean(text));
    clearTimeout(saidTimer);
    saidTimer = setTimeout(() => setText(byId("said"), ""), 6000);
  }

  // ---- requests, with the token where there is one ----

  const tokenKey = "mqueue-token";
  const token = () => sessionStorage.getItem(tokenKey) ?? "";
  const headers = () => (token() ? { Authorization: "Bearer " + token() } : {});

  class Refused extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
  }

  async function request(path, body) {
    const options = { headers: headers(), cache: "no-store" };
    if (body !== undefined) {
      options.method = "POST";
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const response = await fetch(path, options);
    if (response.ok) return response.json();
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.error ?? "status " + response.status);
  }

  // Asks for a token as often as the server wants another one.
  async function api(path, body) {
    for (;;) {
      try {
        return await request(path, body);
      } catch (error) {
        if (error.status !== 401 || !(await askToken(token() ? "This token is wrong." : ""))) throw error;
      }
    }
  }

  // ---- dialogs ----

  let closeDialog;
  // Shows a dialog and returns what `fill` resolves with; `undefined` if it is closed.
  function dialog(fill) {
    closeDialog?.(undefined);
    const box = byId("dialog");
    return new Promise((resolve) => {
      const before = document.activeElement;
      closeDialog = (value) => {
        closeDialog = undefined;
        box.onclose = null;
        if (box.open) box.close();
        before?.focus?.();
        resolve(value);
      };
      box.onclose = () => closeDialog?.(undefined);
      box.replaceChildren(...fill(closeDialog));
      box.showModal();
      box.querySelector("[data-first]")?.focus();
    });
  }

  function confirmed(title, lines, verb) {
    return dialog((close) => [
      el("h2", { text: title }),
      ...lines.map((line) => el("p", { text: line })),
      el("div", { class: "bar" },
        button("Cancel", () => close(false), { "data-first": true }),
        button(verb, () => close(true), { class: "bad", id: "confirm" })),
    ]);
  }

  let asking;
  function askToken(note) {
    asking ??= dialog((close) => {
      const input = el("input", { type: "password", id: "token-input", autocomplete: "off", "aria-label": "Token", "data-first": true });
      const use = () => {
        const text = input.value.trim();
        if (!text) return;
        sessionStorage.setItem(tokenKey, text);
        close(true);
      };
      input.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), use()));
      return [
        el("h2", { text: "Token" }),
        note ? el("p", { class: "bad", text: note }) : undefined,
        el("p", { text: "A token of the server's --bearer-token-file. It is kept in this tab until the tab is closed." }),
        input,
        el("div", { class: "bar" },
          button("Forget", () => { sessionStorage.removeItem(tokenKey); close(false); }),
          button("Cancel", () => close(false)),
          button("Use", use, { id: "token-use" })),
      ].filter(Boolean);
    }).finally(() => { asking = undefined; });
    return asking;
  }

  function showHelp() {
    const keys = [
      ["↑ ↓", "select a row"], ["Enter", "open it"], ["Esc", "back; clear the filter"], ["/", "filter"],
      ["p", "pause or unpause the selected row"], ["s l d w", "streams, dead letters, doctor, wakeup"], ["t", "token"], ["?", "this help"],
    ];
    dialog((close) => [
      el("h2", { text: "Keys" }),
      el("dl", {}, ...keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text: what })])),
      el("div", { class: "bar" }, button("Close", () => close(), { "data-first": true })),
    ]);
  }

  // ---- the listing ----

  const streams = new Map();
  const sparks = new Map();
  let settings = { actions: false, interval: 1000 };
  let nsqds = [];
  let lookupdErrors = [];
  let at = 0;

  const keyOf = (stream, group) => (group === undefined ? stream : stream + "/" + group);
  const depthOf = (row) => (row.depth ?? 0) + (row.groups ?? []).reduce((sum, group) => sum + (group.depth ?? 0), 0);
  const outOf = (row) => (row.groups ?? []).reduce((sum, group) => sum + (group.out ?? 0), 0);

  function find(target) {
    const [stream, group] = target.split("/");
    const row = streams.get(stream);
    return group === undefined ? row : row?.groups?.find((it) => it.group === group);
  }

  function take(name, data) {
    if (name === "settings") {
      settings = data;
      setText(byId("mode"), settings.actions ? "" : "read-only");
      byId("token").hidden = !settings.actions;
      return;
    }
    if (name === "all") streams.clear();
    for (const row of data.streams) streams.set(row.stream, row);
    for (const gone of data.gone ?? []) streams.delete(gone);
    nsqds = data.nsqds ?? nsqds;
    lookupdErrors = data.lookupd_errors ?? lookupdErrors;
    at = data.at;
    for (const row of streams.values()) {
      addSpark(row.stream, depthOf(row));
      for (const group of row.groups ?? []) addSpark(keyOf(row.stream, group.group), group.depth ?? 0);
    }
    if (sparks.size > 4 * streams.size + 1000) sparks.clear();
    showSummary();
    view?.update?.();
  }

  function addSpark(key, depth) {
    let values = sparks.get(key);
    if (!values) {
      if (!depth) return;
      sparks.set(key, (values = []));
    }
    values.push(depth);
    if (values.length > SPARK) values.shift();
  }

  // Values of which the last one stands for missing ones at the end: the current second is not over.
  function known(values) {
    const last = values.findLast((value) => value !== null) ?? null;
    const end = values.findLastIndex((value) => value !== null) + 1;
    return values.length - end > 3 ? values : values.map((value, at) => (at < end ? value : last));
  }

  async function loadSparks() {
    try {
      for (const [key, values] of Object.entries(await request("/api/sparks"))) {
        const later = sparks.get(key) ?? [];
        sparks.set(key, known(values).filter((value) => value !== null).concat(later).slice(-SPARK));
      }
      view?.update?.();
    } catch { /* they grow by themselves */ }
  }

  function showSummary() {
    let [depth, published, finished, letters] = [0, 0, 0, 0];
    for (const row of streams.values()) {
      if (row.hidden) continue;
      depth += depthOf(row);
      published += row.in ?? 0;
      finished += outOf(row);
      letters += row.dead_letters ?? 0;
    }
    const up = nsqds.filter((nsqd) => !nsqd.error).length;
    const parts = [
      plural(streams.size, "stream"), count(depth) + " waiting", rate(published) + " in/s", rate(finished) + " out/s",
      letters ? plural(letters, "dead letter") : "", up + " of " + plural(nsqds.length, "nsqd"),
    ];
    setText(byId("summary"), parts.filter(Boolean).join(" · "));
    byId("summary").classList.toggle("bad", up < nsqds.length);
    const errors = nsqds.filter((nsqd) => nsqd.error).map((nsqd) => nsqd.error).concat(lookupdErrors);
    troubles.brokers = errors.length ? errors.slice(0, 3).join("; ") + (errors.length > 3 ? "; and " + (errors.length - 3) + " more" : "") : "";
    showBanner();
  }

  const troubles = { connection: "", brokers: "" };
  function showBanner() {
    const text = troubles.connection || troubles.brokers;
    byId("banner").hidden = !text;
    setText(byId("banner"), clean(text));
  }

  // ---- server-sent events, read by fetch: it can send a token ----

  let connection;
  async function follow() {
    for (let failures = 0; ; ) {
      connection = new AbortController();
      let quiet;
      const alive = () => {
        clearTimeout(quiet);
        quiet = setTimeout(() => connection.abort(), Math.max(QUIET_AFTER, 5 * settings.interval));
      };
      try {
        alive();
        const response = await fetch("/api/events", { headers: headers(), cache: "no-store", signal: connection.signal });
        if (response.status === 401 || response.status === 403) {
          const said = await response.json().catch(() => ({}));
          clearTimeout(quiet);
          byId("token").hidden = false;
          lost(said.error ?? "refused");
          if (await askToken(token() ? "This token is wrong." : "A token is needed to look.")) continue;
          await until((run) => { retryNow = run; });
          continue;
        }
        if (!response.ok) throw new Error("status " + response.status);
        await read(response.body.getReader(), () => {
          failures = 0;
          troubles.connection = "";
          alive();
        });
      } catch { /* the same as an end */ }
      clearTimeout(quiet);
      lost("Connection lost: the numbers are those of " + new Date(at || Date.now()).toLocaleTimeString() + ". Trying again …");
      failures += 1;
      await until((run) => { retryNow = run; setTimeout(run, Math.min(500 * failures, 5000)); });
    }
  }
  let retryNow = () => {};
  const until = (start) => new Promise(start);
  function lost(text) {
    troubles.connection = text;
    showBanner();
  }

  async function read(reader, heard) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const field = (name) => lines.find((line) => line.startsWith(name + ": "))?.slice(name.length + 2);
        heard();
        if (field("data")) take(field("event"), JSON.parse(field("data")));
      }
    }
  }

  // ---- actions ----

  const isPaused = (row) => (row?.paused_on ?? 0) > 0;

  async function act(action, target) {
    if (!settings.actions) return say("This page is read-only: start it with --allow-actions and --bearer-token-file");
    const row = find(target);
    const isGroup = target.includes("/");
    if (action === "empty" || action === "delete") {
      const held = (it) => (it.depth ?? 0) + (it.in_flight ?? 0) + (it.deferred ?? 0);
      const lines = [];
      if (isGroup) {
        lines.push(plural(held(row ?? {}), "message") + " (" + count(row?.depth) + " waiting, " + count(row?.in_flight) +
          " in flight, " + count(row?.deferred) + " deferred) will be lost.");
      } else if (action === "empty") {
        lines.push(plural(row?.depth ?? 0, "message") + " that no group has yet will be lost. Its groups keep theirs.");
      } else {
        const groups = row?.groups ?? [];
        const all = (row?.depth ?? 0) + groups.reduce((sum, group) => sum + held(group), 0);
        lines.push(plural(all, "message") + " in " + plural(groups.length, "group") + " will be lost, and the groups themselves.");
      }
      if (action === "delete") lines.push("Consumers that are connected are disconnected, and create it again when they come back.");
      lines.push("On " + plural(row?.nsqds ?? 0, "nsqd") + ". This cannot be undone.");
      const verb = action === "empty" ? "Empty" : "Delete";
      if (!(await confirmed(verb + " " + target + "?", lines, verb))) return;
    }
    try {
      const done = await api("/api/action", { action, target });
      const failed = done.nsqds.filter((nsqd) => nsqd.error).map((nsqd) => nsqd.error).concat(done.silent);
      const words = { pause: "paused", unpause: "unpaused", empty: "emptied", delete: "deleted" };
      say(words[action] + " " + target + " on " + plural(done.nsqds.length - done.nsqds.filter((nsqd) => nsqd.error).length, "nsqd") +
        (failed.length ? "; failed: " + failed.join("; ") : ""));
    } catch (error) {
      say("Cannot " + action + " " + target + ": " + error.message);
    }
  }

  // ---- the table of streams and groups ----

  const COLUMNS = [
    ["name", "Stream / group", "name"], ["spark", "Last minute", "mid"], ["depth", "Depth", "n"], ["in_flight", "In flight", "n mid"],
    ["deferred", "Deferred", "n mid"], ["oldest", "Oldest", "n mid"], ["in", "In/s", "n"], ["out", "Out/s", "n"], ["consumers", "Consumers", "n low"],
    ["dead_letters", "Dead letters", "n low"], ["state", "State", ""],
  ];
  const pausedText = (row) => (!isPaused(row) ? "" : row.paused_on === row.nsqds ? "paused" : "paused on " + row.paused_on + " of " + row.nsqds);
  const SVG = "http://www.w3.org/2000/svg";

  class Row {
    constructor(target, isStream) {
      this.target = target;
      this.isStream = isStream;
      this.cells = {};
      this.node = el("tr", { class: (isStream ? "stream" : "group") + " open", tabindex: "-1", "data-target": target });
      for (const [name, , kind] of COLUMNS) {
        const cell = el("td", { class: kind });
        if (name === "name") {
          const label = isStream ? target : target.slice(target.indexOf("/") + 1);
          cell.append(el("a", { href: linkTo(target), text: label, title: clean(target), tabindex: "-1" }));
        } else if (name === "spark") {
          const svg = document.createElementNS(SVG, "svg");
          for (const [key, value] of [["class", "spark"], ["viewBox", "0 0 59 18"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
          this.line = document.createElementNS(SVG, "polyline");
          svg.append(this.line);
          cell.append(svg);
        }
        this.cells[name] = cell;
        this.node.append(cell);
      }
    }

    number(name, value, text) {
      const cell = this.cells[name];
      setText(cell, text ?? count(value));
      cell.classList.toggle("zero", !value);
    }

    update(row) {
      const depth = row.depth ?? 0;
      this.number("depth", depth);
      if (this.isStream) {
        this.number("in", row.in, rate(row.in));
        this.number("dead_letters", row.dead_letters);
        this.cells.dead_letters.classList.toggle("warn", !!row.dead_letters);
      } else {
        this.number("in_flight", row.in_flight);
        this.number("deferred", row.deferred);
        this.number("oldest", row.oldest, row.oldest === undefined ? "" : (row.older ? "> " : "") + span(row.oldest));
        this.number("out", row.out, rate(row.out));
        this.number("consumers", row.consumers, row.asleep ? "asleep" : undefined);
      }
      setText(this.cells.state, pausedText(row));
      this.cells.state.classList.toggle("warn", isPaused(row));
      const values = sparks.get(this.target) ?? [];
      const most = Math.max(1, ...values);
      const points = values.map((value, at) => (59 - values.length + 1 + at) + "," + (17 - (16 * value) / most).toFixed(1)).join(" ");
      if (this.line.getAttribute("points") !== points) this.line.setAttribute("points", points);
    }
  }

  const linkTo = (target) => "#/s/" + target.split("/").map(encodeURIComponent).join("/");

  class StreamTable {
    // `only`: the groups of one stream.
    constructor(only) {
      this.only = only;
      this.rows = new Map();
      this.sort = only ? "name" : sessionStorage.getItem("mqueue-sort") ?? "name";
      this.filter = "";
      this.showsHidden = false;
      this.limit = MAX_ROWS;
      this.body = el("tbody");
      this.more = button("", () => { this.limit += 1000; this.update(); }, { hidden: true });
      const sortable = ["name", "depth", "in", "out", "dead_letters"];
      this.heads = COLUMNS.map(([name, label, kind]) => {
        const head = el("th", { class: kind, scope: "col" });
        if (only || !sortable.includes(name)) head.textContent = label;
        else head.append(button(label, () => this.sortBy(name)));
        return head;
      });
      const table = el("table", { "aria-label": only ? "Groups" : "Streams and groups" }, el("thead", {}, el("tr", {}, ...this.heads)), this.body);
      table.addEventListener("keydown", (event) => this.key(event));
      table.addEventListener("click", (event) => {
        const row = event.target.closest("tr.open");
        if (row && !event.target.closest("a")) location.hash = linkTo(row.dataset.target);
      });
      this.node = el("div", { class: "scroll" }, table, this.more);
      this.empty = el("p", { class: "dim", hidden: true });
      this.node.append(this.empty);
      this.markSort();
    }

    sortBy(name) {
      this.sort = name;
      sessionStorage.setItem("mqueue-sort", name);
      this.markSort();
      this.update();
    }

    markSort() {
      COLUMNS.forEach(([name], at) => {
        if (name === this.sort && !this.only) this.heads[at].setAttribute("aria-sort", name === "name" ? "ascending" : "descending");
        else this.heads[at].removeAttribute("aria-sort");
      });
    }

    // The rows to show: [target, row, is a stream].
    wanted() {
      const value = { depth: depthOf, in: (row) => row.in ?? 0, out: outOf, dead_letters: (row) => row.dead_letters ?? 0 }[this.sort];
      const all = [];
      const chosen = [...streams.values()].filter((row) => (this.only ? row.stream === this.only : this.showsHidden || !row.hidden));
      chosen.sort((a, b) => (value ? value(b) - value(a) : 0) || (a.stream < b.stream ? -1 : 1));
      for (const row of chosen) {
        const words = this.filter.toLowerCase();
        const named = row.stream.toLowerCase().includes(words);
        const groups = (row.groups ?? []).filter((group) => named || group.group.toLowerCase().includes(words) || keyOf(row.stream, group.group).toLowerCase().includes(words));
        if (!named && !groups.length) continue;
        if (!this.only) all.push([row.stream, row, true]);
        for (const group of groups) all.push([keyOf(row.stream, group.group), group, false]);
      }
      return all;
    }

    update() {
      const all = this.wanted();
      const shown = all.slice(0, this.limit);
      const kept = new Set();
      let place = this.body.firstChild;
      for (const [target, data, isStream] of shown) {
        kept.add(target);
        let row = this.rows.get(target);
        if (!row) this.rows.set(target, (row = new Row(target, isStream)));
        row.update(data);
        if (row.node === place) place = place.nextSibling;
        else this.body.insertBefore(row.node, place);
      }
      for (const [target, row] of this.rows) {
        if (!kept.has(target)) {
          row.node.remove();
          this.rows.delete(target);
        }
      }
      this.more.hidden = all.length <= shown.length;
      setText(this.more, count(all.length - shown.length) + " more rows");
      this.empty.hidden = all.length > 0;
      setText(this.empty, at ? (this.only ? "No groups." : this.filter ? "Nothing matches." : "No streams.") : "Waiting for the first numbers …");
      if (!this.body.querySelector("tr[tabindex='0']")) this.body.firstChild?.setAttribute("tabindex", "0");
    }

    select(row) {
      if (!row) return;
      this.body.querySelectorAll("tr[tabindex='0']").forEach((other) => other.setAttribute("tabindex", "-1"));
      row.setAttribute("tabindex", "0");
      row.focus();
      row.scrollIntoView({ block: "nearest" });
    }

    // Moves the selection by this many rows.
    move(by) {
      const rows = [...this.body.children];
      const now = rows.indexOf(document.activeElement);
      if (now < 0) this.select(this.body.querySelector("tr[tabindex='0']"));
      else this.select(rows[Math.min(rows.length - 1, Math.max(0, now + by))]);
    }

    key(event) {
      const row = event.target.closest?.("tr.open");
      if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { Home: -1e9, End: 1e9, PageUp: -20, PageDown: 20 };
      if (event.key === "Enter") location.hash = linkTo(row.dataset.target);
      else if (moves[event.key]) this.move(moves[event.key]);
      else if (event.key === "p") act(isPaused(find(row.dataset.target)) ? "unpause" : "pause", row.dataset.target);
      else return;
      event.preventDefault();
      event.stopPropagation();
    }
  }

  // ---- charts ----

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A chart of some lines: [label, name of a colour, key of the values].
  class Chart {
    constructor(title, lines) {
      this.lines = lines;
      this.place = el("div");
      this.node = el("figure", {}, el("figcaption", { text: title }), this.place);
    }

    show(times, values) {
      const data = [times, ...this.lines.map(([, , key]) => values[key])];
      const width = Math.max(220, this.place.clientWidth || 400);
      const theme = color("--back") + width;
      if (this.plot && this.theme === theme) return this.plot.setData(data);
      this.plot?.destroy();
      this.theme = theme;
      const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
      const shown = (plot, value) => (value === null || value === undefined ? "–" : rate(value));
      const series = this.lines.map(([label, name]) => ({ label, stroke: color(name), width: 1.5, value: shown, points: { show: false } }));
      this.plot = new uPlot({
        width, height: 180, ms: 1, cursor: { y: false, points: { size: 5 } },
        series: [{ value: (plot, value) => (value ? new Date(value).toLocaleTimeString([], { hour12: false }) : "–") }, ...series],
        axes: [{ ...axis, values: (plot, ticks) => ticks.map((tick) => new Date(tick).toLocaleTimeString([], clock)) }, { ...axis, size: 60, values: (plot, ticks) => ticks.map((tick) => (tick >= 10000 ? compact.format(tick) : rate(tick))) }],
        scales: { y: { range: (plot, least, most) => [0, Math.max(1, (most ?? 0) * 1.1)] } },
      }, data, this.place);
    }

    close() {
      this.plot?.destroy();
    }
  }
  const clock = { hour: "2-digit", minute: "2-digit", hour12: false };
  const compact = new Intl.NumberFormat("en", { notation: "compact" });

  // The charts of a stream or group.
  class Charts {
    constructor(target) {
      this.target = target;
      this.stream = target.split("/")[0];
      this.isGroup = target.includes("/");
      this.span = "10m";
      const lines = [["published/s", "--in", "in"]];
      if (this.isGroup) lines.push(["finished/s", "--out", "out"]);
      this.rates = new Chart("Messages a second", lines);
      this.depths = new Chart("Messages that wait", [["depth", "--accent", "depth"]]);
      const spans = [["10m", "10 minutes"], ["24h", "24 hours"]];
      this.buttons = spans.map(([span, label]) => button(label, () => this.choose(span), { "aria-pressed": String(span === this.span) }));
      this.spans = spans;
      this.full = el("p", { class: "warn" });
      this.node = el("section", { "aria-label": "Charts" }, el("div", { class: "bar" }, ...this.buttons), this.full, el("div", { class: "charts" }, this.rates.node, this.depths.node));
      this.loaded = 0;
      this.values = undefined;
    }

    choose(span) {
      this.span = span;
      this.values = undefined;
      this.buttons.forEach((it, at) => it.setAttribute("aria-pressed", String(this.spans[at][0] === span)));
      this.load();
    }

    async load() {
      this.loaded = Date.now();
      const span = this.span;
      const get = (target) => api("/api/history?span=" + span + "&target=" + encodeURIComponent(target));
      try {
        const [own, stream] = await Promise.all([get(this.target), this.isGroup ? get(this.stream) : undefined]);
        if (this.span !== span) return;
        setText(this.full, own.full ? "No charts of this one: " + count(settings.max_series) + " streams and groups have some already, which is the most." : "");
        const most = span === "10m" ? 600 : 8640;
        const fit = (list) => Array(Math.max(0, most - list.length)).fill(null).concat(known(list));
        this.step = own.step * 1000;
        this.values = { depth: fit(own.depth), in: fit((stream ?? own).rate), out: this.isGroup ? fit(own.rate) : [] };
        this.end = at || Date.now();
        this.draw();
      } catch (error) {
        if (!this.values) say("No charts: " + error.message);
      }
    }

    draw() {
      if (!this.values || !this.node.isConnected) return;
      const length = this.values.depth.length;
      const times = Array.from({ length }, (_, number) => this.end - (length - 1 - number) * this.step);
      this.rates.show(times, this.values);
      this.depths.show(times, this.values);
    }

    update() {
      // the table of seconds grows by itself for a while; the server's values replace it
      if (Date.now() - this.loaded > (this.span === "10m" ? 10000 : 30000)) return void this.load();
      if (!this.values || this.span !== "10m" || at - this.end < 800) return;
      const own = find(this.target);
      const stream = find(this.stream);
      for (const [key, value] of [["depth", own && (this.isGroup ? own.depth ?? 0 : depthOf(own))], ["in", stream && (stream.in ?? 0)], ["out", own && (own.out ?? 0)]]) {
        if (!this.values[key].length) continue;
        this.values[key].push(value ?? null);
        this.values[key].shift();
      }
      this.end = at;
      this.draw();
    }

    close() {
      this.rates.close();
      this.depths.close();
    }
  }

  // ---- views ----

  let view;
  const main = byId("main");

  function streamsView() {
    const table = new StreamTable();
    const input = el("input", { type: "search", class: "wide", id: "filter", placeholder: "Filter (/)", "aria-label": "Filter streams and groups", on: { input: () => { table.filter = input.value.trim(); table.update(); } } });
    const hidden = el("button", { type: "button", "aria-pressed": "false", text: "Show streams of dead letters", on: { click: () => {
      table.showsHidden = !table.showsHidden;
      hidden.setAttribute("aria-pressed", String(table.showsHidden));
      table.update();
    } } });
    main.replaceChildren(el("div", { class: "bar" }, input, hidden), table.node);
    return { name: "streams", title: "streams", table, input, update: () => table.update() };
  }

  function detailView(target) {
    const isGroup = target.includes("/");
    const stream = target.split("/")[0];
    const charts = new Charts(target);
    const facts = el("p", { class: "dim" });
    const pause = button("Pause", () => act(isPaused(find(target)) ? "unpause" : "pause", target), { id: "pause" });
    const actions = el("div", { class: "bar" }, pause,
      button("Empty", () => act("empty", target), { class: "bad", id: "empty" }), button("Delete", () => act("delete", target), { class: "bad", id: "delete" }));
    const heading = el("h1", {}, el("a", { href: isGroup ? linkTo(stream) : "#/", text: isGroup ? stream : "streams" }), " / " + clean(isGroup ? target.slice(stream.length + 1) : stream));
    const table = isGroup ? undefined : new StreamTable(stream);
    const clients = new Clients(target);
    const letters = el("a", { href: "#/letters/" + encodeURIComponent(stream), text: "Dead letters" });
    main.replaceChildren(heading, facts, actions, charts.node);
    if (table) main.append(el("h2", { text: "Groups" }), table.node);
    const peek = new Peek(target);
    main.append(el("h2", { text: "Consumers" }), clients.node, el("h2", { text: "Messages" }), peek.node, el("p", {}, letters));
    const update = () => {
      const row = find(target);
      actions.hidden = !settings.actions;
      if (!row) {
        setText(facts, at ? "It does not exist now." : "Waiting for the first numbers …");
      } else {
        const numbers = isGroup
          ? [count(row.depth) + " waiting", count(row.in_flight) + " in flight", count(row.deferred) + " deferred", rate(row.out) + " out/s",
            row.asleep ? "asleep" : plural(row.consumers ?? 0, "consumer connection"), count(row.requeued) + " requeued", count(row.timed_out) + " timed out"]
          : [count(row.depth) + " without a group", rate(row.in) + " in/s", plural(row.dead_letters ?? 0, "dead letter")];
        numbers.push("on " + plural(row.nsqds, "nsqd"), pausedText(row));
        setText(facts, numbers.filter(Boolean).join(" · "));
      }
      setText(pause, isPaused(row) ? "Unpause" : "Pause");
      table?.update();
      charts.update();
      clients.update();
    };
    charts.load();
    return { name: "streams", title: target, table, update, redraw: () => charts.draw(), close: () => charts.close(), back: isGroup ? linkTo(stream) : "#/" };
  }

  // A table of plain rows; each cell is text.
  function plainTable(label, columns, rows) {
    const head = columns.map(([name, kind]) => el("th", { class: kind, scope: "col", text: name }));
    const cells = (row) => row.map((text, at) => el("td", { class: columns[at][1] || "wrap", text }));
    return el("div", { class: "scroll" }, el("table", { "aria-label": label }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row))))));
  }

  // The connections of consumers.
  class Clients {
    constructor(target) {
      this.target = target;
      this.node = el("div", { id: "clients" }, el("p", { class: "dim", text: "…" }));
      this.asked = 0;
    }

    async update() {
      if (Date.now() - this.asked < 5000) return;
      this.asked = Date.now();
      try {
        const all = await api("/api/clients?target=" + encodeURIComponent(this.target));
        if (!this.node.isConnected) return;
        const columns = [["Consumer", ""], ["Group", "mid"], ["nsqd", "mid"], ["Agent", "low"], ["Ready", "n"], ["In flight", "n"], ["Finished", "n"], ["Requeued", "n mid"], ["Connected", "n low"]];
        const rows = all.clients.map((it) => [it.name + " " + it.address, it.group, it.nsqd, it.agent, count(it.ready), count(it.in_flight), count(it.finished), count(it.requeued), since(it.connected * 1000)]);
        const notes = [all.total > rows.length ? "The " + rows.length + " with the most messages in flight, of " + count(all.total) + "." : "", ...all.errors].filter(Boolean);
        this.node.replaceChildren(
          rows.length ? plainTable("Consumers", columns, rows) : el("p", { class: "dim", text: "No consumer is connected." }),
          ...notes.map((text) => el("p", { class: "dim", text })));
      } catch (error) {
        this.node.replaceChildren(el("p", { class: "bad", text: error.message }));
      }
    }
  }

  const since = (millis) => span(Math.max(0, Math.round((Date.now() - millis) / 1000)));

  function span(seconds) {
    for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= 2 * unit) return Math.floor(seconds / unit) + " " + name;
    return seconds + " s";
  }

  function bytes(size) {
    return size < 10240 ? count(size) + " bytes" : size < 10485760 ? count(Math.round(size / 1024)) + " KiB" : count(Math.round(size / 1048576)) + " MiB";
  }

  const hexLines = (pairs) => pairs.map((byte, at) => byte + ((at + 1) % 16 ? " " : "\n")).join("");

  // A body: text, or the bytes of one that is none.
  function body(message) {
    const text = message.binary ? hexLines(message.body.match(/../g) ?? []) : message.body;
    const pre = el("pre");
    pre.textContent = cleanBody(text);
    const about = bytes(message.size) + (message.binary ? ", binary" : "") + (message.cut ? ", the beginning" : "");
    return el("div", {}, pre, el("p", { class: "dim", text: about }));
  }

  // Messages that the embedded broker shows without their delivery.
  class Peek {
    constructor(target) {
      this.target = target;
      const states = target.includes("/") ? [["waiting", "Waiting"], ["in_flight", "In flight"], ["deferred", "Deferred"]] : [["held", "Without a group"]];
      const buttons = states.map(([state, label]) => button(label, () => this.look(state), { "data-state": state }));
      this.list = el("div", { id: "peek" });
      this.node = el("div", {}, el("div", { class: "bar" }, el("span", { class: "dim", text: "Show without taking:" }), ...buttons), this.list);
    }

    async look(state) {
      this.list.replaceChildren(el("p", { class: "dim", text: "…" }));
      try {
        const found = await api("/api/peek?state=" + state + "&target=" + encodeURIComponent(this.target));
        const notes = found.errors.map((text) => el("p", { class: "bad", text }));
        if (found.nsqds.length) notes.push(el("p", { class: "dim", text: "nsqd at " + found.nsqds.join(", ") + " shows no message without delivering it. New ones:" }), command("mqueue tail " + this.target.split("/")[0]));
        else if (!found.messages.length && !notes.length) notes.push(el("p", { class: "dim", text: "None." }));
        this.list.replaceChildren(...found.messages.map((message) => el("div", { class: "card message" },
          el("p", { class: "dim", text: [message.id, plural(message.attempts, "attempt"), span(Math.round(message.age_ms / 1000)) + " old",
            message.due_in_ms === null ? "" : (message.client === null ? "due in " : "with " + message.client + ", times out in ") + span(Math.round(message.due_in_ms / 1000)), message.nsqd].filter(Boolean).join(" · ") }),
          message.error ? el("p", { class: "bad", text: message.error }) : body(message))), ...notes);
      } catch (error) {
        this.list.replaceChildren(el("p", { class: "bad", text: error.message }));
      }
    }
  }

  async function copy(text, from) {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    } catch {
      getSelection().selectAllChildren(from);
      say("Selected: copy it with Ctrl-C.");
    }
  }

  function command(text) {
    const pre = el("pre");
    pre.textContent = cleanBody(text);
    return el("div", { class: "copy" }, pre, button("Copy", () => copy(text, pre)));
  }

  function lettersView(stream) {
    if (!stream) return lettersOverview();
    const input = el("input", { type: "search", class: "wide", id: "search", placeholder: "Text in the body, the reason or the group (/)", "aria-label": "Search dead letters" });
    const list = el("div", { id: "letters" });
    const note = el("p", { class: "dim" });
    let searched = "";
    const showLetters = (found) => {
      const shown = found.letters.length;
      note.textContent = (found.complete ? plural(shown, "letter") : "The first " + plural(shown, "letter")) + (searched ? " with " + JSON.stringify(clean(searched)) : "") + ", of " + count(found.total) + ".";
      list.replaceChildren(...found.letters.map((letter) => el("div", { class: "card letter" },
        el("p", {}, el("strong", { text: letter.reason }), el("span", { class: "dim", text: " · " + ["group " + (letter.group ?? "–"), plural(letter.attempts, "attempt"), letter.died ? new Date(letter.died).toISOString().slice(0, 19).replace("T", " ") + " UTC" : "", letter.id].filter(Boolean).join(" · ") })),
        body(letter),
        el("p", {}, el("a", { href: "#/letter/" + [stream, letter.id, letter.group ?? "", letter.died].map(encodeURIComponent).join("/"), text: "Open" })))));
    };
    // The broker shows them without their delivery; nsqd needs a token, and the user's wish.
    const read = async (isAsked) => {
      try {
        return showLetters(await api("/api/letters?stream=" + encodeURIComponent(stream) + "&search=" + encodeURIComponent(searched)));
      } catch (error) {
        if (error.status !== 409) throw error;
      }
      readOnly.hidden = settings.actions;
      if (settings.actions && (isAsked || token())) showLetters(await api("/api/letters/list", { stream, search: searched }));
      else note.textContent = settings.actions ? "Search takes them from nsqd and gives them back." : "";
    };
    const ask = async (verb, isAsked = true) => {
      note.textContent = verb === "list" ? "Reading …" : "Working …";
      buttons.forEach((it) => { it.disabled = true; });
      try {
        if (verb !== "list") {
          const done = await api("/api/letters/" + verb, { stream, search: searched });
          say(done.text + (done.error ? "; stopped: " + done.error : ""));
        }
        await read(isAsked);
      } catch (error) {
        note.textContent = clean(error.message);
      }
      buttons.forEach((it) => { it.disabled = false; });
    };
    const search = () => { searched = input.value.trim(); ask("list"); };
    const acted = async (verb) => {
      searched = input.value.trim();
      const which = (searched ? "All dead letters of " + stream + " with " + JSON.stringify(searched) + " in their body, reason or group" : "All dead letters of " + stream) + " (of " + count(streams.get(stream)?.dead_letters) + ")";
      const [title, lines, word] = verb === "drop"
        ? ["Drop dead letters?", [which + " will be lost. This cannot be undone."], "Drop"]
        : ["Retry dead letters?", [which + " are published again, each to the group that gave it up."], "Retry"];
      if (await confirmed(title, lines, word)) await ask(verb);
    };
    const buttons = [button("Search", search), button("Retry all that match", () => acted("redrive"), { id: "redrive" }), button("Drop all that match", () => acted("drop"), { class: "bad", id: "drop" })];
    input.addEventListener("keydown", (event) => event.key === "Enter" && search());
    const bar = el("div", { class: "bar" }, input, ...buttons);
    const readOnly = el("div", { hidden: true }, el("p", { text: "nsqd shows no message without delivering it, and this page is read-only. In a shell:" }), command("mqueue errors --stream=" + stream));
    const facts = el("p", { class: "dim" });
    main.replaceChildren(el("h1", {}, el("a", { href: "#/letters", text: "dead letters" }), " / ", el("a", { href: linkTo(stream), text: stream })), facts, bar, readOnly, note, list);
    let listed = false;
    const update = () => {
      buttons.slice(1).forEach((it) => { it.hidden = !settings.actions; });
      setText(facts, at ? plural(streams.get(stream)?.dead_letters ?? 0, "dead letter") : "…");
      if (!listed && at) {
        listed = true;
        ask("list", false);
      }
    };
    return { name: "letters", title: "dead letters of " + stream, input, update, back: "#/letters" };
  }

  // One letter, whole, with its own retry and drop.
  function letterView(stream, id, group, died) {
    const back = "#/letters/" + encodeURIComponent(stream);
    const name = { id, group: group || null, died: Number(died) || 0 };
    const note = el("p", { class: "dim", text: "Reading …" });
    const place = el("div", { id: "letter" });
    const readOnly = el("div", { hidden: true }, el("p", { text: "nsqd shows no message without delivering it, and this page is read-only. In a shell:" }), command("mqueue errors --stream=" + stream));
    let shown, asHex = false;
    const pre = el("pre", { class: "whole" });
    const draw = () => {
      asHexButton.textContent = asHex ? "Show text" : "Show bytes";
      if (!shown) return;
      const pairs = () => (shown.binary ? shown.body.match(/../g) ?? [] : [...new TextEncoder().encode(shown.body)].map((byte) => byte.toString(16).padStart(2, "0")));
      const text = () => (shown.binary ? new TextDecoder().decode(Uint8Array.from(pairs(), (pair) => parseInt(pair, 16))) : shown.body);
      pre.textContent = cleanBody(asHex ? hexLines(pairs()) : text());
    };
    const act = async (verb) => {
      const [title, line, word] = verb === "drop"
        ? ["Drop this dead letter?", "The message " + id + " will be lost. This cannot be undone.", "Drop"]
        : ["Retry this dead letter?", "The message " + id + " is published again, to the group that gave it up.", "Retry"];
      if (!(await confirmed(title, [line], word))) return;
      buttons.forEach((it) => { it.disabled = true; });
      try {
        const done = await api("/api/letters/" + verb, { stream, letter: name });
        if (done.error || !done.done) throw new Error(done.error ?? "The letter is not there any more: " + done.text);
        say((verb === "drop" ? "Dropped " : "Published again: ") + id);
        location.hash = back;
      } catch (error) {
        note.textContent = clean(error.message);
      }
      buttons.forEach((it) => { it.disabled = false; });
    };
    const asHexButton = button("Show bytes", () => { asHex = !asHex; draw(); }, { id: "bytes" });
    const buttons = [button("Retry", () => act("redrive"), { id: "redrive" }), button("Drop", () => act("drop"), { class: "bad", id: "drop" })];
    const bar = el("div", { class: "bar" }, ...buttons, asHexButton, button("Copy", () => copy(pre.textContent, pre)));
    const read = async () => {
      try {
        const parameters = new URLSearchParams({ stream, id, died: name.died, ...(name.group ? { group: name.group } : {}) });
        try {
          shown = await api("/api/letter?" + parameters);
        } catch (error) {
          if (error.status !== 409) throw error;
          readOnly.hidden = settings.actions;
          if (!settings.actions) return setText(note, "");
          shown = await api("/api/letters/open", { stream, letter: name });
        }
        const utc = (ms) => (ms ? new Date(ms).toISOString().replace("T", " ").replace("Z", " UTC") : "unknown");
        const facts = [["Reason", shown.reason], ["Stream", shown.stream ?? stream], ["Group", shown.group ?? "–"], ["Attempts", count(shown.attempts)], ["Published", utc(shown.published)],
          ["Given up", utc(shown.died)], ["Message", shown.id], ["Size", bytes(shown.size) + (shown.binary ? ", binary" : "") + (shown.cut ? ", the beginning is shown" : "") + (shown.part ? ", part " + shown.part[0] + " of " + shown.part[1] : "")]];
        asHex = shown.binary;
        draw();
        note.textContent = "";
        place.replaceChildren(el("table", { class: "facts", "aria-label": "Dead letter" }, el("tbody", {}, ...facts.map(([key, value]) => el("tr", {}, el("th", { scope: "row", text: key }), el("td", { text: value }))))), pre);
      } catch (error) {
        note.textContent = clean(error.message);
      }
    };
    main.replaceChildren(el("h1", {}, el("a", { href: back, text: "dead letters of " + stream }), " / ", el("span", { text: id })), bar, note, readOnly, place);
    let isRead = false;
    const update = () => {
      buttons.forEach((it) => { it.hidden = !settings.actions; });
      if (!isRead && at) {
        isRead = true;
        read();
      }
    };
    return { name: "letters", title: "dead letter " + id, update, back };
  }

  function lettersOverview() {
    const body = el("tbody");
    const none = el("p", { class: "dim", hidden: true, text: "No stream has dead letters." });
    const head = el("tr", {}, el("th", { scope: "col", text: "Stream" }), el("th", { scope: "col", class: "n", text: "Dead letters" }));
    main.replaceChildren(el("h1", { text: "Dead letters" }), el("table", { "aria-label": "Streams with dead letters" }, el("thead", {}, head), body), none);
    let shown = "";
    const update = () => {
      const rows = [...streams.values()].filter((row) => row.dead_letters).sort((a, b) => b.dead_letters - a.dead_letters).slice(0, MAX_ROWS);
      none.hidden = rows.length > 0 || !at;
      const now = JSON.stringify(rows.map((row) => [row.stream, row.dead_letters]));
      if (now === shown) return;
      shown = now;
      body.replaceChildren(...rows.map((row) => el("tr", {},
        el("td", { class: "name" }, el("a", { href: "#/letters/" + encodeURIComponent(row.stream), text: row.stream })), el("td", { class: "n", text: count(row.dead_letters) }))));
    };
    return { name: "letters", title: "dead letters", update };
  }

  function doctorView() {
    const list = el("div", { id: "findings" }, el("p", { class: "dim", text: "Looking …" }));
    const again = button("Look again", () => look());
    main.replaceChildren(el("h1", { text: "Doctor" }), el("div", { class: "bar" }, again), list);
    const look = async () => {
      again.disabled = true;
      try {
        const report = await api("/api/doctor");
        if (report.error) throw new Error(report.error);
        const kinds = { error: "bad", warning: "warn", ok: "good", skipped: "dim" };
        list.replaceChildren(...report.findings.map((finding) => el("div", { class: "card finding" },
          el("p", {}, el("strong", { class: kinds[finding.level], text: finding.level }), " " + clean(finding.subject) + ": " + clean(finding.message)),
          finding.fix ? command(finding.fix) : undefined)));
      } catch (error) {
        list.replaceChildren(el("p", { class: "bad", text: error.message }));
      }
      again.disabled = false;
    };
    look();
    return { name: "doctor", title: "doctor" };
  }

  function wakeupView() {
    const place = el("div", { id: "wakeup" }, el("p", { class: "dim", text: "…" }));
    main.replaceChildren(el("h1", { text: "Wakeup" }), place);
    let asked = 0;
    const update = async () => {
      if (!at || Date.now() - asked < 2000) return;
      asked = Date.now();
      if (!settings.wakeup) {
        place.replaceChildren(el("p", { class: "dim", text: "Name the address of wakeup's --listen with --wakeup-http-address to see what it does." }));
        return;
      }
      try {
        const state = await api("/api/wakeup");
        if (!place.isConnected) return;
        if (state.error) throw new Error(state.error);
        const ago = (seconds) => (seconds === null || seconds === undefined ? "never" : since(Date.now() - seconds * 1000) + " ago");
        const rows = (state.groups ?? []).flatMap((group) => (group.sockets ?? []).map((socket) => [
          group.stream + "/" + group.group, count(group.depth), group.asleep ? "asleep" : plural(group.clients, "consumer"), group.paused ? "paused" : "",
          ago(socket.last_poke), count(socket.pokes_without_consumer), socket.trouble ?? "", socket.path]));
        const columns = [["Group", ""], ["Depth", "n"], ["State", ""], ["", "mid"], ["Last poke", "n"], ["Pokes in vain", "n mid"], ["Trouble", ""], ["Socket", "low"]];
        const notes = [...(state.complaints ?? []), ...(state.without_group ?? []).map((it) => it.stream + " on " + it.nsqd + " has " + plural(it.depth, "message") + " and no group"),
          ...(state.sockets_without_group ?? []).map((it) => it.path + ": no stream has the group " + it.group), ...(state.brokers ?? []).map((it) => it.trouble).filter(Boolean)];
        place.replaceChildren(el("p", { text: state.status }), ...notes.map((text) => el("p", { class: "warn", text })),
          rows.length ? plainTable("Sockets", columns, rows.slice(0, MAX_ROWS)) : el("p", { class: "dim", text: "No group has a socket." }));
      } catch (error) {
        place.replaceChildren(el("p", { class: "bad", text: error.message }));
      }
    };
    return { name: "wakeup", title: "wakeup", update };
  }

  function show() {
    const [, name, ...rest] = location.hash.replace(/^#/, "").split("/");
    let parts = [];
    try {
      parts = rest.map(decodeURIComponent);
    } catch {
      // an address that was typed
    }
    const target = parts.join("/");
    view?.close?.();
    const views = { letters: () => lettersView(target), letter: () => (parts[1] ? letterView(...parts) : lettersView(parts[0])), doctor: doctorView, wakeup: wakeupView };
    if (target) views.s = () => detailView(target);
    view = (views[name] ?? streamsView)();
    document.querySelectorAll("nav a").forEach((link) => {
      if (link.dataset.view === view.name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
    document.title = "mqueue: " + clean(view.title);
    view.update?.();
  }

  // ---- keys ----

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("dialog").open) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape") {
      if (typing && event.target.value) {
        event.target.value = "";
        event.target.dispatchEvent(new Event("input"));
      } else if (typing) event.target.blur();
      else if (view.back) location.hash = view.back;
      return;
    }
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && view.table) {
      event.preventDefault();
      return view.table.move(event.key === "ArrowDown" ? 1 : -1);
    }
    if (typing) return;
    const keys = {
      "/": () => view.input?.focus(), "?": showHelp, t: () => settings.actions && changeToken(),
      s: () => { location.hash = "#/"; }, l: () => { location.hash = "#/letters"; }, d: () => { location.hash = "#/doctor"; }, w: () => { location.hash = "#/wakeup"; },
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  async function changeToken() {
    if (!(await askToken(""))) return;
    connection?.abort();
    retryNow();
  }

  addEventListener("hashchange", () => { show(); main.focus({ preventScroll: true }); });
  addEventListener("resize", () => view?.redraw?.());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.redraw?.());
  byId("help").addEventListener("click", showHelp);
  byId("token").addEventListener("click", changeToken);
  show();
  follow();
  loadSparks();
})();
