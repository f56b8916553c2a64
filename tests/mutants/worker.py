#!/usr/bin/env python3
"""Guards of the worker removed one at a time: each must be missed by a test.

The sources are copied, a guard's text is replaced in the copy, the copy is built, and the test that is to miss the
guard must fail. Without any change all of these tests must pass. A guard whose text is not there exactly once, a
mutant that does not build and a test that does not exist are errors: they prove nothing.

Run by: make mutants. Arguments are parts of names: only mutants with one of them are tried.
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
COPY, BUILT = WORK / "source", WORK / "target"
# A mutant may wait for ever: then its test has missed the guard as well.
TEST_SECONDS = 60
BUILD_SECONDS = 1800


class Mutant(NamedTuple):
    name: str
    file: str
    guard: str
    instead: str
    # The target (lib or it) and the test's whole name.
    target: str
    caught_by: str


MUTANTS = [
    Mutant(
        "the heartbeat ends with the drain", "src/session/heartbeat.rs",
        "tokio::time::sleep(next).await;",
        "tokio::select! { () = tokio::time::sleep(next) => {}, () = drain.cancelled() => return }",
        "it", "worker_lease::a_draining_worker_keeps_its_lease",
    ),
    Mutant(
        "no stop request before the deadline", "src/worker/stop.rs",
        "requests.send_replace(lease_lost(deadline - kill));", "",
        "lib", "worker::stop::tests::without_a_beat_a_request_comes_before_the_deadline_and_ends_with_the_next_beat",
    ),
    Mutant(
        "jobs are killed at the deadline only", "src/worker/stop.rs",
        "lease_lost(deadline - kill)", "lease_lost(deadline + kill)",
        "lib", "worker::stop::tests::without_a_beat_a_request_comes_before_the_deadline_and_ends_with_the_next_beat",
    ),
    Mutant(
        "jobs go on after a lost lease until its deadline", "src/worker/stop.rs",
        "lease_lost(Instant::now())", "lease_lost(deadline)",
        "lib", "worker::stop::tests::a_lost_lease_kills_at_once",
    ),
    Mutant(
        "no guardian", "src/launch/commands.rs",
        "let guardian = guardian.map(|program|", "let guardian = guardian.filter(|_| false).map(|program|",
        "it", "worker_lease::no_process_of_a_killed_worker_is_alive_after_a_second",
    ),
    Mutant(
        "a guardian that is not replaced", "src/launch/guardian.rs",
        "Ok(next) => running = next,", "Ok(_) => std::future::pending().await,",
        "it", "worker_lease::a_guardian_that_is_killed_is_replaced",
    ),
    Mutant(
        "a guardian that does not know the deadline", "src/launch/guardian.rs",
        "if left == 0 && deadline != killed_for", "if false && left == 0 && deadline != killed_for",
        "it", "worker_lease::the_processes_of_a_frozen_worker_end_with_its_lease_and_its_late_word_is_refused",
    ),
    Mutant(
        "signals go to the process, not to its group", "src/launch/process_group.rs",
        "let _ = kill_process_group(self.pid, signal);", "let _ = rustix::process::kill_process(self.pid, signal);",
        "it", "worker_ends::a_cancelled_job_is_stopped_with_its_children",
    ),
    Mutant(
        "a release consumes an attempt", "src/session.rs",
        "(&retry_after.is_some(), Type::BOOL)", "(&true, Type::BOOL)",
        "it", "worker_shutdown::unfinished_jobs_go_back_within_the_grace_without_an_attempt",
    ),
    Mutant(
        "a drained worker claims", "src/worker/engine.rs",
        "let free = if draining { 0 } else { self.free_places() };", "let free = self.free_places();",
        "it", "worker_shutdown::a_job_that_ends_within_the_grace_is_completed_and_no_other_is_claimed",
    ),
    Mutant(
        "a second signal does not hurry", "src/worker/drain.rs",
        "if hurried {", "if false && hurried {",
        "it", "worker_shutdown::the_second_signal_does_not_wait_for_the_grace",
    ),
    Mutant(
        "a listener that does not ping itself", "src/listen.rs",
        "() = tokio::time::sleep_until(silent_at.into()) => return Err(deaf()),", "",
        "it", "worker_listen::a_listener_on_a_dead_wire_costs_latency_only_and_comes_back",
    ),
    Mutant(
        "a payload is not held against its schema", "src/launch/admit.rs",
        "Some(Ok(schema)) => check_payload(job.payload.get(), schema)?,", "Some(Ok(_)) => {}",
        "it", "worker_ends::a_payload_that_does_not_fit_its_type_is_refused_with_its_path_and_never_retried",
    ),
    Mutant(
        "the end of stderr without a bound", "src/launch/tail.rs",
        "if kept.len() > 2 * ERROR_BYTES {", "if false {",
        "lib", "launch::tail::tests::the_end_is_kept_and_no_more",
    ),
    Mutant(
        "a result without a bound", "src/launch/files.rs",
        "if bytes.len() > RESULT_BYTES {", "if false {",
        "lib", "launch::files::tests::each_bad_result_has_its_reason",
    ),
    Mutant(
        "the answer of another job counts", "src/launch/lines.rs",
        "if answer.job_id.is_some_and(|id| id != job) {", "if false {",
        "lib", "launch::lines::tests::answers_are_ends_and_one_of_another_job_is_stale",
    ),
    Mutant(
        "a signal to a command that is being started is lost", "src/launch/runner.rs",
        "Stage::Starting(signals) => signals.push(signal),", "Stage::Starting(_) => {}",
        "lib", "launch::runner::tests::a_signal_reaches_a_command_that_is_being_started",
    ),
    Mutant(
        "a command that is given up on lives on", "src/launch/runner.rs",
        "    fn drop(&mut self) {\n        self.signal(Signal::KILL);", "    fn drop(&mut self) {",
        "lib", "launch::runner::tests::a_command_that_is_given_up_on_is_killed_and_its_thread_goes_on",
    ),
    Mutant(
        "a hurry reaches no call that hangs", "src/worker/until_lease_ends.rs",
        "() = self.time_is_up() => Err(unanswered()),", "",
        "it", "worker_host::a_hurry_reaches_a_worker_whose_database_is_away",
    ),
    Mutant(
        "what the machine lacks is the command's fault", "src/launch/run.rs",
        "if is_exhausted(error) {", "if false {",
        "it", "worker_host::a_worker_without_descriptors_consumes_no_attempt_and_says_so",
    ),
    Mutant(
        "a handler that is deaf outlives its lease", "src/worker/handlers.rs",
        "(Step::Kill, _) => break None,", "(Step::Kill, _) => {}",
        "it", "handlers::a_worker_that_cannot_reach_the_database_drops_its_jobs_before_the_lease_is_over",
    ),
]


class Broken(Exception):
    pass


def copy() -> None:
    """All that git knows or would add, as it is now; what is equal keeps its time, so that it is not built again."""
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    names = [n for n in listed.stdout.decode().split("\0") if n and (ROOT / n).is_file()]
    for name in names:
        put(name, (ROOT / name).read_bytes(), (ROOT / name).stat().st_mode)
    here = {str(p.relative_to(COPY)) for p in COPY.rglob("*") if p.is_file()}
    for name in here - set(names):
        (COPY / name).unlink()


def put(name: str, content: bytes, mode: int) -> None:
    to = COPY / name
    if to.exists() and to.read_bytes() == content:
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(content)
    to.chmod(mode)


def cargo(words: list[str], seconds: int) -> tuple[int | None, str]:
    """The exit code, none after that time, and what it said."""
    mark = str(uuid.uuid4())
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILT), "CARGO_TERM_COLOR": "never", "MUTANT": mark}
    command = ["cargo", "test", "--locked", "--all-features", "-j", os.environ.get("JOBS", "2"), *words]
    # No pipe: what a mutant leaves behind would hold it open.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=COPY, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        end_marked(f"MUTANT={mark}".encode())
        said.seek(0)
        return code, said.read().decode(errors="replace")


def end_marked(mark: bytes) -> None:
    """Ends what was left behind: a mutant may be one that forgets its children."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass


def target(name: str) -> list[str]:
    return ["--lib"] if name == "lib" else ["--test", name]


def build(name: str) -> None:
    code, said = cargo([*target(name), "--no-run"], BUILD_SECONDS)
    if code != 0:
        raise Broken(f"does not build:\n{said[-3000:]}")


def passes(name: str, test: str) -> bool:
    code, said = cargo([*target(name), "--", "--exact", test], TEST_SECONDS)
    ran = re.search(r"^running (\d+) test", said, re.M)
    if not ran or ran[1] != "1":
        raise Broken(f"no test {test}:\n{said[-3000:]}")
    return code == 0


def mutate(mutant: Mutant) -> bytes:
    """The file without the guard."""
    text = (ROOT / mutant.file).read_text()
    # What tests say of the guard is none.
    code, *tests = text.split("#[cfg(test)]\n")
    found = code.count(mutant.guard)
    if found != 1:
        raise Broken(f"expected the guard once in {mutant.file}, found it {found} times; say here how it reads now")
    return "#[cfg(test)]\n".join([code.replace(mutant.guard, mutant.instead), *tests]).encode()


def examine(mutant: Mutant) -> None:
    """Whether its test misses the guard."""
    put(mutant.file, mutate(mutant), 0o644)
    try:
        build(mutant.target)
        if passes(mutant.target, mutant.caught_by):
            raise Broken(f"not caught by {mutant.caught_by}")
    finally:
        put(mutant.file, (ROOT / mutant.file).read_bytes(), 0o644)


def main() -> int:
    mutants = [m for m in MUTANTS if not sys.argv[1:] or any(part in m.name for part in sys.argv[1:])]
    for mutant in mutants:
        mutate(mutant)
    COPY.mkdir(parents=True, exist_ok=True)
    copy()
    for name in sorted({m.target for m in mutants}):
        build(name)
    for name, test in sorted({(m.target, m.caught_by) for m in mutants}):
        if not passes(name, test):
            raise Broken(f"with all guards in place: {test} fails")
    wrong = []
    for mutant in mutants:
        started = time.monotonic()
        try:
            examine(mutant)
            verdict = f"caught by {mutant.caught_by.split('::')[-1].replace('_', ' ')}"
        except Broken as why:
            wrong.append(mutant.name)
            verdict = f"WRONG: {why}"
        print(f"{mutant.name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(mutants)} mutants of the worker, {len(mutants) - len(wrong)} caught")
    return 1 if wrong or not mutants else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as why:
        sys.exit(f"mutants: {why}")
