//! What an administrator does to etcd, by its HTTP API.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use xtask::cluster::Cluster;

/// The etcd of a cluster.
pub struct Etcd {
    socket: PathBuf,
}

impl Etcd {
    pub fn of(cluster: &Cluster) -> Self {
        Self { socket: cluster.etcd_socket() }
    }

    /// Forgets all that has been overwritten up to now.
    pub async fn compact(&self) {
        // Any read tells the revision; this one is of a key that there is not.
        let now = self.call("kv/range", &json!({"key": "AA=="})).await;
        self.call("kv/compaction", &json!({"revision": now["header"]["revision"], "physical": true})).await;
    }

    /// Gives the room back that compaction has made.
    pub async fn defragment(&self) {
        self.call("maintenance/defragment", &json!({})).await;
    }

    /// The alarms that have been raised and not been ended.
    pub async fn alarms(&self) -> Vec<Value> {
        let answer = self.call("maintenance/alarm", &json!({"action": "GET"})).await;
        answer["alarms"].as_array().cloned().unwrap_or_default()
    }

    /// Ends all alarms.
    pub async fn disarm(&self) {
        for alarm in self.alarms().await {
            let end = json!({"action": "DEACTIVATE", "memberID": alarm["memberID"], "alarm": alarm["alarm"]});
            self.call("maintenance/alarm", &end).await;
        }
    }

    async fn call(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "POST /v3/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.lines().next().unwrap().contains(" 200 "), "{path}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}
