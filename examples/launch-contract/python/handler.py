"""A handler that stays: a job is a line on stdin, its answer a line on stdout."""

import json
import sys


def say(**line):
    print(json.dumps(line), flush=True)


def run(payload):
    numbers = payload.get("numbers")
    if not isinstance(numbers, list) or not all(isinstance(n, (int, float)) for n in numbers):
        raise ValueError("numbers: expected a list of numbers")
    total = 0
    for n in numbers:
        total += n
        say(progress={"sum_so_far": total})
    return {"sum": total}


for line in sys.stdin:
    job = json.loads(line)
    if "cancel" in job:
        continue  # a word for the job before, which has ended meanwhile
    try:
        say(ok=True, result=run(job["payload"]), job_id=job["job_id"])
    except ValueError as error:
        say(ok=False, error=str(error), retry=False, job_id=job["job_id"])
    except Exception as error:
        say(ok=False, error=repr(error), job_id=job["job_id"])
