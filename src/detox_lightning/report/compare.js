"use strict";
const token = document.currentScript.nonce;
const [ask, rows, text, samples, seed, button, state, result, answers] = [
  "ask", "rows", "text", "samples", "seed", "button", "state", "result", "answers",
].map((id) => document.getElementById(id));

const texts = JSON.parse(document.getElementById("texts").textContent);

rows.addEventListener("change", () => {
  text.value = texts[rows.value - 1] ?? "";
  text.focus();
});
text.addEventListener("input", () => {
  rows.value = 0;
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    ask.requestSubmit();
  }
});
ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = {
    text: text.value,
    row: Number(rows.value),
    samples: samples.valueAsNumber,
    seed: seed.valueAsNumber,
  };
  button.disabled = true;
  state.className = "small muted";
  state.textContent = "Both models are answering …";
  let reply;
  try {
    const response = await fetch("answers", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Token": token },
      body: JSON.stringify(question),
    });
    reply = await response.json();
  } catch {
    reply = { error: "The server doesn't answer; it may have ended. Start it again, and load this page again." };
  }
  button.disabled = false;
  state.className = "small error";
  state.textContent = reply.error ?? "";
  result.hidden = !reply.html;
  answers.innerHTML = reply.html ?? "";  // the server has escaped all texts
});
