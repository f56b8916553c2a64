"""A job as a command: the payload on stdin, the result in a file, the verdict in the exit code."""

import json
import os
import sys

payload = json.load(sys.stdin)
numbers = payload.get("numbers")
if not isinstance(numbers, list) or not all(isinstance(n, (int, float)) for n in numbers):
    print("numbers: expected a list of numbers", file=sys.stderr)
    sys.exit(78)  # in the type's no_retry_exit_codes

total = 0
with open(os.environ["ROWLOCK_PROGRESS_FILE"], "a", buffering=1) as progress:
    for n in numbers:
        total += n
        print(json.dumps({"sum_so_far": total}), file=progress)

with open(os.environ["ROWLOCK_RESULT_FILE"], "w") as result:
    json.dump({"sum": total}, result)
