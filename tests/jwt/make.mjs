// Signs the tokens of standard input by jose: rows as lines of JSON, each with claims, a header, and a key in PEM or as a
// secret. Prints a line of JSON for each. The package is looked for in the working folder.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { SignJWT, importPKCS8 } = await import(
  pathToFileURL(createRequire(`${process.cwd()}/`).resolve("jose")).href
);

for await (const line of createInterface({ input: process.stdin })) {
  const { name, header, claims, pem, secret } = JSON.parse(line);
  const key = pem ? await importPKCS8(pem, header.alg) : new TextEncoder().encode(secret);
  console.log(JSON.stringify({ name, token: await new SignJWT(claims).setProtectedHeader(header).sign(key) }));
}
