// A server of raw topics on Node's `ws`.
//
//   NODE_PATH=target/bench/node_modules node bench/peers/ws.js HOST:PORT
//
// GET /t/{topic} with an Upgrade subscribes; a client's messages are published unchanged. ?mode=sub|pub and ?echo=true
// mean the same as for the hub. Every other path is a topic too. A frame is made once, by `Sender.frame`, and written to
// the socket of each subscriber. A socket is corked until the end of the turn of the event loop, as the documentation of
// Node's streams recommends, so that the messages of a turn leave together.

const { createServer } = require("node:http");
const { WebSocketServer, Sender } = require("ws");

const address = process.argv[2] ?? "127.0.0.1:6457";
const colon = address.lastIndexOf(":");

const TEXT = 1;
const BINARY = 2;

// The sockets that are corked.
let corked = [];

function publish(subscribers, sender, payload, isBinary) {
  const opcode = isBinary ? BINARY : TEXT;
  const frame = Buffer.concat(Sender.frame(payload, { fin: true, rsv1: false, mask: false, readOnly: true, opcode }));
  for (const client of subscribers) {
    if (client === sender && !client.hasEcho) continue;
    const { socket } = client;
    if (!socket.writableCorked) {
      socket.cork();
      if (corked.push(socket) === 1) setImmediate(uncork);
    }
    socket.write(frame);
  }
}

function uncork() {
  for (const socket of corked) socket.uncork();
  corked = [];
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
  const subscribers = topics.get(url.pathname) ?? new Set();
  topics.set(url.pathname, subscribers);
  const mode = url.searchParams.get("mode");
  const client = { socket: webSocket._socket, hasEcho: url.searchParams.get("echo") === "true" };
  if (mode !== "pub") subscribers.add(client);
  webSocket.on("message", (payload, isBinary) => {
    if (mode === "sub") webSocket.close(1008, "mode=sub");
    else publish(subscribers, client, payload, isBinary);
  });
  webSocket.on("close", () => subscribers.delete(client));
  webSocket.on("error", () => subscribers.delete(client));
});

http.listen({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), backlog: 4096 });
