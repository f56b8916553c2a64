"""The jobs' side of the ledger: a row when a run begins and a row when it ends, in a database that is not the queue's.

Each is committed before the run goes on. It speaks Postgres's protocol itself: what comes with Python has no client,
and a psql per row would take longer than the job.
"""
import _socket
import os
import sys
import time

worker = int(os.environ["CHAOS_WORKER"])


class Postgres:
    """One connection, without a password; every answer is waited for."""

    def __init__(self, port, user, database):
        self.wire = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self.wire.connect(("127.0.0.1", port))
        self.wire.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        options = b"user\0%s\0database\0%s\0application_name\0ledger\0\0" % (user.encode(), database.encode())
        self.wire.sendall((8 + len(options)).to_bytes(4, "big") + b"\0\3\0\0" + options)
        self.ready()

    def run(self, sql):
        text = sql.encode() + b"\0"
        self.wire.sendall(b"Q" + (4 + len(text)).to_bytes(4, "big") + text)
        self.ready()

    def ready(self):
        """Reads until it may be asked again."""
        kind = b""
        while kind != b"Z":
            head = self.read(5)
            kind, body = head[:1], self.read(int.from_bytes(head[1:], "big") - 4)
            if kind == b"E":
                sys.exit("ledger: %r" % body)

    def read(self, size):
        got = b""
        while len(got) < size:
            more = self.wire.recv(size - len(got))
            if not more:
                sys.exit("ledger: the connection ended")
            got += more
        return got


def text(line, key):
    start = line.index('"%s":"' % key) + len(key) + 4
    return line[start:line.index('"', start)]


def number(line, key, otherwise=0):
    """The module json takes longer to load than a job takes."""
    _, found, rest = line.partition('"%s":' % key)
    return int(rest.replace("}", ",").split(",")[0]) if found else otherwise


def note(what, job, lease):
    row = (what, job, lease, worker, time.time_ns())
    ledger.run("INSERT INTO line (what, job, lease, worker, at) VALUES ('%s', '%s', '%s', %d, %d)" % row)


def run(job, lease, seconds):
    """Sleeps. If somebody wants to know until when this run lived, a file's time says so."""
    end = time.monotonic() + seconds
    while ticks and time.monotonic() < end:
        with open("%s/%s-%s" % (ticks, lease.replace("/", "-"), job), "w") as file:
            file.write("alive")
        time.sleep(0.01)
    time.sleep(max(0, end - time.monotonic()))


ticks = os.environ.get("CHAOS_TICKS")
ledger = Postgres(int(sys.argv[1]), sys.argv[2], sys.argv[3])
for line in sys.stdin:
    if line.startswith('{"cancel"'):
        continue
    job, lease = text(line, "job_id"), text(line, "lease")
    note("begin", job, lease)
    run(job, lease, number(line, "ms") / 1000)
    if number(line, "attempt") < number(line, "again"):
        note("again", job, lease)
        print('{"job_id": "%s", "ok": false, "error": "again"}' % job, flush=True)
    else:
        note("end", job, lease)
        print('{"job_id": "%s", "ok": true, "result": "%s"}' % (job, lease), flush=True)
