//! A namespace, a database, a controller, and worker Deployments.

use std::{
    fs::File,
    future::Future,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rowlock::{
    JobQueue,
    local_postgres::{LocalPostgres, Options},
};
use serde_json::{Value, json};
use tokio_postgres::{NoTls, types::ToSql};
use uuid::Uuid;

use crate::{binary, ledger::Ledger};

pub const IMAGE: &str = "rowlock.test/rowlock-kube:dev";
/// No wait is longer, on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(90);

fn server() -> &'static (LocalPostgres, String) {
    static SERVER: OnceLock<(LocalPostgres, String)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let start = || {
            let host = std::env::var("ROWLOCK_TEST_HOST").unwrap_or_else(|_| "10.10.0.1".into());
            let hba = std::env::temp_dir().join(format!("rowlock-kube-{}.hba", std::process::id()));
            // The tests' own network only: the address it listens on is the nodes'.
            std::fs::write(&hba, "host all all 127.0.0.1/32 trust\nhost all all 10.0.0.0/8 trust\n").unwrap();
            let settings = vec![
                format!("listen_addresses=127.0.0.1,{host}"),
                format!("hba_file={}", hba.display()),
                "max_connections=600".into(),
            ];
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let options = Options { persist: None, ram: true, settings, ..Options::default() };
            (runtime.block_on(LocalPostgres::start(options)).unwrap(), host)
        };
        std::thread::spawn(start).join().unwrap()
    })
}

pub struct Lab {
    pub namespace: String,
    /// Of a service account that may do what the controller needs, and nothing else.
    pub kubeconfig: PathBuf,
    /// For this process; Pods have their own.
    pub url: String,
    pods_url: String,
    pub sql: tokio_postgres::Client,
    pub client: Client,
    pub queue: JobQueue,
    pub ledger: Ledger,
}

pub struct Controller {
    child: Child,
    pub log: PathBuf,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Not waited for: what is in it ends by itself.
        let args = ["delete", "namespace", &self.namespace, "--wait=false"];
        let _ = Command::new("kubectl").args(args).stdout(Stdio::null()).status();
    }
}

/// The program, on the cluster that these tests were given; an optimized one, where speed is measured.
pub fn program() -> Command {
    let mut command = match std::env::var_os("ROWLOCK_TEST_PROGRAM") {
        Some(path) => binary::unsteered(Command::new(path)),
        None => binary::program(),
    };
    command.env("KUBECONFIG", std::env::var_os("KUBECONFIG").unwrap_or_default());
    command
}

pub fn kubectl(args: &[&str]) -> String {
    let out = Command::new("kubectl").args(args).output().unwrap();
    assert!(out.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The Role that `src/controller/kubernetes.rs` writes down.
fn restricted(namespace: &str) -> PathBuf {
    let source = include_str!("../../src/controller/kubernetes.rs");
    let rules: Vec<&str> = source.lines().filter_map(|l| l.strip_prefix("//! - {apiGroups: ")).collect();
    let rules: String = rules.iter().map(|r| format!("\n- {{apiGroups: {r}")).collect();
    let role = std::env::temp_dir().join(format!("{namespace}.role.yaml"));
    let head = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: controller}\nrules:";
    std::fs::write(&role, format!("{head}{rules}\n")).unwrap();
    kubectl(&["-n", namespace, "apply", "-f", role.to_str().unwrap()]);
    kubectl(&["-n", namespace, "create", "serviceaccount", "controller"]);
    let account = format!("--serviceaccount={namespace}:controller");
    kubectl(&["-n", namespace, "create", "rolebinding", "controller", "--role=controller", &account]);
    let token = kubectl(&["-n", namespace, "create", "token", "controller", "--duration=2h"]);
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let path = std::env::temp_dir().join(format!("{namespace}.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

impl Lab {
    pub async fn new(name: &str) -> Lab {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        let namespace = format!("target-{name}-{}", &Uuid::now_v7().simple().to_string()[20..]);
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client).create(&PostParams::default(), &object).await.unwrap();
        let kubeconfig = restricted(&namespace);
        let database = namespace.replace('-', "_");
        Lab::with(namespace, kubeconfig, &database).await
    }

    /// Another database in the same namespace.
    pub async fn beside(&self) -> Lab {
        let database = format!("{}_2", self.namespace.replace('-', "_"));
        Lab::with(self.namespace.clone(), self.kubeconfig.clone(), &database).await
    }

    async fn with(namespace: String, kubeconfig: PathBuf, database: &str) -> Lab {
        let ((server, host), client) = (server(), Client::try_default().await.unwrap());
        let (admin, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await.unwrap();
        tokio::spawn(connection);
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let url = server.url(database);
        let pods_url = url.replace("127.0.0.1", host);
        let queue = JobQueue::connect(&url).await.unwrap();
        queue.migrate().await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let ledger = Ledger::open(host).await;
        Lab { namespace, kubeconfig, url, pods_url, sql, client, queue, ledger }
    }

    /// Starts one, with this kubeconfig or the usual one.
    pub fn controller(&self, kubeconfig: Option<&std::path::Path>, log: &str) -> Controller {
        let file = std::env::temp_dir().join(format!("{}.log", self.namespace));
        let mut command = program();
        command.args(["controller", "--http=127.0.0.1:0", "--log-format=text", "-n", &self.namespace]);
        command.arg("--kubeconfig").arg(kubeconfig.unwrap_or(&self.kubeconfig));
        let to = File::create(&file).unwrap();
        let child = command
            .env("DATABASE_URL", &self.url)
            .env("RUST_LOG", log)
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(to)
            .spawn()
            .unwrap();
        Controller { child, log: file }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A worker Deployment with no replicas.
    pub async fn deployment(&self, name: &str, queue: &str, slots: u32, annotations: Value, memory: &str) {
        let mut all = json!({"rowlock.dev/queues": queue, "rowlock.dev/slots": slots.to_string()});
        all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let container = json!({
            "name": "worker", "image": IMAGE,
            "args": ["worker", format!("--queue={queue}"), format!("--concurrency={slots}"), "--http=127.0.0.1:9464",
                     "--grace=15s"],
            "env": [
                {"name": "DATABASE_URL", "value": self.pods_url},
                {"name": "POD_NAME", "valueFrom": field("metadata.name")},
                {"name": "POD_UID", "valueFrom": field("metadata.uid")},
                {"name": "TMPDIR", "value": "/tmp"},
            ],
            "resources": {"limits": {"memory": memory}, "requests": {"cpu": "10m", "memory": "16Mi"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        });
        let labels = json!({"app": name});
        let pod = json!({
            "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}],
            "nodeSelector": {"kubernetes.io/hostname": "node1"}, "terminationGracePeriodSeconds": 20,
        });
        let object = json!({
            "metadata": {"name": name, "labels": {"rowlock.dev/worker": "true"}, "annotations": all},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": pod}},
        });
        let object: Deployment = serde_json::from_value(object).unwrap();
        self.api::<Deployment>().create(&PostParams::default(), &object).await.unwrap();
    }

    /// Changes what a Deployment's Pods will be.
    pub async fn patch_pods(&self, deployment: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": {"template": {"spec": spec}}}));
        self.api::<Deployment>().patch(deployment, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn annotate(&self, deployment: &str, annotations: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        self.api::<Deployment>().patch_metadata(deployment, &PatchParams::default(), &patch).await.unwrap();
    }

    /// A type whose jobs take so long, in a handler or as a command.
    pub async fn job_type(&self, name: &str, milliseconds: u32, once: bool) {
        let mut command = vec!["/job".to_owned(), milliseconds.to_string(), format!("ledger={}", self.ledger.address)];
        if once {
            command.push("once".into());
        }
        let launch = if once { "process" } else { "resident" };
        let expected = format!("{milliseconds} milliseconds");
        let row = json!({"name": name, "launch": launch, "command": command, "expected": expected});
        self.sql.query("SELECT rowlock.put_job_type($1)", &[&row]).await.unwrap();
    }

    pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        sql: &str,
        args: &[&(dyn ToSql + Sync)],
    ) -> T {
        match self.sql.query_one(sql, args).await {
            Ok(row) => row.get(0),
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }

    pub async fn replicas(&self, deployment: &str) -> i32 {
        self.api::<Deployment>().get(deployment).await.unwrap().spec.unwrap().replicas.unwrap()
    }

    pub async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
    }

    pub async fn workers(&self) -> i64 {
        self.one("SELECT count(*) FROM rowlock.workers WHERE NOT draining", &[]).await
    }

    pub async fn kill(&self, pod: &str) {
        self.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

/// Asks again until the answer is yes; how long it took.
pub async fn within<F: Future<Output = bool>>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> Duration {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < patience, "waited {patience:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

pub async fn eventually<F: Future<Output = bool>>(what: &str, ask: impl FnMut() -> F) -> Duration {
    within(what, PATIENCE, ask).await
}
