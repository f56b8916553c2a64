//! A real Prometheus on loopback: the rules and the dashboard, against a scrape of a real run.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rowlock::metrics::{METRICS, Replicas};
use serde_json::{Value, json};

use crate::{
    http::{get, serving, started},
    metrics::{decided, samples},
    support::eventually,
    work::{drain, put_type, shell, with_type},
};

const ALERTS: &str = include_str!("../../monitoring/alerts.yaml");
const TESTS: &str = include_str!("../../monitoring/alerts_test.yaml");
const DASHBOARD: &str = include_str!("../../monitoring/dashboard.json");

struct Prometheus {
    child: Child,
    at: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes these every half second, with these rules.
    async fn start(targets: &[SocketAddr], rules: &str) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "200ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "rowlock", "static_configs": [{"targets": targets}]}],
        });
        std::fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("rules.yaml"), rules).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", &format!("--web.listen-address={at}")])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus: scripts/setup.sh --test installs it");
        let prometheus = Prometheus { child, at, _dir: dir };
        eventually("Prometheus is ready", || async {
            tokio::net::TcpStream::connect(at).await.is_ok() && get(at, "/-/ready").await.0 == 200
        })
        .await;
        prometheus
    }

    /// The samples a query finds.
    async fn query(&self, query: &str) -> Vec<Value> {
        let quoted: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let (code, text) = get(self.at, &format!("/api/v1/query?query={quoted}")).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &answer["status"]), (200, &json!("success")), "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Those that fire.
    async fn alerts(&self) -> Vec<Value> {
        let answer: Value = serde_json::from_str(&get(self.at, "/api/v1/alerts").await.1).unwrap();
        let all = answer["data"]["alerts"].as_array().unwrap().clone();
        all.into_iter().filter(|a| a["state"] == "firing").map(|a| a["labels"].clone()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with("rowlock_")).collect()
}

fn is_exported(name: &str) -> bool {
    METRICS.iter().any(|m| {
        let rest = name.strip_prefix(m.name);
        rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
    })
}

fn promtool(args: &[&str]) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring"));
    let output = command.output().expect("promtool: scripts/setup.sh --test installs it");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn the_rules_are_right_by_promtool_and_pass_their_tests() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
}

#[test]
fn every_alert_has_a_runbook_a_case_that_fires_and_one_that_does_not_and_asks_for_what_is_exported() {
    let alerts: Value = serde_saphyr::from_str(ALERTS).unwrap();
    let tests: Value = serde_saphyr::from_str(TESTS).unwrap();
    let cases: Vec<&Value> =
        tests["tests"].as_array().unwrap().iter().flat_map(|t| t["alert_rule_test"].as_array().unwrap()).collect();
    let gone = tests["tests"].as_array().unwrap().iter();
    let gone = gone.filter(|t| t["name"].as_str().unwrap().starts_with("a whole namespace is gone beside another"));
    let gone = gone.flat_map(|t| t["alert_rule_test"].as_array().unwrap());
    let gone: Vec<&str> = gone.map(|c| c["alertname"].as_str().unwrap()).collect();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 8);
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap();
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(runbook)).unwrap();
        assert!(text.starts_with(&format!("# {name}\n")), "{runbook}");
        for part in ["**What it means.**", "**Look.**", "**Do.**"] {
            assert!(text.contains(part), "{runbook} lacks {part}");
        }
        let firing = cases.iter().filter(|c| c["alertname"] == name).map(|c| c["exp_alerts"].as_array().unwrap().len());
        let firing: Vec<usize> = firing.collect();
        assert!(firing.contains(&0) && firing.iter().any(|n| *n > 0), "{name}: {firing:?}");
        assert!(gone.contains(&name), "{name} is not tried with its whole target gone beside another that lives");
        for metric in names(rule["expr"].as_str().unwrap()) {
            assert!(is_exported(metric), "{name} asks for {metric}");
        }
    }
}

/// As the manual says: then each alert leads to a page that is there.
#[test]
fn the_documented_command_makes_runbooks_what_can_be_clicked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = include_str!("../../docs/metrics.md");
    let command = manual.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().trim();
    let command = command.strip_suffix("> alerts.yaml").expect("it writes the file of the rules");
    let output = Command::new("sh").args(["-c", command]).current_dir(root).output().unwrap();
    assert!(output.status.success());
    let alerts: Value = serde_saphyr::from_str(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 8);
    for rule in rules {
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        let page = url.strip_prefix("https://git.example/rowlock/blob/main/").unwrap_or_else(|| panic!("{url}"));
        assert!(page.starts_with("docs/runbooks/") && root.join(page).is_file(), "{page}");
    }
}

#[tokio::test]
async fn a_job_that_failed_is_in_the_next_scrape_without_a_worker_and_an_alert_fires() {
    let (q, db) = with_type(json!({"command": shell("exit 3")})).await;
    let (_controller, at) = started(&db, "controller");
    // Minutes become seconds, and what must last must not.
    let rules: String = ALERTS
        .replace("10m", "3s")
        .lines()
        .filter(|l| !l.trim().starts_with("for:"))
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(rules.contains("[3s]") && rules.contains("offset 3s"));
    let prometheus = Prometheus::start(&[at], &rules).await;
    eventually("it has known the database for three seconds", || async {
        !prometheus.query("rowlock_database_up offset 3s == 1").await.is_empty()
    })
    .await;
    let fires = async || {
        let alerts = prometheus.alerts().await;
        alerts.iter().any(|a| a["alertname"] == "RowlockJobsFailing" && a["type"] == "t" && a["queue"] == "default")
    };
    assert!(!fires().await, "nothing has failed yet");
    let id = q.enqueue("t", json!({})).await.unwrap().id;
    drain(&q).await;
    assert_eq!(db.status(id).await.as_deref(), Some("failed"));
    assert_eq!(db.one::<i64>("SELECT count(*) FROM rowlock.worker", &[]).await, 0, "no worker is alive");
    eventually("the alert fires", fires).await;
    // Another server, with no look of before the failure: one scrape is enough.
    let (fresh, _facts) = serving(&db.url).await;
    let text = get(fresh.address, "/metrics").await.1;
    assert_eq!(samples(&text)["rowlock_jobs_failed_total{queue=\"default\",type=\"t\",reason=\"exit_code\"}"], 1.0);
    // It is over when nothing more fails, though the counter stays.
    eventually("the alert ends", async || !fires().await).await;
}

#[tokio::test]
async fn every_query_of_the_dashboard_finds_something_in_a_scrape_of_a_real_run() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|p| p["targets"].as_array().into_iter().flatten().map(|t| t["expr"].as_str().unwrap()))
        .collect();
    assert!(queries.len() > 20);
    let shown: BTreeSet<&str> = queries.iter().flat_map(|q| names(q)).collect();
    for metric in METRICS {
        assert!(shown.iter().any(|s| s.starts_with(metric.name)), "no panel shows {}", metric.name);
    }

    let (q, db) = with_type(json!({"command": ["true"]})).await;
    put_type(&db, json!({"name": "bad", "command": ["false"], "max_retries": 1, "backoff": {"base": 0.01}})).await;
    let (_worker, at) = started(&db, "worker");
    let (controller, facts) = serving(&db.url).await;
    facts.set_leader(true);
    facts.set_replicas(vec![Replicas { deployment: "mail".into(), current: 1, wanted: 2, max: 3 }]);
    let prometheus = Prometheus::start(&[at, controller.address], ALERTS).await;
    let started = Instant::now();
    let mut left: Vec<String> = queries
        .iter()
        .map(|q| {
            q.replace("$__rate_interval", "20s")
                .replace("$namespace", ".*")
                .replace("$queue", ".*")
                .replace("$type", ".*")
        })
        .collect();
    // Rates need counters that go on, so there is always something to do.
    while !left.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is found by {left:#?}");
        for job_type in ["t", "bad"] {
            q.enqueue(job_type, json!({})).await.unwrap();
        }
        decided(&db).await;
        let mut missing = Vec::new();
        for query in left {
            let found = prometheus.query(&query).await;
            if found.is_empty() || found.iter().all(|s| s["value"][1] == "NaN") {
                missing.push(query);
            }
        }
        left = missing;
    }
    for name in shown {
        assert!(is_exported(name), "{name}");
        assert!(!prometheus.query(name).await.is_empty(), "{name} is not scraped");
    }
    eventually("both are scraped", || async { prometheus.query("up == 1").await.len() == 2 }).await;
}
