//! The real program, killed without warning: what it acknowledged is there afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use common::{TinyRun, get, publish, put_blob, tiny_run};
use shoal_wire::{Digest, RunId};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::Notify,
    task::JoinSet,
};

struct Program {
    child: Child,
    address: SocketAddr,
}

async fn start(data_dir: &Path) -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_shoal-relay"))
        .args(["--listen", "127.0.0.1:0", "--no-https", "--data-dir"])
        .arg(data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the address is printed");
        if let Some((_, rest)) = line.split_once("http://localhost:") {
            let port = rest.trim_end_matches('/').parse().unwrap();
            return Program { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        }
    }
}

fn token(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("host.token")).unwrap().trim().to_owned()
}

/// Uploads and publishes run after run until the relay is gone; returns what was acknowledged.
async fn upload(to: SocketAddr, token: String, worker: usize, some: Arc<Notify>) -> (Vec<Digest>, Vec<RunId>) {
    let (mut blobs, mut runs) = (Vec::new(), Vec::new());
    for number in 0.. {
        let TinyRun { envelope, id, blobs: parts } = tiny_run(&format!("run {worker}-{number}"));
        for part in &parts {
            match put_blob(to, &token, part).await {
                Ok(answer) if matches!(answer.status, 200 | 201) => blobs.push(Digest::of(part)),
                Ok(answer) => panic!("{}", answer.text()),
                Err(_killed) => return (blobs, runs),
            }
        }
        match publish(to, &token, &envelope).await {
            Ok(answer) if answer.status == 201 => runs.push(id),
            Ok(answer) => panic!("{}", answer.text()),
            Err(_killed) => return (blobs, runs),
        }
        if number >= 2 {
            some.notify_one();
        }
    }
    unreachable!("the loop ends when the relay is killed")
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_when_the_relay_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut blobs, mut runs) = (Vec::new(), Vec::new());
    for life in 0..3 {
        let mut program = start(dir.path()).await;
        let some = Arc::new(Notify::new());
        let mut uploads = JoinSet::new();
        for worker in 0..4 {
            uploads.spawn(upload(program.address, token(dir.path()), 10 * life + worker, some.clone()));
        }
        some.notified().await;
        // SIGKILL, in the middle of whatever the four are doing.
        program.child.kill().await.unwrap();
        while let Some(acknowledged) = uploads.join_next().await {
            let (more_blobs, more_runs) = acknowledged.unwrap();
            blobs.extend(more_blobs);
            runs.extend(more_runs);
        }
    }
    assert!(runs.len() >= 9, "{} runs", runs.len());

    let program = start(dir.path()).await;
    let list = get(program.address, "/api/runs").await.text();
    for run in &runs {
        assert!(list.contains(&run.to_string()), "run {run} is lost");
        assert_eq!(get(program.address, &format!("/api/runs/{run}/manifest")).await.status, 200);
    }
    for blob in &blobs {
        let answer = get(program.address, &format!("/api/blobs/{blob}")).await;
        assert_eq!((answer.status, Digest::of(&answer.body)), (200, *blob));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_terminated_relay_exits_cleanly_within_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = start(dir.path()).await;
    let pid = program.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(std::time::Duration::from_secs(5), program.child.wait()).await;
    assert!(status.expect("within five seconds").unwrap().success());
}
