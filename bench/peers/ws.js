// A server of raw topics on Node's `ws`.
//
//   NODE_PATH=target/bench/node_modules node bench/peers/ws.js HOST:PORT
//
// GET /t/{topic} with an Upgrade subscribes; a client's messages are published unchanged. ?mode=sub|pub and ?echo=true
// mean the same as for the hub. Every other path is a topic too. A frame is made once, by `Sender.frame`, and written to
// the socket of each subscriber. The messages that arrive in one turn of the event loop are written as one buffer.

const { createServer } = require("node:http");
const { WebSocketServer, Sender } = require("ws");

const address = process.argv[2] ?? "127.0.0.1:6457";
const colon = address.lastIndexOf(":");

const TEXT = 1;
const BINARY = 2;

class Topic {
  subscribers = new Set();
  frames = [];
  // The client that sent each of the frames.
  senders = [];

  publish(sender, payload, isBinary) {
    const opcode = isBinary ? BINARY : TEXT;
    this.frames.push(...Sender.frame(payload, { fin: true, rsv1: false, mask: false, readOnly: true, opcode }));
    this.senders.push(sender);
    if (this.senders.length === 1) setImmediate(() => this.flush());
  }

  flush() {
    const run = Buffer.concat(this.frames);
    const senders = new Set(this.senders);
    for (const client of this.subscribers) {
      if (senders.has(client) && !client.hasEcho) client.socket.write(this.withoutThoseOf(client));
      else client.socket.write(run);
    }
    this.frames = [];
    this.senders = [];
  }

  // Each message is two buffers: the head and the payload of its frame.
  withoutThoseOf(client) {
    return Buffer.concat(this.frames.filter((_, index) => this.senders[index >> 1] !== client));
  }
}

const topics = new Map();
const http = createServer((_, response) => response.writeHead(426).end("an Upgrade is required"));
const server = new WebSocketServer({
  server: http,
  perMessageDeflate: false,
  clientTracking: false,
  maxPayload: 64 * 1024 * 1024,
});

server.on("connection", (webSocket, request) => {
  const url = new URL(request.url, "http://localhost");
  const topic = topics.get(url.pathname) ?? new Topic();
  topics.set(url.pathname, topic);
  const mode = url.searchParams.get("mode");
  const client = { socket: webSocket._socket, hasEcho: url.searchParams.get("echo") === "true" };
  if (mode !== "pub") topic.subscribers.add(client);
  webSocket.on("message", (payload, isBinary) => {
    if (mode === "sub") webSocket.close(1008, "mode=sub");
    else topic.publish(client, payload, isBinary);
  });
  webSocket.on("close", () => topic.subscribers.delete(client));
  webSocket.on("error", () => topic.subscribers.delete(client));
});

http.listen({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), backlog: 4096 });
