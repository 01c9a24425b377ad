// The playground: one prompt, decoded with MTP and (if asked) with standard decoding beside it, token by token.
// A client of the public API like any other; it asks this origin only.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST_COLOURS = 5;
let models = [];
let running = null; // AbortController of what streams now

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function showError(text) {
  $("error").hidden = !text;
  $("error").textContent = text || "";
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the endpoint answered ${response.status}`;
  }
}

async function loadModels() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (!response.ok) return showError(await failure(response));
    models = (await response.json()).data;
  } catch (error) {
    return showError(`the endpoint does not answer: ${error.message}`);
  }
  showError("");
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  showModel();
}

const chosen = () => models.find((one) => one.id === $("model").value);
// Other engines than our own decode every request alike, and do not tell how a token came.
const isNative = (model) => !model || model.engine === "native";

function showModel() {
  const model = chosen();
  if (!model) return;
  const most = isNative(model) ? Math.max(model.n_future - 1, 0) : 0;
  const options = [new Option("as served", "")];
  for (let k = 1; k <= most; k++) options.push(new Option(String(k), String(k)));
  $("drafts").replaceChildren(...options);
  $("compare").disabled = most === 0;
  $("legend").replaceChildren(swatch(0, "target"), ...Array.from({ length: most }, (_, k) => swatch(k + 1, `draft ${k + 1}`)));
  const percent = (values) => values.map((value) => `${Math.round(100 * value)} %`).join(", ");
  const card = model.card || {};
  const rows = [
    ["serves", model.versions.map((one) => `${one.uri}${model.versions.length > 1 ? ` (weight ${one.weight})` : ""}`).join(", ")],
    ["context", `${model.max_model_len} tokens`],
    ["horizons", model.n_future],
    ["engine", isNative(model) ? null : model.engine],
    ["perplexity", card.perplexity && card.perplexity.toFixed(2)],
    ["acceptance", card.acceptance && card.acceptance.length ? percent(card.acceptance) : null],
    ["tokens per step", card.tokens_per_step && card.tokens_per_step.toFixed(2)],
    ["aliases", card.aliases && card.aliases.join(", ")],
    ["run", card.run],
    ["data", card.data],
    ["registered", card.created],
    ["note", model.note],
  ];
  const body = $("card").querySelector("tbody");
  body.replaceChildren(
    ...rows.filter(([, value]) => value).map(([name, value]) => {
      const row = document.createElement("tr");
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
      return row;
    }),
  );
}

function swatch(origin, text) {
  const item = document.createElement("span");
  item.className = `o${Math.min(origin, MOST_COLOURS)}`;
  item.textContent = text;
  return item;
}

// Events of a stream of server-sent events, as parsed JSON; ends at [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream ended early");
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const data = buffer.slice(0, end).replace(/^data: /, "");
      buffer = buffer.slice(end + 2);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function request(decoder) {
  const seed = $("seed").value;
  const drafts = decoder === "mtp" ? $("drafts").value : "";
  return {
    model: $("model").value,
    prompt: $("prompt").value,
    max_tokens: Number($("max_tokens").value),
    temperature: Number($("temperature").value),
    ...(seed === "" ? {} : { seed: Number(seed) }),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...(isNative(chosen())
      ? { speculation: { decoder, origins: true, ...(drafts ? { num_draft_tokens: Number(drafts) } : {}) } }
      : {}),
  };
}

async function decode(panel, signal) {
  const output = panel.querySelector(".output");
  const figures = panel.querySelector(".figures");
  const prompt = document.createElement("span");
  prompt.className = "prompt";
  prompt.textContent = $("prompt").value;
  output.replaceChildren(prompt);
  figures.textContent = "waiting";
  const began = performance.now();
  const response = await fetch("/v1/completions", {
    method: "POST",
    headers: headers(),
    body: JSON.stringify(request(panel.dataset.decoder)),
    signal,
  });
  if (!response.ok) throw new Error(await failure(response));
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    for (const [text, origin] of event.choices.flatMap((choice) => choice.origins || [[choice.text, null]])) {
      const item = swatch(origin || 0, text);
      if (origin !== null) item.title = origin ? `accepted draft ${origin}` : "the target's own";
      output.append(item);
    }
    output.scrollTop = output.scrollHeight;
    if (event.usage) figures.textContent = figuresOf(event.usage, (performance.now() - began) / 1000);
  }
}

function figuresOf(usage, seconds) {
  const rate = ` · ${(usage.completion_tokens / seconds).toFixed(0)} tokens/s`;
  const { steps, tokens_per_step: perStep } = usage.speculation;
  return `${usage.completion_tokens} tokens in ${steps} steps · ${perStep.toFixed(2)} tokens/step${rate}`;
}

async function generate(event) {
  event.preventDefault();
  if (running) return;
  showError("");
  running = new AbortController();
  $("run").disabled = true;
  $("stop").disabled = false;
  const model = chosen();
  const plain = model && model.decoder === "standard";
  try {
    for (const panel of document.querySelectorAll("#panels section")) {
      const wanted = panel.dataset.decoder === "mtp" ? !plain : plain || ($("compare").checked && isNative(model));
      panel.hidden = !wanted;
      if (wanted) await decode(panel, running.signal); // one after the other: side by side in fairness
    }
  } catch (error) {
    showError(error.name === "AbortError" ? "" : error.message);
  } finally {
    running = null;
    $("run").disabled = false;
    $("stop").disabled = true;
  }
}

$("form").addEventListener("submit", generate);
$("stop").addEventListener("click", () => running && running.abort());
$("model").addEventListener("change", showModel);
$("key").addEventListener("change", loadModels);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
loadModels();
