// A server of raw topics on Bun's own WebSocket publish (uWebSockets' engine): the peer that the hub is compared with.
//
//   bun bench/peers/bun.js HOST:PORT [two-topics]
//
// GET /t/{topic} with an Upgrade subscribes; a client's messages are published unchanged. ?mode=sub|pub and ?echo=true
// mean the same as for the hub. POST /t/{topic} publishes the body. Options that cost time are off: compression, pings,
// idle timeout. With `two-topics` each client subscribes to the same two topics, except publishers (mode=pub), which
// publish to one of them in turn.

const address = process.argv[2] ?? "127.0.0.1:6456";
const colon = address.lastIndexOf(":");
const hasTwoTopics = process.argv[3] === "two-topics";
const accepted = { status: 202 };
let publishers = 0;

const server = Bun.serve({
  hostname: address.slice(0, colon),
  port: Number(address.slice(colon + 1)),
  routes: {
    "/t/:topic": {
      // Bun's own router has parsed the path, which is faster than `new URL`.
      async POST(request, server) {
        server.publish(request.params.topic, await request.arrayBuffer());
        return new Response(null, accepted);
      },
    },
  },
  fetch(request, server) {
    const url = new URL(request.url);
    if (!url.pathname.startsWith("/t/")) return new Response("not found", { status: 404 });
    const topic = decodeURIComponent(url.pathname.slice(3));
    const mode = url.searchParams.get("mode");
    const isPublisher = mode === "pub";
    const topics = hasTwoTopics ? ["first", "second"] : [topic];
    const data = {
      topic: topics[isPublisher ? publishers++ % topics.length : 0],
      subscribes: isPublisher ? [] : topics,
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
      for (const topic of socket.data.subscribes) socket.subscribe(topic);
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
