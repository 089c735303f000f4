//! Every malformed request, alone and behind a good one, and what the workers have got when all is over.

use std::io::Read as _;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::Signal;

use super::bodies::{BODIES, too_much};
use super::heads::{HEADS, too_large};
use super::{Pool, Proxy, SMUGGLED, written};
use crate::harness::eventually;
use crate::harness::recorder::Record;

fn holds(record: &Record, text: &str) -> bool {
    record.bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Ends sticky and, with it, all connections; then each must have carried whole requests for one of these paths, except
/// for what it was closed in the middle of, which begins with `broken`.
#[track_caller]
pub fn all_well_formed(mut pool: Pool, paths: &[&str], broken: &str) {
    pool.sticky.signal(Signal::TERM);
    pool.sticky.wait();
    let records = pool.workers.wait_for("all connections are closed", |records| {
        records.iter().all(|record| record.closed).then(|| records.to_vec())
    });
    assert!(!records.is_empty());
    for record in records {
        let text = record.bytes.escape_ascii().to_string();
        let (requests, rest) = record.requests().unwrap_or_else(|error| panic!("{error} in {text:?}"));
        for request in requests {
            let path = request.line.split(' ').nth(1).unwrap_or_default();
            assert!(paths.contains(&path), "{path} reached a worker: {text:?}");
        }
        assert!(rest.is_empty() || rest.starts_with(broken.as_bytes()), "{text:?}");
    }
}

#[test]
fn nothing_of_a_malformed_head_reaches_a_worker() {
    let pool = Pool::new();
    pool.serves("/before");
    let heads = HEADS.iter().map(|(status, head)| (*status, (*head).to_owned())).chain(too_large());
    let heads: Vec<_> = heads.collect();
    for (number, (status, head)) in heads.iter().enumerate() {
        let head = written(head, &format!("row-{number}-"));
        let mut proxy = Proxy::dial();
        proxy.send(head.clone() + SMUGGLED);
        let statuses: Vec<_> = proxy.answers().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [*status], "{head:.200?}");

        // Behind a good request, which is answered first.
        let mut proxy = Proxy::dial();
        proxy.send(written("GET /good HTTP/1.1\r\n$H\r\n", "") + &head + SMUGGLED);
        let statuses: Vec<_> = proxy.answers().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [200, *status], "behind a good one: {head:.200?}");
        let records = pool.workers.records();
        assert!(!records.iter().any(|record| holds(record, "row-")), "a worker got some of {head:.200?}");
    }
    pool.serves("/after");
    let sent = 2 * heads.len() as u64;
    eventually("all were counted", || (pool.counted("malformed") == sent).then_some(()));
    all_well_formed(pool, &["/before", "/good", "/after"], "nothing");
}

#[test]
fn a_malformed_body_is_never_complete() {
    let pool = Pool::new();
    pool.serves("/before");
    let bodies = BODIES.iter().map(|(good, bad)| (400, *good, (*bad).to_owned())).chain(too_much());
    let bodies: Vec<_> = bodies.collect();
    for (number, (status, good, bad)) in bodies.iter().enumerate() {
        let name = format!("/row-{number}-");
        let head = written("POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n", &name);
        // A worker has got the beginning when the rest comes.
        let mut proxy = Proxy::dial();
        proxy.send(head.clone() + good);
        let worker = pool.workers.wait_for("a worker gets the head", |records| {
            records.iter().position(|record| holds(record, &name))
        });
        proxy.send(bad.clone() + SMUGGLED);
        let statuses: Vec<_> = proxy.answers().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [*status], "{good:?}, then {bad:.80?}");
        pool.workers
            .wait_for("the worker's connection is closed", |records| records[worker].closed.then_some(()));

        // All at once.
        let mut proxy = Proxy::dial();
        proxy.send(head + good + bad + SMUGGLED);
        let statuses: Vec<_> = proxy.answers().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [*status], "at once: {good:?}{bad:.80?}");
    }
    pool.serves("/after");
    let sent = 2 * bodies.len() as u64;
    eventually("all were counted", || (pool.counted("malformed") == sent).then_some(()));
    all_well_formed(pool, &["/before", "/after"], "POST /row-");
}

#[test]
fn a_body_that_ends_early_is_never_complete() {
    let pool = Pool::new();
    for (number, (length, body)) in
        [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n")]
            .iter()
            .enumerate()
    {
        for whole in [false, true] {
            let name = format!("/row-{number}-{whole}");
            let mut proxy = Proxy::dial();
            proxy.send(written(&format!("POST $ HTTP/1.1\r\n$H{length}\r\n\r\n{body}"), &name));
            let worker = pool.workers.wait_for("a worker gets the head", |records| {
                records.iter().position(|record| holds(record, &name))
            });
            // The proxy is gone, or just says no more.
            let shutdown = if whole { std::net::Shutdown::Both } else { std::net::Shutdown::Write };
            proxy.0.shutdown(shutdown).expect("the connection is there");
            pool.workers.wait_for("the worker's connection is closed", |records| {
                records[worker].closed.then_some(())
            });
        }
    }
    pool.serves("/after");
    all_well_formed(pool, &["/after"], "POST /row-");
}

#[test]
fn a_body_that_is_malformed_behind_its_answer_gets_no_second_one() {
    let pool = Pool::new();
    for (path, answer) in [("/early", "/early"), ("/early/half", "hello")] {
        let mut proxy = Proxy::dial();
        proxy.send(written("POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", path));
        // As much of the answer as there is.
        let mut heard = Vec::new();
        while !heard.ends_with(format!("\r\n\r\n{answer}").as_bytes()) {
            let mut byte = [0];
            proxy.0.read_exact(&mut byte).expect("an answer");
            heard.extend(byte);
        }
        proxy.send(format!("5\nworld\r\n{SMUGGLED}"));
        assert_eq!(proxy.answers(), [], "{path}");
        pool.workers.wait_for("the worker's connection is closed", |records| {
            records.iter().all(|record| record.closed).then_some(())
        });
    }
    pool.serves("/after");
    all_well_formed(pool, &["/after"], "POST /early");
}

#[test]
fn a_body_that_was_invited_is_refused_all_the_same() {
    let pool = Pool::new();
    let mut proxy = Proxy::dial();
    proxy.send(written(
        "POST /expect HTTP/1.1\r\n$HExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        "",
    ));
    let mut invitation = [0; 25];
    proxy.0.read_exact(&mut invitation).expect("an invitation");
    assert_eq!(&invitation, b"HTTP/1.1 100 Continue\r\n\r\n");
    proxy.send(format!("5\nworld\r\n{SMUGGLED}"));
    assert_eq!(proxy.answers(), [(400, String::new())]);
    all_well_formed(pool, &[], "POST /expect");
}

#[test]
fn a_refusal_waits_until_the_answer_before_it_is_sent() {
    let _pool = Pool::new();
    // Some of these lengths fit into the buffers of sockets, some do not, and of some only the end does not.
    for length in (1..=40).map(|n| n * 200_000) {
        let mut proxy = Proxy::dial();
        sockopt::set_socket_recv_buffer_size(&proxy.0, 64 * 1024).expect("a socket");
        proxy.send(written("GET /big/$ HTTP/1.1\r\n$H\r\n", &length.to_string()));
        proxy.send(written("GET /row-  HTTP/1.1\r\n$H\r\n", ""));
        // All buffers fill up before the first byte is read.
        std::thread::park_timeout(Duration::from_millis(25));
        let answers = proxy.answers();
        let summary: Vec<_> = answers.iter().map(|(status, body)| (*status, body.len())).collect();
        assert_eq!(summary, [(200, length), (400, 0)]);
        assert!(!answers[0].1.contains("HTTP"), "{length}");
    }
}
