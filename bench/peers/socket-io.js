// A server of topics on Socket.IO 4: `subscribe` is acknowledged, and `publish` sends a `message` to all other
// subscribers of the topic.
//
//   NODE_PATH=target/bench/node_modules node bench/peers/socket-io.js HOST:PORT

const { createServer } = require("node:http");
const { Server } = require("socket.io");

const address = process.argv[2] ?? "127.0.0.1:6458";
const colon = address.lastIndexOf(":");

const http = createServer();
const server = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

server.on("connection", (client) => {
  client.on("subscribe", (topic, acknowledge) => {
    client.join(topic);
    acknowledge();
  });
  client.on("publish", (topic, payload) => client.to(topic).emit("message", payload));
});

http.listen({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), backlog: 4096 });
