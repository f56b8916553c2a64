//! Enqueueing beside a write of one's own, in a transaction of another library.

use sqlx::{Connection, Executor, PgConnection, Row};
use uuid::Uuid;

use crate::support::database;

#[tokio::test]
async fn a_transaction_of_sqlx_takes_its_job_with_it_whether_it_commits_or_rolls_back() {
    let db = database().await;
    db.run("CREATE TABLE account (email text)").await;
    let mut client = PgConnection::connect(&db.url).await.unwrap();
    for (email, commit) in [("kept@example.com", true), ("gone@example.com", false)] {
        let mut tx = client.begin().await.unwrap();
        sqlx::query("INSERT INTO account VALUES ($1)").bind(email).execute(&mut *tx).await.unwrap();
        // A uuid and a jsonb as text: sqlx needs no more features than these.
        let row = sqlx::query(
            "SELECT id::text, inserted FROM rowlock.enqueue('send_email', jsonb_build_object('to', $1::text), unique_key => $1)",
        )
        .bind(email)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        let id: Uuid = row.get::<&str, _>(0).parse().unwrap();
        assert!(row.get::<bool, _>(1));
        // Nobody else sees either before the end.
        assert_eq!(db.one::<i64>("SELECT count(*) FROM account WHERE email = $1", &[&email]).await, 0);
        assert_eq!(db.status(id).await, None);
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let (rows, job) = if commit { (1, Some("pending".to_owned())) } else { (0, None) };
        assert_eq!(db.one::<i64>("SELECT count(*) FROM account WHERE email = $1", &[&email]).await, rows);
        assert_eq!(db.status(id).await, job);
    }
    let to: Vec<String> = db.one("SELECT array_agg(payload->>'to') FROM rowlock.jobs", &[]).await;
    assert_eq!(to, ["kept@example.com"]);
}

#[tokio::test]
async fn a_refusal_reaches_sqlx_with_its_code_and_a_savepoint_saves_the_rest() {
    let db = database().await;
    db.run("CREATE TABLE account (email text)").await;
    let mut client = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = client.begin().await.unwrap();
    tx.execute("INSERT INTO account VALUES ('a@example.com')").await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    let error = inner.execute("SELECT rowlock.enqueue('send_email', '[]')").await.unwrap_err();
    let error = error.into_database_error().unwrap();
    assert_eq!(error.code().as_deref(), Some("RL002"));
    assert!(error.message().starts_with("payload: expected a JSON object"), "{}", error.message());
    inner.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.one::<i64>("SELECT count(*) FROM account", &[]).await, 1);
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.jobs", &[]).await, 0);
}
