// What a camera reads in a picture: other people's readers for PNG files (pngjs) and for QR codes (jsQR).
import jsqr from "jsqr";
import { PNG } from "pngjs";
import { readFileSync } from "node:fs";

const { png } = JSON.parse(readFileSync(0, "utf8"));
const { width, height, data } = PNG.sync.read(Buffer.from(png, "base64"));
const read = (jsqr.default ?? jsqr)(new Uint8ClampedArray(data), width, height);
console.log(JSON.stringify({ width, height, text: read?.data ?? null }));
