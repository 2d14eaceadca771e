// Calls back with each line of the standard input, as soon as it has come, and ends the process with it.
export function eachLine(callback) {
  let rest = "";
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    lines.forEach(callback);
  });
  process.stdin.on("end", () => process.exit());
}
