// Requests to the server, with the token that they show.

import { token } from "./storage.js";

const WAIT_MS = 15_000; // for an answer; longer than that is as bad as none

// An answer that says no: RFC 9457. `status` 0 is none at all.
export class Problem extends Error {
  constructor(status, { code = "", title = "", detail = "" } = {}) {
    super(detail || title || `The server answered ${status}.`);
    this.status = status;
    this.code = code;
    this.title = title || this.message;
  }

  // The field of a body that it is about, as `dead_letter.queue`; empty when it names none.
  get field() {
    if (this.code === "invalid_queue_name" || this.code === "queue_exists") return "name";
    return /`\$\.([\w.]+)[`[]/.exec(this.message)?.[1] ?? "";
  }

  // What is wrong, without the place.
  get sentence() {
    return this.message.replace(/ - at `\$[^`]*`\.?/, "");
  }
}

// The JSON of an answer, read by `parse`, and null where it has none. Throws `Problem`. `body` is a value, or JSON text
// as it is.
export async function call(method, path, { body, signal, parse = JSON.parse } = {}) {
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const signals = [AbortSignal.timeout(WAIT_MS), ...(signal ? [signal] : [])];
  let reply, text;
  try {
    reply = await fetch(path, {
      method,
      headers,
      body: typeof body === "string" || body === undefined ? body : JSON.stringify(body),
      signal: AbortSignal.any(signals),
      cache: "no-store",
      redirect: "error",
    });
    text = await reply.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { title: "The server does not answer." });
  }
  const found = text ? parsed(text, parse) : null;
  if (!reply.ok) throw new Problem(reply.status, found ?? {});
  return found;
}

function parsed(text, parse) {
  try {
    return parse(text);
  } catch {
    throw new Problem(0, { title: "The answer is not from tq." });
  }
}

export const at = (name, ...rest) => ["/queues", encodeURIComponent(name), ...rest].join("/");
