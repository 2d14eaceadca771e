// What a browser and its push service would make of a post: other people's libraries for RFC 8188/8291 (http_ece) and for
// JSON Web Tokens (jose). One question on standard input, as JSON. Answers what was in it, as JSON, or ends with why not.
import ece from "http_ece";
import { importJWK, jwtVerify } from "jose";
import { createECDH } from "node:crypto";
import { readFileSync } from "node:fs";

const { browser, audience, subject, publicKey, authorization, body } = JSON.parse(readFileSync(0, "utf8"));

const match = /^vapid t=([^,\s]+), k=([A-Za-z0-9_-]+)$/.exec(authorization);
if (!match) throw new Error(`no VAPID: ${authorization}`);
const [, token, key] = match;
if (key !== publicKey) throw new Error("signed with another key than the one subscribed with");
const point = Buffer.from(key, "base64url");
const part = (from) => point.subarray(from, from + 32).toString("base64url");
const verifier = await importJWK({ kty: "EC", crv: "P-256", x: part(1), y: part(33) }, "ES256");
const { payload, protectedHeader } = await jwtVerify(token, verifier, { algorithms: ["ES256"], audience, subject });
const left = payload.exp - Date.now() / 1000;
if (!(left > 0 && left <= 24 * 3600)) throw new Error(`expires in ${left} s`);
if (protectedHeader.typ !== "JWT") throw new Error(`typ ${protectedHeader.typ}`);

const own = createECDH("prime256v1");
own.setPrivateKey(Buffer.from(browser.privateKey, "base64url"));
const text = ece.decrypt(Buffer.from(body, "base64"), { version: "aes128gcm", privateKey: own, authSecret: browser.auth });
console.log(JSON.stringify({ token: payload, text: text.toString("utf8") }));
