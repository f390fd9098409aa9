// The page and its WebSocket come from the same server and port.
const socket = new WebSocket(new URL("wall", location.href.replace(/^http/, "ws")));
const [form, input, list] = ["form", "input", "ol"].map((name) => document.querySelector(name));

function show(text) {
  const item = document.createElement("li");
  item.textContent = text;
  list.prepend(item);
}

socket.onmessage = (message) => show(message.data);
socket.onclose = (end) => show(`(the connection has ended: ${end.code} ${end.reason})`);
form.onsubmit = (event) => {
  event.preventDefault();
  if (input.value) socket.send(input.value);
  input.value = "";
};
