//! The way from outside a cluster to the database of a release: a Secret tells its controller the URL, and this user
//! may be able to read that Secret.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        core::v1::{Container, EnvVar, PodSpec, Secret, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::api::ListParams;

use super::{Cluster, ClusterError};
use crate::{Error, Target};

/// The chart puts these labels on its controllers.
const CONTROLLERS: &str = "app.kubernetes.io/part-of=rowlock,app.kubernetes.io/component=controller";
/// A container has the URL of the database in one of these variables.
const VARIABLES: [&str; 2] = ["ROWLOCK_DATABASE_URL", "DATABASE_URL"];
/// Or one of these names a file of the container that holds it.
const FILES: [&str; 2] = ["ROWLOCK_DATABASE_URL_FILE", "DATABASE_URL_FILE"];
const INSTEAD: &str = "set DATABASE_URL instead";

/// There is no way to the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The API refused a call, or did not answer.
    #[error("looking for the database in the cluster: {0}; {INSTEAD}")]
    Cluster(#[from] ClusterError),
    /// There is no release, or there are several.
    #[error("{0}; {INSTEAD}")]
    Ambiguous(String),
    /// The user may not read the Secret.
    #[error("you may not read secret {secret} in namespace {namespace}, which holds the database's URL; {INSTEAD}")]
    Forbidden {
        /// Its name.
        secret: String,
        /// Its namespace.
        namespace: String,
    },
    /// The Secret's URL cannot be used.
    #[error("secret {secret}, key {key}: {source}")]
    Url {
        /// Its name.
        secret: String,
        /// The key in it.
        key: String,
        /// The reason.
        source: Error,
    },
    /// The Service that the URL names has no Pod that is ready.
    #[error("the database's Service {0} has no Pod that is ready; look with: kubectl get endpointslices")]
    NoEndpoint(String),
    /// No port of this machine was free to listen on.
    #[error("a local port for the way into the cluster: {0}")]
    Listen(#[source] std::io::Error),
}

impl Cluster {
    /// Finds the database of the release in this namespace. If its host is a Service of the cluster, connections lead
    /// through the API server, as `kubectl port-forward` does it; TLS still verifies the Service's name.
    ///
    /// # Errors
    /// [`LocateError`], which says what to do.
    ///
    /// ```no_run
    /// # async fn f(cluster: &rowlock::cluster::Cluster) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = rowlock::JobQueue::connect_target(cluster.database().await?, &["default"], 4).await?;
    /// # Ok(()) }
    /// ```
    pub async fn database(&self) -> Result<Target, LocateError> {
        let controllers = self.api::<Deployment>();
        let labelled = ListParams::default().labels(CONTROLLERS);
        let found = self.call("list deployments", controllers.list(&labelled)).await?;
        let (secret, key) = one_of(found.items.iter().flat_map(secrets).collect(), self.namespace())?;
        let target = self.secret_url(&secret, &key).await?;
        match target.host().and_then(|(host, port)| Some((service_of(&host, self.namespace())?.to_owned(), port))) {
            Some((service, port)) => match self.endpoint(&service, port).await? {
                Some((pod, port)) => {
                    let local = self.tunnel(pod, port).await.map_err(LocateError::Listen)?;
                    target.by(local).map_err(|source| LocateError::Url { secret, key, source })
                }
                None => Ok(target),
            },
            None => Ok(target),
        }
    }

    async fn secret_url(&self, name: &str, key: &str) -> Result<Target, LocateError> {
        let secret = match self.call(&format!("get secret {name}"), self.api::<Secret>().get(name)).await {
            Err(ClusterError::Forbidden { .. }) => {
                return Err(LocateError::Forbidden { secret: name.into(), namespace: self.namespace().into() });
            }
            answer => answer?,
        };
        let wrong = |source| LocateError::Url { secret: name.into(), key: key.into(), source };
        let Some(ByteString(url)) = secret.data.unwrap_or_default().remove(key) else {
            return Err(wrong(Error::Config("expected a URL, there is no such key".into())));
        };
        let url = String::from_utf8(url).map_err(|_| wrong(Error::Config("expected UTF-8".into())))?;
        Target::parse(url.trim()).map_err(wrong)
    }

    /// Finds a Pod behind a Service, and its port for the Service's. None for a Service that leads out of the cluster,
    /// or that does not exist: the name then means something else.
    async fn endpoint(&self, service: &str, port: u16) -> Result<Option<(String, u16)>, LocateError> {
        let spec = match self.call(&format!("get service {service}"), self.api::<Service>().get(service)).await {
            Err(ClusterError::NotFound(_)) => return Ok(None),
            found => found?.spec.unwrap_or_default(),
        };
        if spec.selector.is_none_or(|s| s.is_empty()) {
            return Ok(None);
        }
        let name = spec.ports.unwrap_or_default().into_iter().find(|p| p.port == i32::from(port)).and_then(|p| p.name);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = self.call("list endpointslices", self.api::<EndpointSlice>().list(&of_service)).await?;
        let pod = slices.items.iter().find_map(|slice| ready(slice, name.as_deref()));
        pod.map(Some).ok_or_else(|| LocateError::NoEndpoint(service.into()))
    }

    /// Opens a port of this machine whose connections lead to a port of a Pod, as long as the process lives.
    async fn tunnel(&self, pod: String, port: u16) -> std::io::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let local = listener.local_addr()?;
        let cluster = self.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (cluster, pod) = (cluster.clone(), pod.clone());
                tokio::spawn(async move {
                    let pods = cluster.api::<k8s_openapi::api::core::v1::Pod>();
                    let what = format!("port-forward to pod {pod}");
                    // A failure is seen by the database's client, which can only say that nobody answers.
                    match cluster.call(&what, pods.portforward(&pod, &[port])).await {
                        Ok(mut forward) => {
                            if let Some(mut far) = forward.take_stream(port) {
                                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                            }
                        }
                        Err(error) => tracing::error!(%error, "no way to the database"),
                    }
                });
            }
        });
        Ok(local)
    }
}

/// The Secrets, each with a key, from which a controller has the database's URL.
fn secrets(controller: &Deployment) -> Vec<(String, String)> {
    let Some(spec) = controller.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return Vec::new() };
    let of_container = |c: &Container| -> Vec<(String, String)> {
        let env = c.env.iter().flatten();
        env.filter_map(|variable| in_variable(variable).or_else(|| in_file(variable, c, spec))).collect()
    };
    spec.containers.iter().flat_map(of_container).collect()
}

fn in_variable(variable: &EnvVar) -> Option<(String, String)> {
    let from = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
    VARIABLES.contains(&variable.name.as_str()).then(|| (from.name.clone(), from.key.clone()))
}

/// The file that a variable names, if it is the key of a Secret that is mounted there.
fn in_file(variable: &EnvVar, container: &Container, spec: &PodSpec) -> Option<(String, String)> {
    let file = variable.value.as_deref().filter(|_| FILES.contains(&variable.name.as_str()))?;
    let (mount, path) = container.volume_mounts.iter().flatten().find_map(|mount| {
        let path = Path::new(file).strip_prefix(&mount.mount_path).ok()?;
        let within = Path::new(mount.sub_path.as_deref().unwrap_or_default());
        Some((mount, within.components().chain(path.components()).collect::<PathBuf>()))
    })?;
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
    let secret = volume.secret.as_ref()?;
    let key = match &secret.items {
        Some(items) => items.iter().find(|item| Path::new(&item.path) == path)?.key.clone(),
        None => path.to_str()?.to_owned(),
    };
    Some((secret.secret_name.clone()?, key))
}

fn one_of(found: BTreeSet<(String, String)>, namespace: &str) -> Result<(String, String), LocateError> {
    let names = found.iter().map(|(secret, _)| secret.as_str()).collect::<Vec<_>>().join(", ");
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(LocateError::Ambiguous(format!(
            "no Rowlock controller with a Secret for its database in namespace {namespace} (choose one with -n)"
        ))),
        _ => Err(LocateError::Ambiguous(format!("several releases in namespace {namespace}, with secrets {names}"))),
    }
}

/// The Service of this namespace that a host may be, as Pods there spell it.
fn service_of<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let mut parts = host.trim_end_matches('.').splitn(3, '.');
    let service = parts.next().filter(|s| !s.is_empty() && s.parse::<u8>().is_err())?;
    match (parts.next(), parts.next()) {
        (None, _) => Some(service),
        (Some(n), None | Some("svc" | "svc.cluster.local")) if n == namespace => Some(service),
        _ => None,
    }
}

/// The first Pod of a slice that is ready, and its port of that name.
fn ready(slice: &EndpointSlice, port: Option<&str>) -> Option<(String, u16)> {
    let number = slice
        .ports
        .iter()
        .flatten()
        .find(|p| p.name.as_deref().unwrap_or_default() == port.unwrap_or_default())
        .and_then(|p| u16::try_from(p.port?).ok())?;
    slice
        .endpoints
        .iter()
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        .filter_map(|e| e.target_ref.as_ref())
        .find(|t| t.kind.as_deref() == Some("Pod"))
        .and_then(|t| Some((t.name.clone()?, number)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_service_if_pods_of_the_namespace_would_take_it_for_one() {
        for host in ["db", "db.app", "db.app.svc", "db.app.svc.cluster.local", "db.app.svc.cluster.local."] {
            assert_eq!(service_of(host, "app"), Some("db"), "{host}");
        }
        for host in ["db.other.svc", "db.example.com", "10.1.2.3", "127.0.0.1", ""] {
            assert_eq!(service_of(host, "app"), None, "{host}");
        }
    }

    #[test]
    fn several_replicas_are_one_release_and_two_releases_are_told_apart() {
        let pair = |s: &str| (s.to_owned(), "url".to_owned());
        assert_eq!(one_of([pair("a"), pair("a")].into(), "app").unwrap(), pair("a"));
        let several = one_of([pair("a"), pair("b")].into(), "app").unwrap_err().to_string();
        assert!(several.contains("a, b") && several.contains("DATABASE_URL"), "{several}");
        assert!(one_of(BTreeSet::new(), "app").unwrap_err().to_string().contains("-n"));
    }

    #[test]
    fn the_secret_is_where_the_controller_has_it_from() {
        let controller: Deployment = serde_json::from_value(serde_json::json!({"spec": {
            "selector": {},
            "template": {"spec": {"containers": [{"name": "rowlock", "env": [
                {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "no", "key": "no"}}},
                {"name": "ROWLOCK_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}},
            ]}]}},
        }}))
        .unwrap();
        assert_eq!(secrets(&controller), [("db".to_owned(), "url".to_owned())]);
    }

    #[test]
    fn the_secret_is_the_one_that_is_mounted_where_the_controller_reads_its_file() {
        let of = |file: &str, mount: serde_json::Value, secret: serde_json::Value| {
            let controller: Deployment = serde_json::from_value(serde_json::json!({"spec": {
                "selector": {},
                "template": {"spec": {
                    "containers": [{"name": "controller", "env": [
                        {"name": "ROWLOCK_LISTEN_URL_FILE", "value": "/etc/rowlock/listen"},
                        {"name": "ROWLOCK_DATABASE_URL_FILE", "value": file},
                    ], "volumeMounts": [{"name": "other", "mountPath": "/etc/other"}, mount]}],
                    "volumes": [{"name": "other", "emptyDir": {}}, {"name": "db", "secret": secret}],
                }},
            }}))
            .unwrap();
            secrets(&controller)
        };
        let mount = serde_json::json!({"name": "db", "mountPath": "/etc/rowlock"});
        let items = serde_json::json!({"secretName": "s", "items": [{"key": "pooled", "path": "url"}]});
        let all = serde_json::json!({"secretName": "s"});
        let found = |key: &str| vec![("s".to_owned(), key.to_owned())];
        assert_eq!(of("/etc/rowlock/url", mount.clone(), items.clone()), found("pooled"));
        assert_eq!(of("/etc/rowlock/url", mount.clone(), all.clone()), found("url"));
        let alone = serde_json::json!({"name": "db", "mountPath": "/url", "subPath": "pooled"});
        assert_eq!(of("/url", alone, all.clone()), found("pooled"));
        for elsewhere in ["/etc/rowlock2/url", "/etc/other/url", "/etc/rowlock/direct"] {
            assert_eq!(of(elsewhere, mount.clone(), items.clone()), [], "{elsewhere}");
        }
    }

    #[test]
    fn an_endpoint_is_a_pod_that_is_ready_and_its_port_has_the_name_of_the_services() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 9187}, {"name": "postgres", "port": 5433}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod",
                 "name": "db-0"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod",
                 "name": "db-1"}},
            ],
        }))
        .unwrap();
        assert_eq!(ready(&slice, Some("postgres")), Some(("db-1".into(), 5433)));
        assert_eq!(ready(&slice, None), None);
    }
}
