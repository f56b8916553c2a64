//! A wire to Postgres that a test can freeze: open connections stay open and carry nothing.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub struct Proxy {
    port: u16,
    frozen: watch::Sender<bool>,
    /// Connections there were.
    pub seen: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A wire to the server of this URL.
    pub async fn to(url: &str) -> Proxy {
        let address = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, freezes) = watch::channel(false);
        let (count, seen) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.send_modify(|n| *n += 1);
                let server = TcpStream::connect(&address).await.unwrap();
                let ((from, to), (back, fro)) = (client.into_split(), server.into_split());
                wires.spawn(carry(from, fro, freezes.clone()));
                wires.spawn(carry(back, to, freezes.clone()));
            }
        });
        Proxy { port, frozen, seen, _tasks: tasks }
    }

    /// The URL through the proxy.
    pub fn url(&self, url: &str) -> String {
        let (user, rest) = url.split_once('@').unwrap();
        let database = rest.split_once('/').unwrap().1;
        format!("{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut frozen: watch::Receiver<bool>,
) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if frozen.wait_for(|f| !f).await.is_err() || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
