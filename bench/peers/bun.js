// A server of raw topics on Bun's own WebSocket publish (uWebSockets' engine): the peer that the hub is compared with.
//
//   bun bench/peers/bun.js HOST:PORT
//
// GET /t/{topic} with an Upgrade subscribes; a client's messages are published unchanged. ?mode=sub|pub and ?echo=true
// mean the same as for the hub. Options that cost time are off: compression, pings, idle timeout.

const address = process.argv[2] ?? "127.0.0.1:6456";
const colon = address.lastIndexOf(":");

const server = Bun.serve({
  hostname: address.slice(0, colon),
  port: Number(address.slice(colon + 1)),
  fetch(request, server) {
    const url = new URL(request.url);
    if (!url.pathname.startsWith("/t/")) return new Response("not found", { status: 404 });
    const mode = url.searchParams.get("mode");
    const data = {
      topic: decodeURIComponent(url.pathname.slice(3)),
      receives: mode !== "pub",
      publishes: mode !== "sub",
      echo: url.searchParams.get("echo") === "true",
    };
    if (server.upgrade(request, { data })) return undefined;
    return new Response("an Upgrade is required", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    maxPayloadLength: 64 * 1024 * 1024,
    backpressureLimit: 64 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    open(socket) {
      if (socket.data.receives) socket.subscribe(socket.data.topic);
    },
    message(socket, message) {
      const { topic, publishes, echo } = socket.data;
      if (!publishes) return socket.close(1008, "mode=sub");
      if (echo) server.publish(topic, message);
      else socket.publish(topic, message);
    },
  },
});

console.log(`listening on ${server.hostname}:${server.port}`);
