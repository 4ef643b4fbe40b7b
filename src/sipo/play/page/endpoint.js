// The server's endpoints, with what goes wrong in words. The key stays in this tab's session.
const KEY = "sipo-key";

export class Problem extends Error {
  constructor(message, status = 0, retry = null) {
    super(message);
    this.status = status;
    this.retry = retry; // seconds after which to ask again
  }
}

export const useKey = (key) => sessionStorage.setItem(KEY, key);

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};

const GONE = "The server does not answer. Is it still running? Start it again where it was, then ask once more.";

const said = async (answer) => {
  let message = "";
  try {
    message = (await answer.json()).error.message;
  } catch {
    message = `the server answered ${answer.status}`;
  }
  const sentence = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  const retry = Number(answer.headers.get("Retry-After")) || null;
  if (answer.status === 401) return new Problem("The server wants a key that it knows.", 401);
  if (answer.status === 429) return new Problem(`The server is full: ${message}.`, 429, retry ?? 5);
  return new Problem(sentence, answer.status, retry);
};

const call = async (path, body, signal) => {
  const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { ...how, headers: headers(), signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem(GONE);
  }
  if (!answer.ok) throw await said(answer);
  return answer;
};

// Without a name, the first of those that are served.
export const about = async (run) => (await call(run ? `sipo/run?name=${encodeURIComponent(run)}` : "sipo/run")).json();

export const worth = async (body, signal) => (await call("sipo/worth", body, signal)).json();

// Server-sent events of a body, as they come: the data of each.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split(/\r?\n\r?\n/);
    held = whole.pop();
    for (const event of whole) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

// Asks for an answer and hears it piece by piece; resolves to what is known once it is whole.
export const answer = async (body, signal, hear) => {
  const { body: stream } = await call("v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const found = { text: "", finish: null, tokens: null };
  try {
    for await (const data of events(stream)) {
      if (data === "[DONE]") return found;
      const piece = JSON.parse(data);
      if (piece.error) throw new Problem(`The answer broke off: ${piece.error.message}.`);
      if (piece.usage) found.tokens = piece.usage.completion_tokens;
      for (const choice of piece.choices) {
        found.finish = choice.finish_reason ?? found.finish;
        if (choice.delta.content) {
          found.text += choice.delta.content;
          hear(choice.delta.content);
        }
      }
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
  }
  throw new Problem("The answer broke off: the server has gone. What had come stands above.");
};
