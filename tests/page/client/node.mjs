// Evaluates JavaScript in Node: each line of the input is a string of JSON with an expression, and each line of the output
// is its value as JSON, or `{"thrown":...}`.

import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await (0, eval)(JSON.parse(line)) };
  } catch (error) {
    answer = { thrown: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
