// The client of ringhub.v1 for browsers, workers and Node; docs/client-js.md describes it. The server has it in a shorter
// form, client.min.js, which a test of the repository writes.

// What went wrong: with a command, an opening request, a token function or a connection.
export class RinghubError extends Error {
  constructor(name, reason, members) {
    super(reason);
    Object.assign(this, { name, temporary: false }, members);
  }
}

// Times in milliseconds; `queue` counts commands.
const DEFAULTS = {
  minDelay: 500, maxDelay: 30000, stableAfter: 10000, pingInterval: 25000, timeout: 10000, queue: 256, wait: true,
};
// The server takes 256 commands of a connection that have no answer.
const UNANSWERED_MAX = 128;
// RFC 9110 5.6.2: the names that a subprotocol may have.
const PROTOCOL = /^[\w!#$%&'*+.^`|~-]+$/;

const fault = ({ code, name, reason, temporary }) => new RinghubError(name, reason, { code, temporary });
const passing = (name, reason, code) => new RinghubError(name, reason, { code, temporary: true });

// Returns the member of a command that has the payload: bytes, or a value of JSON.
function payload(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data)
    : ArrayBuffer.isView(data) && new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return bytes ? { base64: btoa(Array.from(bytes, octet => String.fromCharCode(octet)).join("")) } : { data };
}

// Reads a binary frame.
function unpack(packed) {
  const view = new DataView(packed), topicEnd = 24 + view.getUint16(2), begin = topicEnd + view.getUint16(4);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const text = (...range) => decoder.decode(packed.slice(...range));
  const kind = view.getUint8(1), offset = Number(view.getBigUint64(16)), bytes = new Uint8Array(packed, begin);
  const message = { topic: text(24, topicEnd), bytes, data: kind === 2 ? bytes : text(begin) };
  if (kind === 1) message.data = JSON.parse(message.data);
  if (offset) Object.assign(message, { epoch: String(view.getBigUint64(8)), offset });
  if (begin > topicEnd) message.event = text(topicEnd, begin);
  return view.getUint8(0) === 1 ? { message } : {};
}

// A connection to a hub. When it is lost it is opened again, with the same subscriptions.
export class Ringhub extends EventTarget {
  #url; #options; #state = "closed"; #timer; #attempts = 0; #refusals = 0; #isHeard; #id = 0;
  // The present attempt, with its socket. Events of earlier sockets are ignored.
  #turn;
  // Subscriptions by topic, and by the server's name; commands that are not sent; commands without an answer, by id.
  #topics = new Map(); #names = new Map(); #queue = []; #sent = new Map();

  constructor(url = new URL("ws", import.meta.url), options) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#options = { WebSocket: globalThis.WebSocket, ...DEFAULTS, ...options };
    if (!this.#options.WebSocket) throw new TypeError("the option WebSocket is missing");
    this.connect();
  }

  get state() { return this.#state; }

  // Connects now, if the client is closed or waits.
  connect() {
    if (!this.#turn) this.#open();
  }

  close(code = 1000, reason = "") {
    if (this.#state === "closed") return;
    const socket = this.#turn?.socket;
    this.#end({ code, reason });
    socket?.close(code, reason);
  }

  subscribe(topic, { wait = this.#options.wait, ...how } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#topics.has(topic)) throw new RinghubError("already_subscribed", topic, { code: 110 });
      this.#check(wait);
      const entry = { topic, how, resolve, reject };
      this.#topics.set(topic, entry);
      if (this.#state === "open") this.#subscribe(entry);
    });
  }

  async unsubscribe(topic) {
    const entry = this.#topics.get(topic);
    this.#topics.delete(topic);
    if (this.#state === "open") return this.#command("unsubscribe", { topic }).catch(error => {
      // The server may have ended the subscription in the same moment.
      if (!entry || error.code !== 111) throw error;
      return { topic };
    });
    entry?.reject?.(new RinghubError("cancelled", topic, { code: 114 }));
    return { topic };
  }

  async publish(topic, data, { event, key, id, receipt, wait } = {}) {
    return this.#command("publish", { topic, ...payload(data), event, key, idempotency_key: id, receipt }, wait);
  }

  // Shows the server a new token: this one, or the token function's.
  async refresh(token) {
    if (token && !this.#asks) this.#options.token = token;
    return this.#command("refresh", { token: token ?? (await this.#token()) });
  }

  // Returns the milliseconds until the answer.
  async ping() {
    const begin = performance.now();
    await this.#command("ping");
    return performance.now() - begin;
  }

  get #asks() { return typeof this.#options.token === "function"; }

  async #token() {
    return this.#asks ? this.#options.token() : this.#options.token;
  }

  #emit(type, members) {
    const event = new Event(type);
    for (const name in members) if (!(name in event)) event[name] = members[name];
    this.dispatchEvent(event);
  }

  #become(state, members) {
    this.#state = state;
    this.#emit("state", { state, ...members });
    if (members?.error) this.#emit("error", members);
  }

  // Throws unless a command may be sent, or wait.
  #check(wait, waiting = 0) {
    if (this.#state === "open") return;
    if (this.#state === "closed") throw new RinghubError("closed", "the client is closed");
    if (!wait) throw passing("offline", "there is no connection");
    if (waiting >= this.#options.queue) throw passing("queue_full", "too many commands wait");
  }

  #command(kind, members, wait = this.#options.wait, entry) {
    return new Promise((resolve, reject) => {
      this.#check(wait, this.#queue.length);
      const id = this.#id++, text = JSON.stringify({ [kind]: { id, ...members } });
      this.#queue.push({ id, kind, text, topic: members?.topic, wait, entry, resolve, reject });
      this.#flush();
    });
  }

  #flush() {
    while (this.#state === "open" && this.#queue.length && this.#sent.size < UNANSWERED_MAX) {
      const command = this.#queue.shift();
      this.#sent.set(command.id, command);
      this.#turn.socket.send(command.text);
    }
  }

  #subscribe(entry) {
    const { topic, how } = entry, turn = this.#turn, isMeant = () => this.#topics.get(topic) === entry;
    this.#command("subscribe", { topic, ...how }, true, entry).catch(error => {
      if (entry.reject) {
        if (isMeant()) this.#topics.delete(topic);
        entry.reject(error);
      } else if (isMeant() && error.temporary) {
        const again = () => turn === this.#turn && isMeant() && this.#subscribe(entry);
        setTimeout(again, Math.random() * this.#options.maxDelay);
      } else if (isMeant() && error.code !== 110) {
        this.#topics.delete(topic);
        this.#emit("unsubscribed", { topic, error });
      }
    });
  }

  async #open() {
    const turn = this.#turn = {}, protocols = ["ringhub.v1"], url = new URL(this.#url);
    clearTimeout(this.#timer);
    this.#become("connecting");
    try {
      const token = turn.token = await this.#token();
      if (turn !== this.#turn) return;
      if (PROTOCOL.test(token ?? "")) protocols.push("access_token", token);
      else if (token) url.search += `${url.search && "&"}access_token=${encodeURIComponent(token)}`;
      const socket = turn.socket = new this.#options.WebSocket(url.href, protocols);
      this.#timer = setTimeout(() => this.#lost(turn, 1006), this.#options.timeout);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => turn === this.#turn && this.#opened(turn);
      socket.onmessage = ({ data }) => turn === this.#turn && this.#receive(data);
      socket.onclose = ({ code, reason }) => this.#lost(turn, code, reason);
      socket.onerror = () => {};
    } catch (error) {
      this.#lost(turn, 1006, "", error);
    }
  }

  #opened(turn) {
    turn.openedAt = performance.now();
    this.#refusals = 0;
    this.#state = "open";
    // Subscriptions stand before what has waited.
    const waiting = this.#queue.splice(0);
    this.#topics.forEach(entry => this.#subscribe(entry));
    this.#queue.push(...waiting);
    this.#flush();
    this.#beat(turn);
    this.#become("open");
  }

  // After a silence the server is asked for a sign of life.
  #beat(turn, isAsked) {
    clearTimeout(this.#timer);
    this.#isHeard = false;
    this.#timer = setTimeout(() => {
      if (isAsked && !this.#isHeard) return this.#lost(turn, 1006);
      const isSilent = !this.#isHeard;
      this.#beat(turn, isSilent);
      if (isSilent) this.ping().catch(() => {});
    }, isAsked ? this.#options.timeout : this.#options.pingInterval);
  }

  #receive(data) {
    this.#isHeard = true;
    let frame;
    try {
      frame = typeof data === "string" ? JSON.parse(data) : unpack(data);
    } catch (error) {
      return this.#emit("error", { error });
    }
    const { message, lagged, subscribed, unsubscribed, error } = frame;
    if (message) {
      const { base64 } = message;
      if (base64 !== undefined) message.data = Uint8Array.from(atob(base64), octet => octet.charCodeAt());
      this.#place(message);
      return this.#emit("message", message);
    }
    if (lagged) return this.#emit("lagged", lagged);
    const { id, ...answer } = Object.values(frame)[0] ?? {}, { topic } = answer;
    const command = this.#sent.get(id), entry = command?.entry;
    this.#sent.delete(id);
    if (!error) command?.resolve(answer);
    else if (command) command.reject(fault(error));
    else this.#emit("error", { error: fault(error) });
    if (subscribed) {
      const resubscribed = !!entry && !entry.reject;
      entry?.resolve(answer);
      if (entry) {
        entry.reject = null;
        this.#names.set(topic, entry);
      }
      this.#place(answer);
      this.#emit("subscribed", { ...answer, resubscribed });
    } else if (unsubscribed) {
      const ended = this.#names.get(topic);
      if (!command && this.#topics.get(ended?.topic) === ended) this.#topics.delete(ended?.topic);
      this.#emit("unsubscribed", { topic, error: answer.code && fault(answer) });
    }
    this.#flush();
  }

  // Notes where another connection goes on.
  #place({ topic, epoch, offset }) {
    const entry = this.#names.get(topic);
    if (entry && epoch) entry.how = { echo: entry.how.echo, since: `${epoch}.${offset}` };
  }

  async #lost(turn, code, reason = "the server does not answer", failure) {
    if (turn !== this.#turn) return;
    const now = this.#turn = {}, { minDelay, maxDelay, stableAfter, shouldReconnect } = this.#options;
    clearTimeout(this.#timer);
    turn.socket?.close();
    // While a connection is open there is no pause here: `#flush` must not send any more.
    const error = turn.openedAt ? undefined : failure ?? (await this.#refusal(turn.token));
    if (now !== this.#turn) return;
    // A slow consumer may keep up on another connection.
    const isFinal = turn.openedAt ? (code === 1008 && !reason.startsWith("slow consumer")) || (code >= 4000 && !(code === 4401 && this.#asks))
      : error.status && !error.temporary && !(error.status === 401 && this.#asks && !this.#refusals++);
    const end = { code, reason, error };
    if (!(shouldReconnect?.({ ...end, isFinal: !!isFinal }) ?? !isFinal)) {
      end.error ??= new RinghubError("closed", `closed with ${code} ${reason}`, { code });
      return this.#end(end);
    }
    this.#turn = null;
    this.#state = "waiting";
    this.#drop(passing("disconnected", "the connection broke before the answer", code));
    if (performance.now() - turn.openedAt > stableAfter) this.#attempts = 0;
    let delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** this.#attempts++);
    // A server that leaves has chosen a delay at random.
    try { delay = Math.min(maxDelay, JSON.parse(reason).retry_after_ms ?? delay); } catch {}
    this.#timer = setTimeout(() => this.connect(), delay);
    this.#become("waiting", { ...end, delay });
  }

  // Asks for the reason of a failed opening, which a WebSocket does not tell.
  async #refusal(token) {
    const url = new URL(this.#url);
    url.protocol = url.protocol.replace("ws", "http");
    url.searchParams.delete("binary");
    // Without a token, cookies may count.
    const how = token ? { headers: { Authorization: `Bearer ${token}` } } : { credentials: "include" };
    try {
      const response = await fetch(url, { ...how, signal: AbortSignal.timeout(this.#options.timeout) });
      const { status } = response;
      let reason = await response.text();
      try { reason = JSON.parse(reason).error ?? reason; } catch {}
      // The status 426 means that only the upgrade is missing.
      const temporary = status < 400 || status >= 500 || [408, 425, 426, 429].includes(status);
      return new RinghubError("refused", reason, { status, temporary });
    } catch {
      return passing("unreachable", "the server does not answer");
    }
  }

  // Fails the commands that do not wait for the next connection.
  #drop(error) {
    const commands = [...this.#sent.values(), ...this.#queue];
    this.#queue = [];
    for (const command of commands) {
      const { kind, topic, entry, wait } = command, wasSent = this.#sent.delete(command.id);
      if (entry && this.#topics.get(topic) === entry) continue;
      if (kind === "unsubscribe") command.resolve({ topic });
      else if (wasSent || !wait || this.#state === "closed") command.reject(error);
      else this.#queue.push(command);
    }
  }

  #end(end) {
    const error = end.error ?? new RinghubError("closed", "the client is closed");
    clearTimeout(this.#timer);
    this.#turn = null;
    this.#state = "closed";
    this.#drop(error);
    this.#topics.forEach(({ reject }, topic) => reject && (this.#topics.delete(topic), reject(error)));
    this.#become("closed", end);
  }
}
