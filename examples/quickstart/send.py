"""The README's job. The worker starts it once per job.

The payload comes on stdin. The result goes to $ROWLOCK_RESULT_FILE. Exit code 0 means that the job completed; after any
other one the end of stderr becomes the job's error, and the job is retried.
"""
import json
import os
import sys

payload = json.load(sys.stdin)
if "@" not in payload["to"]:
    print(f"to: expected an address, got {payload['to']!r}", file=sys.stderr)
    sys.exit(78)  # no retry helps: see no_retry_exit_codes in types.yaml

# Your program sends the mail here, with smtplib for example.
print(f"sending to {payload['to']}", file=sys.stderr)

with open(os.environ["ROWLOCK_RESULT_FILE"], "w", encoding="utf-8") as file:
    json.dump({"sent_to": payload["to"]}, file)
