"""The jobs' side of the ledger: a line when a run begins and a line when it ends, appended to a file."""
import os
import sys
import time

ledger = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
worker = os.environ["FAULTS_WORKER"]


def text(line, key):
    start = line.index('"%s":"' % key) + len(key) + 4
    return line[start:line.index('"', start)]


def note(what, job, lease):
    os.write(ledger, ("%s %s %s %s %d\n" % (what, job, lease, worker, time.time_ns())).encode())


for line in sys.stdin:
    if line.startswith('{"cancel"'):
        continue
    job, lease = text(line, "job_id"), text(line, "lease")
    note("begin", job, lease)
    time.sleep(int(line.split('"ms":')[1].split("}")[0]) / 1000)
    note("end", job, lease)
    print('{"job_id": "%s", "ok": true, "result": "%s"}' % (job, lease), flush=True)
