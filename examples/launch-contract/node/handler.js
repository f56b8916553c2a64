// A handler that stays: a job is a line on stdin, its answer a line on stdout. It hears a cancellation while it
// works, because it works in steps.
const readline = require("node:readline");
const { setImmediate: step } = require("node:timers/promises");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const cancelled = new Set();

async function run({ job_id, payload: { numbers } }) {
  if (!Array.isArray(numbers) || !numbers.every((n) => typeof n === "number")) {
    return { ok: false, error: "numbers: expected a list of numbers", retry: false };
  }
  let sum = 0;
  for (const n of numbers) {
    if (cancelled.delete(job_id)) return { ok: false, error: "stopped half-way" };
    sum += n;
    say({ progress: { sum_so_far: sum } });
    await step();
  }
  return { ok: true, result: { sum } };
}

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const job = JSON.parse(line);
  if (job.cancel) return cancelled.add(job.cancel);
  try {
    say({ ...(await run(job)), job_id: job.job_id });
  } catch (error) {
    say({ ok: false, error: String(error), job_id: job.job_id });
  }
});
