//! The Kubernetes API, and the only way to it. Its rooms: `error`, what can go wrong; `watch`, a local copy of what
//! is there; `events`, what is told to people who look at an object; `database`, where a release's is.
//!
//! Every call has an end: kube's has none by itself, and it repeats calls on its own, creations too. Both are off
//! here: whoever calls knows what may be asked again.

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

/// A call that takes longer has failed; whether it had an effect is then unknown.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is dead: a watch is renewed sooner by itself.
const SILENCE: Duration = Duration::from_secs(50);
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Which cluster, and what of it.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// A kubeconfig; by default the files that `KUBECONFIG` names.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; by default its current one.
    pub context: Option<String>,
    /// By default the context's, or the service account's.
    pub namespace: Option<String>,
}

/// One namespace of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// The cluster that is asked for, or the one this process runs in; none if nothing points to one. No call is
    /// made yet.
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
        let inside = env::var_os("KUBERNETES_SERVICE_HOST").is_some() && std::path::Path::new(TOKEN).exists();
        let asked = options.kubeconfig.is_some() || options.context.is_some();
        let config = if asked || variable || (options.namespace.is_some() && !inside) {
            Self::from_file(options).await?
        } else if inside {
            let help = "mount a service account's token, or give --kubeconfig";
            Config::incluster().map_err(|e| ClusterError::Config(format!("the service account: {e}; {help}")))?
        } else {
            return Ok(None);
        };
        Self::with(config, options.namespace.clone()).map(Some)
    }

    /// The cluster that a person means: the kubeconfig's, in its usual place if nothing names one.
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
        Self::with(Self::from_file(options).await?, options.namespace.clone())
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

    fn with(mut config: Config, namespace: Option<String>) -> Result<Cluster, ClusterError> {
        // One provider everywhere. An error says that it is set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        config.default_retry = false;
        config.connect_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        config.read_timeout = Some(SILENCE);
        // Else the time for which a connection lay idle would count.
        config.reset_reader_on_write = true;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|e| ClusterError::Config(format!("the cluster: {e}")))?;
        Ok(Cluster { client, namespace })
    }

    /// The namespace.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster) {
    /// assert!(!cluster.namespace().is_empty());
    /// # }
    /// ```
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Objects of one kind in the namespace. What is asked of them goes through [`call`](Self::call).
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

    /// One call, which ends within a bound and is made once. `what` is for people: a verb and an object.
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
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map_err(|e| ClusterError::of(what, e)),
            Err(_) => Err(ClusterError::Late { what: what.to_owned(), after: PATIENCE }),
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
