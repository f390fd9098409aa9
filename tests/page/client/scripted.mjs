// The client with WebSockets that follow a script: the test vectors, close codes, delays, and a server that falls silent.
//
//     node --test tests/page/client/scripted.mjs

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, test } from "node:test";
import { setImmediate as soon, setTimeout as pause } from "node:timers/promises";
import { Ringhub, RinghubError } from "../../../src/surface/client.min.js";

const URL_OF_HUB = "ws://hub.test/ws";

// The answer to the question why no connection opens; without one the hub is not reached.
let answerToFetch = null;
globalThis.fetch = async (url, options) => {
  if (!answerToFetch) throw new TypeError("fetch failed");
  return answerToFetch(String(url), options);
};

// Makes a class of WebSockets. `sockets` has all that were made; `onmade` may act on each.
function script(onmade = socket => socket.open()) {
  const sockets = [];
  class Scripted {
    sent = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
      queueMicrotask(() => onmade(this, sockets.length));
    }
    open() { this.onopen({}); }
    send(text) { this.sent.push(text); this.onsent?.(JSON.parse(text)); }
    say(frame) { this.onmessage({ data: typeof frame === "string" || frame instanceof ArrayBuffer ? frame : JSON.stringify(frame) }); }
    end(code = 1006, reason = "") { this.onclose({ code, reason }); }
    close(code) { this.closedWith = code ?? "closed"; }
    get last() { return JSON.parse(this.sent.at(-1)); }
  }
  return { Scripted, sockets };
}

const hubs = [];
// A failed test leaves its client open, whose timers keep Node running.
afterEach(() => hubs.splice(0).forEach(hub => hub.close()));

function client(options, onmade) {
  const { Scripted, sockets } = script(onmade);
  const hub = new Ringhub(URL_OF_HUB, { WebSocket: Scripted, minDelay: 1, maxDelay: 2, ...options });
  hubs.push(hub);
  const events = [];
  for (const type of ["message", "lagged", "subscribed", "unsubscribed", "error", "state"]) {
    hub.addEventListener(type, event => {
      const { isTrusted, ...members } = Object.fromEntries(Object.entries(event));
      events.push({ type, ...members });
    });
  }
  return { hub, sockets, events, of: type => events.filter(event => event.type === type) };
}

const failure = promise => promise.then(value => assert.fail(`resolved: ${JSON.stringify(value)}`), error => error);
const until = async is => {
  for (const end = performance.now() + 10_000; !is();) {
    assert(performance.now() < end, `never: ${is}`);
    await pause(1);
  }
};
const opened = hub => until(() => hub.state === "open");

// ---- Test vectors

const { vectors } = JSON.parse(readFileSync(new URL("../../vectors/ringhub.v1.json", import.meta.url), "utf8"));
const EPOCH = "6019237467231046";
const EPOCH_HEX = BigInt(EPOCH).toString(16).padStart(16, "0");

// Returns the call of the client that sends a command, or null for what the client never sends.
function call(hub, text) {
  let command;
  try { command = JSON.parse(text); } catch { return null; }
  const [[kind, members] = []] = Object.entries(command ?? {});
  const { id, topic, echo, since, last, token, event, key, data, base64, idempotency_key: once, receipt, ...others } = members ?? {};
  const again = JSON.stringify({ [kind]: members });
  if (id === undefined || Object.keys(others).length || again !== JSON.stringify(command)) return null;
  const isText = value => typeof value === "string";
  if (kind === "ping" && data === undefined && Number.isSafeInteger(id) && id >= 0) return () => hub.ping();
  if (kind === "refresh" && isText(token)) return () => hub.refresh(token);
  if (!isText(topic)) return null;
  if (kind === "subscribe" && echo !== 1) return () => hub.subscribe(topic, { echo, since, last });
  if (kind === "unsubscribe") return () => hub.unsubscribe(topic);
  if (kind !== "publish" || (data === undefined) === (base64 === undefined)) return null;
  if (base64 === undefined) return () => hub.publish(topic, data, { event, key, id: once, receipt });
  const bytes = Buffer.from(String(base64), "base64");
  return bytes.toString("base64") === base64 ? () => hub.publish(topic, new Uint8Array(bytes), { event, key, id: once, receipt }) : null;
}

function member(text, name) {
  return JSON.parse(text)?.[Object.keys(JSON.parse(text))[0]]?.[name];
}

// Plays the part of the server for one client of a vector.
async function play(steps, path) {
  const { hub, sockets, events, of } = client();
  await opened(hub);
  const [socket] = sockets, calls = new Map(), counts = { sent: 0, answered: 0, messages: 0 };
  for (const { send, expect, expect_hex } of steps) {
    if (send !== undefined) {
      const act = call(hub, send);
      if (!act) continue;
      const before = socket.sent.length, promise = act();
      promise.catch(() => {});
      await soon();
      const id = member(send, "id");
      if (socket.sent.length === before) {
        // The client refuses a second subscription itself.
        calls.set(id, { promise });
        continue;
      }
      const sent = socket.last, [kind] = Object.keys(sent), { id: own, ...members } = sent[kind];
      const { id: _, ...meant } = JSON.parse(send)[kind];
      assert.deepEqual(members, meant, path);
      calls.set(id, { promise, own });
      counts.sent++;
    } else if (expect !== undefined) {
      const text = expect.replaceAll("<epoch>", EPOCH).replaceAll("<reason>", "some reason");
      const frame = JSON.parse(text), [kind] = Object.keys(frame), body = frame[kind];
      const asked = calls.get(body.id);
      if (asked && asked.own !== undefined) body.id = asked.own;
      const seen = events.length;
      // The bytes of `data` stay as they are.
      socket.say(asked ? frame : text);
      await soon();
      if (kind === "message") {
        const { type, base64, data, ...place } = { ...of("message").at(-1) };
        const { base64: encoded, data: value, ...meant } = body;
        assert.deepEqual(place, meant, path);
        if (encoded === undefined) assert.deepEqual(data, value);
        else assert.deepEqual(data, new Uint8Array(Buffer.from(encoded, "base64")));
        counts.messages++;
      } else if (asked && kind === "error") {
        const error = await failure(asked.promise);
        assert(error instanceof RinghubError);
        assert.deepEqual([error.code, error.name, error.temporary], [body.code, body.name, body.temporary], path);
        counts.answered++;
      } else if (asked) {
        const { id: _, ...meant } = body, answer = await asked.promise;
        if (kind === "pong") assert(answer >= 0);
        else assert.deepEqual(answer, meant, path);
        counts.answered++;
      } else {
        const isSilent = ["pong", "presence", "presence_changed"].includes(kind);
        assert.equal(events[seen]?.type, isSilent ? undefined : kind, path);
        if (kind === "error") assert.equal(events[seen].error.name, body.name);
      }
      calls.delete(asked && [...calls].find(([, value]) => value === asked)?.[0]);
    } else if (expect_hex !== undefined) {
      const bytes = Buffer.from(expect_hex.replace("<epoch>", EPOCH_HEX), "hex");
      socket.say(new Uint8Array(bytes).buffer);
      const message = of("message").at(-1);
      assert.equal(message?.topic, bytes.toString("utf8", 24, 24 + bytes.readUInt16BE(2)), path);
      assert.deepEqual([message.epoch, message.offset], [EPOCH, Number(bytes.readBigUInt64BE(16))]);
      const payload = bytes.subarray(24 + bytes.readUInt16BE(2) + bytes.readUInt16BE(4));
      assert.deepEqual(Buffer.from(message.bytes), payload);
      const data = [() => payload.toString(), () => JSON.parse(payload), () => new Uint8Array(payload)][bytes[1]]();
      assert.deepEqual(message.data, data);
      counts.messages++;
    }
  }
  hub.close();
  return counts;
}

test("the vectors", async () => {
  const sum = { sent: 0, answered: 0, messages: 0 };
  for (const { name, steps } of vectors) {
    const clients = new Set(steps.filter(step => step.protocols?.[0] === "ringhub.v1").map(step => step.client));
    for (const own of clients) {
      const counts = await play(steps.filter(step => step.client === own), `${name}, ${own}`);
      for (const key in sum) sum[key] += counts[key];
    }
  }
  assert(vectors.length >= 20 && sum.sent >= 50 && sum.answered >= 50 && sum.messages >= 25, JSON.stringify(sum));
});

// ---- Opening

test("tokens stand among the subprotocols, or in the query", async () => {
  for (const [token, protocols, search] of [
    [undefined, [], ""], ["abc.d-e_f~", ["access_token", "abc.d-e_f~"], ""], ["a/b=", [], "?access_token=a%2Fb%3D"],
    [async () => "fresh", ["access_token", "fresh"], ""], [() => null, [], ""],
  ]) {
    const { hub, sockets } = client({ token });
    await opened(hub);
    assert.deepEqual([sockets[0].protocols, sockets[0].url], [["ringhub.v1", ...protocols], URL_OF_HUB + search]);
    hub.close();
  }
});

test("http addresses and queries are taken", async () => {
  const { Scripted, sockets } = script();
  const hub = new Ringhub("https://hub.test/ws?binary=true", { WebSocket: Scripted, token: "a b" });
  await opened(hub);
  assert.equal(sockets[0].url, "wss://hub.test/ws?binary=true&access_token=a%20b");
  // A path of topics would refuse this key of the query without the upgrade.
  const asked = [];
  answerToFetch = url => asked.push(url) && new Response("", { status: 404 });
  hub.close();
  const other = new Ringhub("https://hub.test/t/x?binary=true&echo=true", { WebSocket: script(it => it.end()).Scripted });
  await until(() => other.state === "closed");
  answerToFetch = null;
  assert.deepEqual(asked, ["https://hub.test/t/x?echo=true"]);
  assert.throws(() => new Ringhub(URL_OF_HUB, { WebSocket: undefined }), TypeError);
});

test("a token function is asked for each connection", async () => {
  let asked = 0;
  const { hub, sockets } = client({ token: () => `t${++asked}` });
  await opened(hub);
  sockets[0].end(4401, "token expired");
  await until(() => sockets.length === 2);
  assert.equal(sockets[1].protocols[2], "t2");
  await opened(hub);
  const refreshed = hub.refresh();
  await soon();
  assert.deepEqual(sockets[1].last.refresh.token, "t3");
  sockets[1].say({ refreshed: { id: sockets[1].last.refresh.id } });
  assert.deepEqual(await refreshed, {});
  hub.close();
});

test("a token function that fails is asked again", async () => {
  let asked = 0;
  const { hub, of } = client({ token: () => { if (++asked === 1) throw new Error("no session"); return "t"; } });
  await opened(hub);
  assert.deepEqual(of("error").map(({ error }) => error.message), ["no session"]);
  hub.close();
});

test("an expired token that is no function's is final", async () => {
  const { hub, sockets, of } = client({ token: "old" });
  await opened(hub);
  sockets[0].end(4401, "token expired");
  assert.equal(hub.state, "closed");
  assert.deepEqual(of("error").map(({ error }) => [error.name, error.code]), [["closed", 4401]]);
});

test("a refused opening is explained, and final if it cannot pass", async () => {
  for (const [status, token, most] of [
    [400, undefined, 1], [401, "t", 1], [401, () => "t", 2], [403, () => "t", 1], [404, undefined, 1], [426, undefined, 9],
    [408, "t", 9], [429, "t", 9], [503, "t", 9], [200, undefined, 9],
  ]) {
    const asked = [];
    answerToFetch = (url, options) => {
      asked.push([url, options]);
      return new Response(status === 404 ? "nothing" : '{"error":"why","status":1}', { status });
    };
    const { hub, sockets, of } = client({ token }, (socket, count) => count < 9 ? socket.end() : socket.open());
    await until(() => hub.state === (most === 9 ? "open" : "closed"));
    assert.equal(sockets.length, most, `${status}`);
    const { name, status: told, message, temporary } = of("error").at(-1).error;
    assert.deepEqual([name, told, message, temporary], ["refused", status, status === 404 ? "nothing" : "why", most === 9]);
    const [url, { headers, credentials }] = asked[0];
    assert.equal(url, "http://hub.test/ws");
    assert.deepEqual([headers?.Authorization, credentials], token ? ["Bearer t", undefined] : [undefined, "include"]);
    hub.close();
  }
  answerToFetch = null;
  const { hub, of } = client({}, (socket, count) => count < 5 ? socket.end() : socket.open());
  await opened(hub);
  assert.deepEqual(of("error").map(({ error }) => error.name), Array(4).fill("unreachable"));
  hub.close();
});

// ---- The end of connections

test("close codes decide whether the client comes back", async () => {
  for (const [code, reason, comes] of [
    [1000, "", true], [1001, "", true], [1002, "", true], [1006, "", true], [1009, "", true], [1011, "", true],
    [1012, '{"retry_after_ms":1}', true], [1012, "later", true], [1012, "null", true], [1013, "", true], [3000, "", true],
    [1008, "slow consumer", true], [1008, "slow consumer, and the server is short of memory", true], [1008, "", false],
    [1008, "revoked", false], [4008, "slow consumer", false], [4000, "", false], [4401, "token expired", false], [4999, "", false],
  ]) {
    const { hub, sockets, of } = client();
    await opened(hub);
    sockets[0].end(code, reason);
    assert.equal(hub.state, comes ? "waiting" : "closed", `${code}`);
    if (comes) await until(() => sockets.length === 2);
    else await pause(10);
    assert.equal(sockets.length, comes ? 2 : 1, `${code}`);
    assert.equal(of("state").find(({ state }) => state === (comes ? "waiting" : "closed")).code, code);
    hub.close();
  }
});

test("the caller may decide otherwise", async () => {
  const ends = [];
  const { hub, sockets } = client({ shouldReconnect: end => { ends.push(end); return end.code === 1008; } });
  await opened(hub);
  sockets[0].end(1008, "revoked");
  await until(() => sockets.length === 2 && hub.state === "open");
  sockets[1].end(1001);
  assert.equal(hub.state, "closed");
  assert.deepEqual(ends.map(({ code, isFinal }) => [code, isFinal]), [[1008, true], [1001, false]]);
});

test("delays double up to the longest, are random, and begin again after a stable connection", async context => {
  let now = 1, random = 0.999999, last = 0;
  const timers = new Map();
  context.mock.method(globalThis, "setTimeout", (act, delay) => timers.set(++last, { act, at: now + delay }) && last);
  context.mock.method(globalThis, "clearTimeout", timer => timers.delete(timer));
  context.mock.method(performance, "now", () => now);
  context.mock.method(Math, "random", () => random);
  const go = by => {
    now += by;
    for (const [timer, { act, at }] of timers) if (at <= now && timers.delete(timer)) act();
  };
  const { Scripted, sockets } = script();
  const options = { minDelay: 100, maxDelay: 1000, stableAfter: 5000, pingInterval: 1e6, timeout: 1e6 };
  const hub = new Ringhub(URL_OF_HUB, { ...options, WebSocket: Scripted }), delays = [];
  hub.addEventListener("state", ({ state, delay }) => state === "waiting" && delays.push(Math.round(delay)));
  const lose = async after => {
    await soon();
    assert.equal(hub.state, "open");
    now += after;
    sockets.at(-1).end(1006);
    go(1000);
  };
  for (let count = 0; count < 6; count++) await lose(0);
  random = 0.25;
  await lose(0);
  await lose(5001);
  random = 0;
  await lose(0);
  assert.deepEqual(delays, [100, 200, 400, 800, 1000, 1000, 250, 25, 0]);
  random = 0.5;
  await soon();
  sockets.at(-1).end(1012, '{"retry_after_ms":7}');
  go(6);
  assert.equal(hub.state, "waiting");
  go(1);
  await soon();
  sockets.at(-1).end(1012, '{"retry_after_ms":70000}');
  assert.deepEqual(delays.slice(-2), [7, 1000]);
  hub.close();
});

test("a server that falls silent is noticed", async () => {
  const { hub, sockets, of } = client({ pingInterval: 20, timeout: 30 });
  await opened(hub);
  // Answers keep the connection.
  sockets[0].onsent = ({ ping }) => ping && sockets[0].say({ pong: { id: ping.id } });
  await until(() => sockets[0].sent.length === 3);
  assert.equal(sockets.length, 1);
  sockets[0].onsent = null;
  await until(() => sockets.length === 2);
  assert.equal(sockets[0].closedWith, "closed");
  const lost = of("state").find(({ state }) => state === "waiting");
  assert.deepEqual([lost.code, lost.reason], [1006, "the server does not answer"]);
  // The late end of the first connection changes nothing.
  await opened(hub);
  sockets[0].end(1008);
  sockets[0].say({ message: { topic: "x", data: 1 } });
  assert.deepEqual([hub.state, of("message").length], ["open", 0]);
  hub.close();
});

test("an opening that does not end is given up", async () => {
  const { hub, sockets } = client({ timeout: 10 }, (socket, count) => count > 1 && socket.open());
  await until(() => hub.state === "open");
  assert.equal(sockets.length, 2);
  hub.close();
});

// ---- Commands

const answer = socket => {
  socket.onsent = frame => {
    const [[kind, { id, topic }]] = Object.entries(frame);
    const names = { subscribe: "subscribed", unsubscribe: "unsubscribed", publish: "published", ping: "pong" };
    queueMicrotask(() => socket.say({ [names[kind]]: { id, topic } }));
  };
  socket.open();
};

test("commands wait for the connection, as many as may, and subscriptions come first", async () => {
  const { hub, sockets } = client({ queue: 2 }, () => {});
  const first = hub.publish("a", 1), second = hub.publish("a", "2"), subscribed = hub.subscribe("a", { echo: true });
  assert.equal((await failure(hub.publish("a", 3))).name, "queue_full");
  const offline = await failure(hub.publish("a", 3, { wait: false }));
  assert.deepEqual([offline.name, offline.temporary], ["offline", true]);
  assert.equal((await failure(hub.subscribe("b", { wait: false }))).name, "offline");
  assert.equal((await failure(hub.subscribe("a"))).name, "already_subscribed");
  await until(() => sockets.length);
  answer(sockets[0]);
  assert.deepEqual(await subscribed, { topic: "a" });
  await Promise.all([first, second]);
  const kinds = sockets[0].sent.map(text => [Object.keys(JSON.parse(text))[0], member(text, "data")]);
  assert.deepEqual(kinds, [["subscribe", undefined], ["publish", 1], ["publish", "2"]]);
  hub.close();
  assert.equal((await failure(hub.publish("a", 1))).name, "closed");
});

test("of a broken connection only subscriptions are made again", async () => {
  const { hub, sockets, of } = client({}, (socket, count) => count === 1 ? socket.open() : answer(socket));
  await opened(hub);
  const live = hub.subscribe("live"), asked = hub.subscribe("asked", { echo: true }), gone = hub.subscribe("gone");
  const published = hub.publish("live", 1), unsubscribed = hub.unsubscribe("gone"), ping = hub.ping();
  await soon();
  sockets[0].say({ subscribed: { id: member(sockets[0].sent[0], "id"), topic: "live" } });
  await live;
  for (const promise of [published, ping, gone]) failure(promise);
  sockets[0].end(1006);
  const error = await failure(published);
  assert.deepEqual([error.name, error.code, error.temporary], ["disconnected", 1006, true]);
  assert.equal((await failure(ping)).name, "disconnected");
  assert.equal((await failure(gone)).name, "disconnected");
  assert.deepEqual(await unsubscribed, { topic: "gone" });
  assert.deepEqual(await asked, { topic: "asked" });
  const { sent } = sockets[1];
  assert.deepEqual(sent.map(text => [member(text, "topic"), member(text, "echo")]), [["live", undefined], ["asked", true]]);
  assert.deepEqual(of("subscribed").map(({ topic, resubscribed }) => [topic, resubscribed]),
    [["live", false], ["live", true], ["asked", false]]);
  hub.close();
});

test("another connection goes on after the last message", async () => {
  const { hub, sockets } = client({}, socket => socket.open());
  await opened(hub);
  const subscribed = hub.subscribe("plan", { last: 2 }), place = { topic: "all/plan", epoch: EPOCH };
  assert.equal(sockets[0].last.subscribe.last, 2);
  // The route has a prefix.
  sockets[0].say({ subscribed: { id: sockets[0].last.subscribe.id, ...place, offset: 3, recovered: true } });
  assert.deepEqual(await subscribed, { ...place, offset: 3, recovered: true });
  for (const offset of [4, 5]) sockets[0].say({ message: { ...place, offset, data: 1 } });
  // Messages behind a notice may still be on their way.
  sockets[0].say({ lagged: { ...place, from: 6, to: 9, count: 2, policy: "drop_oldest" } });
  sockets[0].end(1001);
  await until(() => sockets.length === 2 && sockets[1].sent.length === 1);
  const { id, ...members } = sockets[1].last.subscribe;
  assert.deepEqual(members, { topic: "plan", since: `${EPOCH}.5` });
  hub.close();
});

test("a subscription that is refused later is told, or tried again", async () => {
  const { hub, sockets, of } = client({}, socket => socket.open());
  await opened(hub);
  const both = [hub.subscribe("forbidden"), hub.subscribe("busy")];
  sockets[0].sent.forEach(text => sockets[0].say({ subscribed: { id: member(text, "id"), topic: member(text, "topic") } }));
  await Promise.all(both);
  sockets[0].end(1001);
  await until(() => sockets.length === 2 && sockets[1].sent.length === 2);
  const [one, other] = sockets[1].sent.map(text => member(text, "id"));
  sockets[1].say({ error: { id: one, code: 121, name: "forbidden", reason: "no", temporary: false } });
  sockets[1].say({ error: { id: other, code: 132, name: "unavailable", reason: "later", temporary: true } });
  await until(() => sockets[1].sent.length === 3);
  assert.equal(sockets[1].last.subscribe.topic, "busy");
  assert.deepEqual(of("unsubscribed").map(({ topic, error }) => [topic, error.name]), [["forbidden", "forbidden"]]);
  hub.close();
});

test("a subscription that the server ends is not made again", async () => {
  const { hub, sockets, of } = client();
  await opened(hub);
  const subscribed = hub.subscribe("plan");
  // The route has a prefix.
  sockets[0].say({ subscribed: { id: sockets[0].last.subscribe.id, topic: "all/plan" } });
  assert.deepEqual(await subscribed, { topic: "all/plan" });
  sockets[0].say({ unsubscribed: { topic: "all/plan", code: 121, name: "forbidden", reason: "no", temporary: false } });
  assert.deepEqual(of("unsubscribed").map(({ topic, error }) => [topic, error.code]), [["all/plan", 121]]);
  sockets[0].end(1001);
  await until(() => sockets.length === 2 && hub.state === "open");
  assert.equal(sockets[1].sent.length, 0);
  hub.close();
});

test("who unsubscribes while the server ends the subscription has what was asked for", async () => {
  const { hub, sockets, of } = client();
  await opened(hub);
  const subscribed = hub.subscribe("plan");
  sockets[0].say({ subscribed: { id: sockets[0].last.subscribe.id, topic: "plan" } });
  await subscribed;
  const unsubscribed = hub.unsubscribe("plan"), unknown = hub.unsubscribe("unknown");
  await soon();
  sockets[0].say({ unsubscribed: { topic: "plan", code: 117, name: "ended", reason: "no", temporary: false } });
  const notSubscribed = { code: 111, name: "not_subscribed", reason: "no", temporary: false };
  sockets[0].sent.slice(-2).forEach(text => sockets[0].say({ error: { id: member(text, "id"), ...notSubscribed } }));
  assert.deepEqual(await unsubscribed, { topic: "plan" });
  assert.equal((await failure(unknown)).name, "not_subscribed");
  assert.deepEqual(of("unsubscribed").map(({ error }) => error.name), ["ended"]);
  hub.close();
});

test("a thousand subscriptions are made again, a part at a time", async () => {
  let most = 0, open = 0;
  const { hub } = client({}, socket => {
    socket.onsent = ({ subscribe: { id, topic } }) => {
      most = Math.max(most, ++open);
      setImmediate(() => { open--; socket.say({ subscribed: { id, topic } }); });
    };
    socket.open();
  });
  const all = Array.from({ length: 1024 }, (_, number) => hub.subscribe(`t/${number}`));
  await Promise.all(all);
  assert.equal(most, 128);
  hub.close();
});

test("a close fails what waits, and keeps live subscriptions for another connect", async () => {
  const { hub, sockets } = client({}, (socket, count) => count === 1 ? answer(socket) : count === 3 && answer(socket));
  await hub.subscribe("kept");
  sockets[0].end(1001);
  await until(() => sockets.length === 2);
  const commands = [hub.subscribe("new"), hub.publish("x", 1)].map(failure);
  hub.close(4000, "bye");
  assert.deepEqual((await Promise.all(commands)).map(({ name }) => name), ["closed", "closed"]);
  assert.deepEqual([hub.state, sockets[1].closedWith], ["closed", 4000]);
  hub.close();
  hub.connect();
  await until(() => hub.state === "open");
  assert.deepEqual(sockets[2].sent.map(text => member(text, "topic")), ["kept"]);
  hub.close();
});

test("frames and members that are not known are ignored, and broken ones are told", async () => {
  const { hub, sockets, events, of } = client();
  await opened(hub);
  const before = events.length;
  sockets[0].say({ news: { topic: "x" } });
  sockets[0].say({});
  sockets[0].say(new Uint8Array([2, ...Array(40).fill(0)]).buffer);
  sockets[0].say({ message: { topic: "x", data: 1, type: "y", target: 3, later: 4 } });
  sockets[0].say({ lagged: { topic: "x", epoch: EPOCH, from: 1, to: 3, count: 2, policy: "drop_oldest" } });
  // A message without a place, in a binary frame.
  const packed = new Uint8Array(26);
  packed.set([1, 0, 0, 1]);
  packed.set([120, 121], 24);
  sockets[0].say(packed.buffer);
  const { bytes, ...local } = of("message").at(-1);
  assert.deepEqual(local, { type: "message", topic: "x", data: "y" });
  sockets[0].say("{");
  sockets[0].say(new ArrayBuffer(3));
  assert.deepEqual(events.slice(before).map(({ type }) => type), ["message", "lagged", "message", "error", "error"]);
  const { type: _, ...lagged } = of("lagged")[0];
  assert.deepEqual(lagged, { topic: "x", epoch: EPOCH, from: 1, to: 3, count: 2, policy: "drop_oldest" });
  assert.equal(hub.state, "open");
  // A value that is no JSON fails alone.
  assert((await failure(hub.publish("x", 1n))) instanceof TypeError);
  hub.close();
});

test("events may close and connect the client", async () => {
  const { hub, sockets } = client();
  hub.addEventListener("state", ({ state }) => state === "open" && hub.close());
  await until(() => hub.state === "closed");
  assert.equal(sockets[0].closedWith, 1000);
  assert.equal((await failure(hub.ping())).name, "closed");
});
