// A job as a command: the payload on stdin, the result in a file, the verdict in the exit code.
const fs = require("node:fs");

const { numbers } = JSON.parse(fs.readFileSync(0, "utf8"));
if (!Array.isArray(numbers) || !numbers.every((n) => typeof n === "number")) {
  console.error("numbers: expected a list of numbers");
  process.exit(78); // in the type's no_retry_exit_codes
}

let sum = 0;
for (const n of numbers) {
  sum += n;
  fs.appendFileSync(process.env.ROWLOCK_PROGRESS_FILE, JSON.stringify({ sum_so_far: sum }) + "\n");
}
fs.writeFileSync(process.env.ROWLOCK_RESULT_FILE, JSON.stringify({ sum }));
