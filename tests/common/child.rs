//! A program that reads its input, prints and ends.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Runs `command` on `input` until it ends, a minute at most.
pub async fn output(command: &mut Command, input: &str) -> Output {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()).await; // some end before they read, and say why
    drop(stdin);
    timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap()
}
