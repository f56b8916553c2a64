//! The Kubernetes API, and the only way to it. Its rooms: `error`, the failures; `watch`, a local copy of the objects
//! of one kind; `events`, messages to people who look at an object; `database`, the way to the database of a release.
//!
//! Every call has an end: kube's has none by itself, and it repeats calls on its own, creations too. Both are off
//! here: only the caller knows whether a call may be repeated.

mod database;
mod error;
mod events;
mod watch;

use std::{env, future::Future, path::PathBuf, time::Duration};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};

pub use self::{
    database::LocateError,
    error::ClusterError,
    events::{Events, Kind},
    watch::Watched,
};

/// A call that takes longer has failed; its effect is then unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this time is dead: a watch is renewed sooner by itself.
const READ_TIMEOUT: Duration = Duration::from_secs(50);
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The choice of a cluster, and of a namespace in it.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// A kubeconfig file; by default the files that `KUBECONFIG` names.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; by default its current one.
    pub context: Option<String>,
    /// The namespace; by default the context's, or the service account's.
    pub namespace: Option<String>,
}

/// One namespace of a cluster. A clone is cheap.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    /// The API server, and the place where this program has it from.
    origin: String,
    inside: bool,
}

impl Cluster {
    /// Finds the cluster that is asked for, or the one that this process runs in; none if nothing points to one. It
    /// makes no call yet.
    ///
    /// # Errors
    /// [`ClusterError::Config`] if the kubeconfig or the service account cannot be used.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::cluster::ClusterError> {
    /// use rowlock::cluster::{Cluster, ClusterOptions};
    /// if let Some(cluster) = Cluster::find(&ClusterOptions::default()).await? {
    ///     println!("in namespace {}", cluster.namespace());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn find(options: &ClusterOptions) -> Result<Option<Cluster>, ClusterError> {
        let variable = env::var_os("KUBECONFIG").is_some_and(|v| !v.is_empty());
        let inside = env::var_os("KUBERNETES_SERVICE_HOST").is_some() && std::path::Path::new(TOKEN_FILE).exists();
        let asked = options.kubeconfig.is_some() || options.context.is_some();
        if asked || variable || (options.namespace.is_some() && !inside) {
            return Self::outside(options).await.map(Some);
        }
        let config = if inside {
            let help = "mount a service account's token, or give --kubeconfig";
            Config::incluster().map_err(|e| ClusterError::Config(format!("the service account: {e}; {help}")))?
        } else {
            return Ok(None);
        };
        Self::with(config, options.namespace.clone(), None).map(Some)
    }

    /// Finds the cluster that a person means: the one of the kubeconfig, in its usual place if nothing names one.
    ///
    /// # Errors
    /// [`ClusterError::Config`] if there is none, or it cannot be used.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), rowlock::cluster::ClusterError> {
    /// let cluster = rowlock::cluster::Cluster::outside(&Default::default()).await?;
    /// # Ok(()) }
    /// ```
    pub async fn outside(options: &ClusterOptions) -> Result<Cluster, ClusterError> {
        let source = match (&options.kubeconfig, env::var("KUBECONFIG")) {
            (Some(file), _) => file.display().to_string(),
            (None, Ok(files)) if !files.is_empty() => format!("KUBECONFIG={files}"),
            _ => "the kubeconfig in its usual place".into(),
        };
        let source = match &options.context {
            Some(context) => format!("context {context} of {source}"),
            None => source,
        };
        Self::with(Self::from_file(options).await?, options.namespace.clone(), Some(source))
    }

    async fn from_file(options: &ClusterOptions) -> Result<Config, ClusterError> {
        let context = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
        let wrong = |e: kube::config::KubeconfigError| {
            ClusterError::Config(format!("kubeconfig: {e}; correct --kubeconfig, KUBECONFIG or --context"))
        };
        let file = match &options.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        Config::from_custom_kubeconfig(file.map_err(wrong)?, &context).await.map_err(wrong)
    }

    fn with(mut config: Config, namespace: Option<String>, source: Option<String>) -> Result<Cluster, ClusterError> {
        // One provider everywhere. An error says that it is set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        config.default_retry = false;
        config.connect_timeout = Some(CALL_TIMEOUT);
        config.write_timeout = Some(CALL_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // Otherwise the time for which a connection lay idle would count.
        config.reset_reader_on_write = true;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let inside = source.is_none();
        let origin =
            format!("{} (from {})", config.cluster_url, source.as_deref().unwrap_or("this Pod's service account"));
        let client = Client::try_from(config).map_err(|e| ClusterError::Config(format!("the cluster: {e}")))?;
        Ok(Cluster { client, namespace, origin, inside })
    }

    /// The name of the namespace.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster) {
    /// assert!(!cluster.namespace().is_empty());
    /// # }
    /// ```
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The API server and the place where this program has it from, for people.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster) {
    /// println!("the cluster at {}", cluster.origin());
    /// # }
    /// ```
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether this process runs in a Pod of the cluster.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster) {
    /// let outside = !cluster.is_inside();
    /// # }
    /// ```
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// The API of one kind of objects in the namespace. Its calls go through [`call`](Self::call).
    ///
    /// ```no_run
    /// # async fn f(cluster: &rowlock::cluster::Cluster) -> Result<(), rowlock::cluster::ClusterError> {
    /// let pods = cluster.api::<k8s_openapi::api::core::v1::Pod>();
    /// let pod = cluster.call("get pod web-0", pods.get("web-0")).await?;
    /// # Ok(()) }
    /// ```
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes one call, once, and ends it within a bound. `what` is for people: a verb and an object.
    ///
    /// # Errors
    /// [`ClusterError`]; after [`ClusterError::Late`] and [`ClusterError::Away`] it may have had its effect.
    ///
    /// ```no_run
    /// # async fn f(cluster: &rowlock::cluster::Cluster) -> Result<(), rowlock::cluster::ClusterError> {
    /// let pods = cluster.api::<k8s_openapi::api::core::v1::Pod>();
    /// let gone = cluster.call("delete pod web-0", pods.delete("web-0", &Default::default())).await;
    /// assert!(gone.is_ok() || gone.is_err_and(|e| !e.is_away()));
    /// # Ok(()) }
    /// ```
    pub async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(|e| ClusterError::of(what, e)),
            Err(_) => Err(ClusterError::Late { what: what.to_owned(), after: CALL_TIMEOUT }),
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
