//! What is refused, by which SQLSTATE, in words that name the field; and that nothing of it stays.

use crate::support::{Db, database};

/// Statement, SQLSTATE, and what the message says.
const CASES: &[(&str, &str, &str)] = &[
    // type
    ("SELECT rowlock.enqueue(NULL)", "RL001", "type: expected 1 to 128 bytes"),
    ("SELECT rowlock.enqueue('')", "RL001", "type: expected 1 to 128 bytes of printable text, got 0"),
    ("SELECT rowlock.enqueue('   ')", "RL001", "type: expected 1 to 128 bytes of printable text, got only spaces"),
    ("SELECT rowlock.enqueue(repeat('x', 129))", "RL001", "type: expected 1 to 128 bytes of printable text, got 129"),
    ("SELECT rowlock.enqueue(repeat('ä', 65))", "RL001", "got 130 bytes"),
    (
        "SELECT rowlock.enqueue(repeat('x', 10240))",
        "RL001",
        "type: expected 1 to 128 bytes of printable text, got 10240",
    ),
    ("SELECT rowlock.enqueue(E'a\\nb')", "RL001", "type: expected 1 to 128 bytes of printable text, got a control"),
    ("SELECT rowlock.enqueue(E'a\\x7f')", "RL001", "a control character"),
    ("SELECT rowlock.enqueue(U&'a\\0085b')", "RL001", "a control character"),
    ("SELECT rowlock.enqueue(U&'a\\2028b')", "RL001", "a control character"),
    ("SELECT rowlock.enqueue(E'a\\x00')", "22021", "invalid byte sequence"),
    // payload
    ("SELECT rowlock.enqueue('t', '[]')", "RL002", "payload: expected a JSON object, got array"),
    ("SELECT rowlock.enqueue('t', '5')", "RL002", "payload: expected a JSON object, got number"),
    ("SELECT rowlock.enqueue('t', '\"x\"')", "RL002", "payload: expected a JSON object, got string"),
    ("SELECT rowlock.enqueue('t', 'true')", "RL002", "payload: expected a JSON object, got boolean"),
    ("SELECT rowlock.enqueue('t', 'null')", "RL002", "payload: expected a JSON object, got null"),
    (
        "SELECT rowlock.enqueue('t', jsonb_build_object('a', repeat('x', 1048577)))",
        "RL002",
        "payload: expected at most 1 MiB",
    ),
    (
        "SELECT rowlock.enqueue('t', (repeat('{\"a\":', 101) || '1' || repeat('}', 101))::jsonb)",
        "RL002",
        "payload: expected at most 100 levels",
    ),
    (
        "SELECT rowlock.enqueue('t', ('{\"a\":' || repeat('[', 101) || '1' || repeat(']', 101) || '}')::jsonb)",
        "RL002",
        "payload: expected at most 100 levels",
    ),
    ("SELECT rowlock.enqueue('t', '{\"a\": \"\\u0000\"}')", "22P05", "unsupported Unicode escape"),
    ("SELECT rowlock.enqueue('t', '{\"a\": \"\\ud800\"}')", "22P02", "invalid input syntax for type json"),
    ("SELECT rowlock.enqueue('t', '{\"a\": \"\\udc00\"}')", "22P02", "invalid input syntax for type json"),
    ("SELECT rowlock.enqueue('t', '{\"a\": \"\\ud800\\ud800\"}')", "22P02", "invalid input syntax for type json"),
    ("SELECT rowlock.enqueue('t', '{')", "22P02", "invalid input syntax for type json"),
    ("SELECT rowlock.enqueue('t', '{\"a\": NaN}')", "22P02", "invalid input syntax for type json"),
    // queue
    ("SELECT rowlock.enqueue('t', queue => '')", "RL003", "queue: expected 1 to 128 bytes"),
    (
        "SELECT rowlock.enqueue('t', queue => ' ')",
        "RL003",
        "queue: expected 1 to 128 bytes of printable text, got only spaces",
    ),
    (
        "SELECT rowlock.enqueue('t', queue => repeat('q', 10240))",
        "RL003",
        "queue: expected 1 to 128 bytes of printable text, got 10240",
    ),
    (
        "SELECT rowlock.enqueue('t', queue => E'q\\t')",
        "RL003",
        "queue: expected 1 to 128 bytes of printable text, got a control",
    ),
    // priority, max_retries
    ("SELECT rowlock.enqueue('t', priority => 32768)", "RL004", "priority: expected -32768 to 32767, got 32768"),
    ("SELECT rowlock.enqueue('t', priority => -32769)", "RL004", "priority: expected -32768 to 32767, got -32769"),
    ("SELECT rowlock.enqueue('t', priority => 1.5)", "42883", "priority"),
    ("SELECT rowlock.enqueue('t', priority => '1.5')", "22P02", "integer"),
    ("SELECT rowlock.enqueue('t', priority => '2147483648')", "22003", "integer"),
    ("SELECT rowlock.enqueue('t', max_retries => -1)", "RL005", "max_retries: expected 0 to 32767, got -1"),
    ("SELECT rowlock.enqueue('t', max_retries => 32768)", "RL005", "max_retries: expected 0 to 32767, got 32768"),
    ("SELECT rowlock.enqueue('t', max_retries => 0.5)", "42883", "max_retries"),
    // execute_at
    ("SELECT rowlock.enqueue('t', execute_at => 'infinity')", "RL006", "execute_at: expected a finite time"),
    ("SELECT rowlock.enqueue('t', execute_at => '-infinity')", "RL006", "execute_at: expected a finite time"),
    ("SELECT rowlock.enqueue('t', execute_at => now() + interval '10 years 1 day')", "RL006", "at most 10 years"),
    (
        "SELECT rowlock.enqueue('t', execute_at => '294276-12-31')",
        "RL006",
        "execute_at: expected a finite time at most 10 years",
    ),
    ("SELECT rowlock.enqueue('t', execute_at => '294277-01-02')", "22008", "timestamp out of range"),
    ("SELECT rowlock.enqueue('t', execute_at => '5000-BC-01')", "22007", "timestamp"),
    ("SELECT rowlock.enqueue('t', execute_at => '2024-13-01')", "22008", "date/time field value out of range"),
    ("SELECT rowlock.enqueue('t', execute_at => 'soon')", "22007", "timestamp"),
    // unique_key
    ("SELECT rowlock.enqueue('t', unique_key => '')", "RL007", "unique_key: expected 1 to 512 bytes, got 0"),
    (
        "SELECT rowlock.enqueue('t', unique_key => repeat('k', 513))",
        "RL007",
        "unique_key: expected 1 to 512 bytes, got 513",
    ),
    (
        "SELECT rowlock.enqueue('t', unique_key => repeat('€', 171))",
        "RL007",
        "unique_key: expected 1 to 512 bytes, got 513",
    ),
    // opts
    ("SELECT rowlock.enqueue('t', opts => '{\"group\": \"g\"}')", "RL008", "opts.group: unknown key"),
    ("SELECT rowlock.enqueue('t', opts => '{\"depends_on\": []}')", "RL008", "opts.depends_on: unknown key"),
    ("SELECT rowlock.enqueue('t', opts => '{\"tags\": [\"a\"], \"Tags\": []}')", "RL008", "opts.Tags: unknown key"),
    ("SELECT rowlock.enqueue('t', opts => '[]')", "RL008", "opts: expected a JSON object, got array"),
    ("SELECT rowlock.enqueue('t', opts => 'null')", "RL008", "opts: expected a JSON object, got null"),
    ("SELECT rowlock.enqueue('t', opts => '{\"tags\": \"a\"}')", "RL008", "opts.tags: expected at most 32 strings"),
    ("SELECT rowlock.enqueue('t', opts => '{\"tags\": [1]}')", "RL008", "opts.tags: expected at most 32 strings"),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"headers\": []}')",
        "RL008",
        "opts.headers: expected an object of strings",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"headers\": {\"a\": 1}}')",
        "RL008",
        "opts.headers: expected an object of strings",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"headers\": \"a\"}')",
        "RL008",
        "opts.headers: expected an object of strings",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"timeout_seconds\": 0}')",
        "RL008",
        "opts.timeout_seconds: expected a number",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"timeout_seconds\": \"5\"}')",
        "RL008",
        "opts.timeout_seconds: expected a number",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"timeout_seconds\": 1e400}')",
        "RL008",
        "opts.timeout_seconds: expected a number",
    ),
    // enqueue_many
    ("SELECT rowlock.enqueue_many(NULL)", "RL009", "jobs: expected a JSON array of objects, got null"),
    ("SELECT rowlock.enqueue_many('{}')", "RL009", "jobs: expected a JSON array of objects, got object"),
    ("SELECT rowlock.enqueue_many('\"x\"')", "RL009", "jobs: expected a JSON array of objects, got string"),
    ("SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, 5]')", "RL009", "jobs[1]: expected a JSON object, got number"),
    ("SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, null]')", "RL009", "jobs[1]: expected a JSON object, got null"),
    ("SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, []]')", "RL009", "jobs[1]: expected a JSON object, got array"),
    ("SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"prio\": 1}]')", "RL009", "jobs[0].prio: unknown key"),
    ("SELECT rowlock.enqueue_many('[{}]')", "RL001", "jobs[0].type: expected 1 to 128 bytes"),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"\"}]')",
        "RL001",
        "jobs[1].type: expected 1 to 128 bytes",
    ),
    ("SELECT rowlock.enqueue_many('[{\"type\": 5}]')", "RL001", "jobs[0].type: expected text, got 5"),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\", \"payload\": [1]}]')",
        "RL002",
        "jobs[1].payload: expected a JSON object, got array",
    ),
    (
        "SELECT rowlock.enqueue_many(jsonb_build_array(jsonb_build_object('type', 't', 'payload', jsonb_build_object('a', repeat('x', 1048577)))))",
        "RL002",
        "jobs[0].payload: expected at most 1 MiB",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"queue\": \"\"}]')",
        "RL003",
        "jobs[0].queue: expected 1 to 128 bytes",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"priority\": 1.5}]')",
        "RL004",
        "jobs[0].priority: expected -32768 to 32767, got 1.5",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"priority\": 1e300}]')",
        "RL004",
        "jobs[0].priority: expected -32768 to 32767, got 1",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\"}, {\"type\": \"t\", \"priority\": 40000}]')",
        "RL004",
        "jobs[2].priority: expected -32768 to 32767, got 40000",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"priority\": \"high\"}]')",
        "RL004",
        "jobs[0].priority: expected -32768 to 32767, got string",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"max_retries\": -1}]')",
        "RL005",
        "jobs[0].max_retries: expected 0 to 32767, got -1",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"execute_at\": \"infinity\"}]')",
        "RL006",
        "jobs[0].execute_at: expected a finite time",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"execute_at\": 5}]')",
        "RL006",
        "jobs[0].execute_at: expected a time as text, got 5",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\", \"execute_at\": \"soon\"}]')",
        "RL006",
        "jobs[1].execute_at: expected a time such as 2030-01-31T12:00:00Z, got soon",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"execute_at\": \"2024-13-01\"}]')",
        "RL006",
        "jobs[0].execute_at: expected a time",
    ),
    (
        "SELECT rowlock.enqueue('t', execute_at => now(), opts => '{\"delay_seconds\": 1}')",
        "RL008",
        "opts.delay_seconds: expected none beside execute_at",
    ),
    (
        "SELECT rowlock.enqueue('t', opts => '{\"delay_seconds\": -1}')",
        "RL008",
        "opts.delay_seconds: expected a number from 0",
    ),
    ("SELECT rowlock.enqueue('t', opts => '{\"notify\": \"no\"}')", "RL008", "opts.notify: expected true or false"),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"queue\": \"new\", \"priority\": 40000}]')",
        "RL004",
        "jobs[0].priority",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\", \"unique_key\": \"\"}]')",
        "RL007",
        "jobs[1].unique_key: expected 1 to 512 bytes",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"opts\": {\"group\": 1}}]')",
        "RL008",
        "jobs[0].opts.group: unknown key",
    ),
    (
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\"}, {\"type\": \"t\", \"opts\": 5}]')",
        "RL008",
        "jobs[1].opts: expected a JSON object, got 5",
    ),
    (
        "SELECT rowlock.enqueue_many((SELECT jsonb_agg('{\"type\": \"t\"}'::jsonb) FROM generate_series(1, 10001)))",
        "RL009",
        "jobs: expected at most 10000 elements, got 10001",
    ),
    (
        "SELECT rowlock.enqueue_many((SELECT jsonb_agg(jsonb_build_object('type', 't', 'priority', CASE n WHEN 9999 THEN 99999 ELSE 1 END)) FROM generate_series(0, 9999) n))",
        "RL004",
        "jobs[9999].priority",
    ),
    // retry
    ("SELECT rowlock.retry(NULL)", "RL011", "id: expected a job's id, got null"),
    ("SELECT rowlock.retry('00000000-0000-0000-0000-000000000000')", "RL011", "id: no job 0000"),
    ("SELECT rowlock.retry('ffffffff-ffff-ffff-ffff-ffffffffffff')", "RL011", "id: no job ffff"),
    ("SELECT rowlock.retry(gen_random_uuid(), 'NaN')", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.retry(gen_random_uuid(), 'Infinity')", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.retry(gen_random_uuid(), '-Infinity')", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.retry(gen_random_uuid(), -1)", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.retry(gen_random_uuid(), 315360001)", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.retry(gen_random_uuid(), NULL)", "RL010", "delay_seconds: expected a finite number"),
    ("SELECT rowlock.cancel(NULL)", "RL011", "id: expected a job's id, got null"),
    ("SELECT rowlock.cancel('00000000-0000-0000-0000-000000000000')", "RL011", "id: no job 0000"),
];

async fn assert_nothing_is_stored(db: &Db, after: &str) {
    let stored: i64 = db
        .one(
            "SELECT (SELECT count(*) FROM rowlock.ready) + (SELECT count(*) FROM rowlock.scheduled) + (SELECT count(*) FROM rowlock.unique_key)
                  + (SELECT count(*) FROM rowlock.tally) + (SELECT count(*) FROM rowlock.queue)",
            &[],
        )
        .await;
    assert_eq!(stored, 0, "something was stored by {after}");
}

#[tokio::test]
async fn every_bad_argument_is_refused_by_its_code_and_name_and_stores_nothing() {
    let db = database().await;
    let mut wrong = Vec::new();
    for (sql, code, says) in CASES {
        match db.client.batch_execute(sql).await {
            Ok(()) => wrong.push(format!("{sql}\n  was not refused")),
            Err(e) => {
                let e = e.as_db_error().unwrap();
                if e.code().code() != *code || !e.message().contains(says) {
                    wrong.push(format!("{sql}\n  got {} {}", e.code().code(), e.message()));
                }
            }
        }
        assert_nothing_is_stored(&db, sql).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn json_ten_thousand_levels_deep_is_refused_however_it_arrives() {
    let db = database().await;
    let deep = "(repeat('{\"a\":', 10000) || '1' || repeat('}', 10000))::jsonb";
    let (code, _) = db.refusal(&format!("SELECT rowlock.enqueue('t', {deep})")).await;
    // 54001 is Postgres's own, where the parser's stack is smaller.
    assert!(code == "RL002" || code == "54001", "{code}");
    assert_nothing_is_stored(&db, "deep JSON").await;
    // From a table it arrives compressed: a few hundred bytes.
    db.run("CREATE TABLE deep (j jsonb); INSERT INTO deep SELECT (repeat('{\"a\":', 3000) || '1' || repeat('}', 3000))::jsonb").await;
    for sql in [
        "SELECT rowlock.enqueue('t', j) FROM deep",
        "SELECT rowlock.enqueue_many(jsonb_build_array(jsonb_build_object('type', 't', 'payload', j))) FROM deep",
        "SELECT rowlock.enqueue_batch_v1(ARRAY['t'], ARRAY[j]) FROM deep",
    ] {
        let (code, message) = db.refusal(sql).await;
        assert_eq!(code, "RL002", "{sql}: {message}");
    }
    assert_nothing_is_stored(&db, "compressed deep JSON").await;
}

#[tokio::test]
async fn what_lies_exactly_on_a_limit_is_taken() {
    let db = database().await;
    for sql in [
        "SELECT rowlock.enqueue(repeat('x', 128))",
        "SELECT rowlock.enqueue(repeat('ä', 64), queue => repeat('ö', 64))",
        "SELECT rowlock.enqueue('t', jsonb_build_object('a', repeat('x', 1048576 - 9)))",
        "SELECT rowlock.enqueue('t', (repeat('{\"a\":', 100) || '1' || repeat('}', 100))::jsonb)",
        "SELECT rowlock.enqueue('t', NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        "SELECT rowlock.enqueue('t', priority => 32767, max_retries => 32767)",
        "SELECT rowlock.enqueue('t', priority => -32768, max_retries => 0)",
        "SELECT rowlock.enqueue('t', execute_at => now() + interval '10 years')",
        "SELECT rowlock.enqueue('t', execute_at => '4713-01-01 BC')",
        "SELECT rowlock.enqueue('t', unique_key => repeat('k', 512))",
        "SELECT rowlock.enqueue('t', '{\"emoji\": \"\\ud83d\\ude00\", \"control\": \"\\u0001\"}')",
        "SELECT rowlock.enqueue_many('[]')",
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"payload\": null, \"queue\": null, \"priority\": null, \"max_retries\": null, \"execute_at\": null, \"unique_key\": null, \"opts\": null}]')",
        "SELECT rowlock.enqueue_many('[{\"type\": \"t\", \"priority\": 5.0}]')",
        "SELECT rowlock.enqueue_many((SELECT jsonb_agg('{\"type\": \"t\"}'::jsonb) FROM generate_series(1, 10000)))",
    ] {
        db.run(sql).await;
    }
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.jobs", &[]).await, 10_013);
}

#[tokio::test]
async fn a_refusal_poisons_no_more_than_its_statement() {
    let mut db = database().await;
    db.run("CREATE TABLE mine (n int)").await;
    let mut tx = db.client.transaction().await.unwrap();
    tx.batch_execute("INSERT INTO mine VALUES (1)").await.unwrap();
    let savepoint = tx.savepoint("before").await.unwrap();
    assert!(savepoint.batch_execute("SELECT rowlock.enqueue('t', priority => 99999)").await.is_err());
    savepoint.rollback().await.unwrap();
    tx.batch_execute("SELECT rowlock.enqueue('t')").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        db.one::<i64>("SELECT (SELECT count(*) FROM mine) + (SELECT count(*) FROM rowlock.ready)", &[]).await,
        2
    );
}
