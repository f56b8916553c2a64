"""A job that tries hard to read its worker's secret: all that a process can ask the kernel of another of its user.

Its payload is {"backwards": the secret backwards, so that the thief itself has it nowhere else}. It answers which ways
led to the secret, and how many it tried: with itself, with the processes above it up to the worker (but not "until",
which is the test), and with the worker's guardian.
"""
import ctypes
import json
import os
import signal
import sys

line = json.loads(sys.stdin.readline())
payload = line.get("payload", line)
libc = ctypes.CDLL(None, use_errno=True)
found, tried = set(), 0


def holds(data):
    # Put together again here alone, and gone at once: the thief's own memory is not where it looks.
    return payload["backwards"].encode()[::-1] in data


def attempt(way, read):
    global tried
    tried += 1
    try:
        data = read()
    except (OSError, ValueError, OverflowError):
        return
    for piece in data if isinstance(data, (list, tuple)) else [data]:
        if piece is not None and holds(piece):
            found.add(way)


def slurp(path, limit=1 << 22):
    with open(path, "rb", buffering=0) as file:
        return file.read(limit) or b""


def own_descriptors():
    for fd in os.listdir("/proc/self/fd"):
        attempt("an inherited descriptor", lambda: os.pread(int(fd), 1 << 20, 0))


def descriptors(process):
    for fd in os.listdir(f"/proc/{process}/fd"):
        at = f"/proc/{process}/fd/{fd}"
        attempt("the name of a descriptor", lambda: os.readlink(at).encode())
        try:
            handle = os.open(at, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        attempt("a descriptor", lambda: os.pread(handle, 1 << 20, 0))
        os.close(handle)
    return b""


def regions(process):
    out = []
    for line in slurp(f"/proc/{process}/maps").decode().splitlines():
        places, rights = line.split()[:2]
        low, high = (int(part, 16) for part in places.split("-"))
        if rights.startswith("rw") and high - low < 1 << 28:
            out.append((low, high - low))
    return out


def memory(process):
    pieces = []
    with open(f"/proc/{process}/mem", "rb", buffering=0) as file:
        for at, length in regions(process):
            try:
                file.seek(at)
                pieces.append(file.read(length))
            except OSError:
                pass
    return pieces


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def vector(process):
    """process_vm_readv of the heap's and the stack's usual places, or of all that /proc names."""
    room = ctypes.create_string_buffer(1 << 20)
    pieces = []
    for at, length in regions(process) or [(0x400000, 4096)]:
        local, remote = Iovec(ctypes.addressof(room), len(room)), Iovec(at, min(length, len(room)))
        got = libc.process_vm_readv(process, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if got > 0:
            pieces.append(room.raw[:got])
    return pieces


def trace(process):
    """PTRACE_ATTACH, then /proc/PID/mem as its tracer."""
    if libc.ptrace(16, process, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    try:
        os.waitpid(process, 0x40000000)
        return memory(process)
    finally:
        libc.ptrace(17, process, None, None)


def stolen_descriptors(process):
    """pidfd_getfd of each of the first descriptors."""
    handle = libc.syscall(434, process, 0)
    if handle < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    pieces = []
    for fd in range(64):
        own = libc.syscall(438, handle, fd, 0)
        if own >= 0:
            found.add("a descriptor was taken over")
            os.close(own)
    os.close(handle)
    return pieces


def parent(process):
    return int(slurp(f"/proc/{process}/stat").rsplit(b")", 1)[1].split()[1])


def cmdline(process):
    try:
        return slurp(f"/proc/{process}/cmdline").split(b"\0")
    except OSError:
        return []


def try_process(process, own=False):
    for name in ["environ", "cmdline", "auxv", "stack", "syscall", "comm", "status", "mountinfo", "cgroup"]:
        attempt(name, lambda: slurp(f"/proc/{process}/{name}"))
    attempt("a thread's environ", lambda: [slurp(f"/proc/{process}/task/{task}/environ")
                                           for task in os.listdir(f"/proc/{process}/task")])
    for name in ["cwd", "root", "exe"]:
        attempt(name, lambda: os.readlink(f"/proc/{process}/{name}").encode())
    attempt("map_files", lambda: [os.readlink(f"/proc/{process}/map_files/{name}").encode()
                                  for name in os.listdir(f"/proc/{process}/map_files")])
    attempt("fd", lambda: descriptors(process))
    if own:
        return
    attempt("mem", lambda: memory(process))
    attempt("process_vm_readv", lambda: vector(process))
    attempt("pidfd_getfd", lambda: stolen_descriptors(process))
    attempt("ptrace", lambda: trace(process))


def above():
    """The processes above this one, up to the one that the test names, or the first of `rowlock worker`."""
    out, process = [], os.getppid()
    while process > 0 and process != payload.get("until"):
        out.append(process)
        if b"worker" in cmdline(process)[1:2]:
            break
        process = parent(process)
    return out


def try_files():
    roots = {os.environ.get("TMPDIR", "/tmp"), "/dev/shm"}
    mine = f"rowlock-{os.environ.get('ROWLOCK_WORKER_ID', 'none')}"
    for root in roots:
        for at, _, names in os.walk(os.path.join(root, mine)):
            for name in names:
                attempt("a file of the worker", lambda: slurp(os.path.join(at, name)))


def main():
    signal.alarm(60)
    worker = os.environ.get("ROWLOCK_WORKER_ID", "none").encode()
    attempt("its own environment", lambda: repr(dict(os.environ)).encode())
    own_descriptors()
    try_process(os.getpid(), own=True)
    guardians = [int(p) for p in os.listdir("/proc") if p.isdigit() and b"guardian" in cmdline(p) and worker in cmdline(p)]
    targets = above() + guardians
    for process in targets:
        try_process(process)
    try_files()
    answer = json.dumps({"found": sorted(found), "tried": tried, "processes": len(targets), "uid": os.getuid()})
    out = os.environ.get("ROWLOCK_RESULT_FILE")
    if out:
        with open(out, "w") as file:
            file.write(answer)
    else:
        print(json.dumps({"ok": True, "result": json.loads(answer)}), flush=True)
        sys.stdin.read()


main()
