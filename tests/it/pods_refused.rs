//! A worker that makes Pods, and an API server that takes none: who is blamed for each answer, and what follows.

use std::{net::SocketAddr, process::Stdio, sync::Arc};

use rowlock::{JobQueue, Status};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::{
    http::get,
    support::{Db, eventually},
    work::{Program, job, program, put_type, with_type},
};

/// The API server. It has no object, and refuses each Pod by the name of its type, which is the number of its case.
async fn api_server(cases: Arc<Vec<Value>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let cases = cases.clone();
            tokio::spawn(async move {
                // A worker that is killed breaks its connections off.
                let _ = answer(stream, &cases).await;
            });
        }
    });
    address
}

async fn answer(stream: TcpStream, cases: &[Value]) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    stream.read_line(&mut request).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim().to_lowercase().split_once(": ") {
            Some(("content-length", bytes)) => length = bytes.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let refused = |code: u64, reason: &Value, message: &Value| {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": message})
    };
    let said = match request.split(' ').collect::<Vec<_>>()[..] {
        ["POST", path, _] if path.contains("/pods") => {
            let pod: Value = serde_json::from_slice(&body).unwrap();
            let case: usize = pod["metadata"]["annotations"]["rowlock.dev/type"].as_str().unwrap().parse().unwrap();
            let case = &cases[case];
            refused(case["code"].as_u64().unwrap(), &case["status_reason"], &case["message"])
        }
        ["GET", path, _] if path.contains("watch=") => return std::future::pending().await,
        ["GET", path, _] if path.contains("/pods?") => {
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
        }
        _ => refused(403, &json!("Forbidden"), &json!("configmaps is forbidden: User \"u\" cannot get resource")),
    };
    let (code, text) = (said["code"].as_u64().unwrap_or(200), said.to_string());
    let head = format!("HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", text.len());
    stream.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes()).await
}

/// A worker of that API server, and the address of its port.
fn worker(db: &Db, api: SocketAddr) -> (Program, SocketAddr) {
    let file = std::env::temp_dir().join(format!("rowlock-{}.kubeconfig", Uuid::now_v7()));
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{api}")}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c", "namespace": "n"}}]});
    std::fs::write(&file, config.to_string()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = program(db)
        .args(["worker", "--launch=pod", "--pod-image=i", "--pod-pending=1s", "--concurrency=40", "--poll=50ms"])
        .args([&format!("--http={port}"), &format!("--kubeconfig={}", file.display())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (Program(child), port)
}

/// A job for each case of these consequences, with the case.
async fn enqueue<'a>(q: &JobQueue, db: &Db, cases: &'a [Value], classes: &[&str]) -> Vec<(Uuid, &'a Value)> {
    let mut jobs = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        if classes.contains(&case["class"].as_str().unwrap()) {
            put_type(db, json!({"name": n.to_string(), "launch": "pod", "image": "i", "command": ["x"]})).await;
            jobs.push((q.enqueue(n.to_string(), json!({})).await.unwrap().id, case));
        }
    }
    jobs
}

fn cases() -> Arc<Vec<Value>> {
    Arc::new(serde_json::from_str(include_str!("../cases/api_answers.json")).unwrap())
}

#[tokio::test]
async fn the_schemas_refusal_alone_is_final_and_the_others_hold_no_type_up() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let cases = cases();
    let jobs = enqueue(&q, &db, &cases, &["Final", "Type"]).await;
    let (_worker, port) = worker(&db, api_server(cases.clone()).await);
    for (id, case) in jobs {
        let reason = case["reason"].as_str().unwrap();
        eventually(&format!("{case} is read"), || async { job(&q, id).await.error.is_some() }).await;
        let job = job(&q, id).await;
        if case["class"] == "Final" {
            assert_eq!(job.status, Status::Failed, "{case}");
        } else {
            assert_eq!((job.status, job.attempts), (Status::Pending, 0), "{case}: {:?}", job.error);
            assert!(job.error.as_ref().unwrap().starts_with(&format!("{reason}: ")), "{case}: {:?}", job.error);
            assert!(job.execute_at > job.created_at, "{case}: after a pause");
        }
    }
    let (code, text) = get(port, "/readyz").await;
    assert!(code != 200 && text.contains("[-] work: jobs of type "), "{text}");
}

#[tokio::test]
async fn a_worker_that_can_have_no_pod_claims_nothing_for_a_while_and_says_so() {
    let (q, db) = with_type(json!({"command": ["true"]})).await;
    let cases = cases();
    let jobs = enqueue(&q, &db, &cases, &["Worker", "Moment"]).await;
    let (_worker, port) = worker(&db, api_server(cases.clone()).await);
    for (id, case) in jobs {
        let reason = case["reason"].as_str().unwrap();
        eventually(&format!("{case} is read"), || async { job(&q, id).await.error.is_some() }).await;
        let job = job(&q, id).await;
        assert!(!job.status.is_terminal() && job.attempts == 0, "{case}: {:?}", job.error);
        assert!(job.error.as_ref().unwrap().starts_with(&format!("{reason}: ")), "{case}: {:?}", job.error);
    }
    let (code, text) = get(port, "/readyz").await;
    assert!(code != 200 && text.contains("[-] work: no Pod can be made: "), "{text}");
}
