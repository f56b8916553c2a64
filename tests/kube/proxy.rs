//! A proxy of connections to the API server, which can fall silent as a lost network does.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub struct Proxy {
    silent: Arc<AtomicBool>,
    pub kubeconfig: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// With a kubeconfig that leads through it.
    pub async fn start(name: &str) -> Proxy {
        let given = std::env::var("KUBECONFIG").expect("KUBECONFIG");
        let text = std::fs::read_to_string(given).unwrap();
        let server = text.lines().find_map(|l| l.trim().strip_prefix("server: https://")).unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = server.split(':').next().unwrap().to_owned();
        let through = format!("server: https://{address}\n    tls-server-name: {host}");
        let kubeconfig = std::env::temp_dir().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, text.replace(&format!("server: https://{server}"), &through)).unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let quiet = silent.clone();
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(&server).await else { continue };
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                tokio::spawn(copy(from_read, to_write, quiet.clone()));
                tokio::spawn(copy(to_read, from_write, quiet.clone()));
            }
        });
        Proxy { silent, kubeconfig, task }
    }

    /// Connections stay, and nothing passes; what was sent meanwhile is lost with them.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn speak(&self) {
        self.silent.store(false, Ordering::Relaxed);
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    silent: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 65536];
    let mut torn = false;
    while let Ok(n) = from.read(&mut bytes).await {
        if n == 0 {
            return;
        }
        // What a connection has lost cannot be made good: it stays half there.
        torn |= silent.load(Ordering::Relaxed);
        if torn {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
