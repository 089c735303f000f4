//! What looks alike and is well-formed: it passes, means one thing only, and takes nothing away.

use super::{Pool, Proxy, written};
use crate::harness::recorder::{Record, Request};

/// The only request for this path, as a worker got it.
#[track_caller]
fn got(records: &[Record], path: &str) -> Option<Request> {
    let requests = records.iter().flat_map(|record| record.requests().expect("well-formed").0);
    requests.into_iter().find(|request| request.line.contains(path))
}

impl Pool {
    /// Sends a request, which must be answered alone; what the worker got.
    #[track_caller]
    fn pass(&self, text: &str, path: &str) -> Request {
        let mut proxy = Proxy::dial();
        proxy.send(written(text, path));
        proxy.send(written("GET /last HTTP/1.1\r\n$HConnection: close\r\n\r\n", ""));
        let answers = proxy.answers();
        assert_eq!(answers.len(), 2, "{text:?}: {answers:?}");
        assert_eq!((answers[0].0, &answers[1]), (200, &(200, "/last".to_owned())), "{text:?}: {answers:?}");
        assert!(answers[0].1.ends_with(path), "{text:?}: {answers:?}");
        let got = got(&self.workers.records(), path).expect("the request");
        assert_eq!(got.all("host"), ["pool"], "{text:?}");
        assert_eq!(got.all("x-forwarded-for"), ["203.0.113.9"], "{text:?}");
        got
    }
}

#[test]
fn look_alikes_are_ordinary_headers() {
    let pool = Pool::new();
    for (number, header) in [
        "Content_Length: 5",
        "Content-Length5: 5",
        "X-Content-Length: 5",
        "Transfer_Encoding: chunked",
        "X-Transfer-Encoding: chunked",
        "Transfer.Encoding: chunked",
        "X_Forwarded_For: 198.51.100.1",
        "X: \u{ff}Content-Length: 5",
        "X: Transfer-Encoding: chunked",
    ]
    .iter()
    .enumerate()
    {
        let got = pool.pass(&format!("GET $ HTTP/1.1\r\n$H{header}\r\n\r\n"), &format!("/row-{number}-"));
        let (name, value) = header.split_once(": ").expect("a header");
        assert_eq!((got.all(name), got.body.len()), (vec![value], 0), "{got:?}");
    }
}

#[test]
fn the_largest_heads_pass() {
    let pool = Pool::new();
    let head = "GET /large HTTP/1.1\r\nHost: pool\r\nX-Forwarded-For: 203.0.113.9\r\nX: \r\n\r\n";
    let value = "x".repeat(32 * 1024 - head.len());
    let got = pool.pass(&format!("GET $ HTTP/1.1\r\n$HX: {value}\r\n\r\n"), "/large");
    assert_eq!(got.all("x"), [value]);
    let got = pool.pass(&format!("GET $ HTTP/1.1\r\n$H{}\r\n", "X: y\r\n".repeat(98)), "/many");
    assert_eq!(got.all("x").len(), 98);
    // In as many pieces as there are bytes.
    let mut proxy = Proxy::dial();
    for byte in written("POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n", "/slow").bytes() {
        proxy.send([byte]);
    }
    assert_eq!(proxy.answers(), [(200, "/slow".to_owned())]);
}

#[test]
fn bodies_end_where_they_say() {
    let pool = Pool::new();
    // CL.0: to whoever overlooks the length this is two requests.
    let inner = "GET /inner HTTP/1.1\r\nHost: pool\r\n\r\n";
    let length = inner.len();
    for (number, text) in [
        format!("POST $ HTTP/1.1\r\n$HContent-Length: {length}\r\n\r\n{inner}"),
        format!("GET $ HTTP/1.1\r\n$HContent-Length: 0{length}\r\n\r\n{inner}"),
        format!("GET http://pool$ HTTP/1.1\r\n$HcOnTeNt-LeNgTh:\t{length}\t\r\n\r\n{inner}"),
        format!("POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"),
        format!("POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n{length:016X};a=\"b;c\"\r\n{inner}\r\n000\r\n\r\n"),
        format!("GET $ HTTP/1.1\r\n$HTRANSFER-ENCODING:CHUNKED\r\n\r\n{length:x} ; x\r\n{inner}\r\n0;y\r\n\r\n"),
    ]
    .iter()
    .enumerate()
    {
        let got = pool.pass(text, &format!("/row-{number}-"));
        assert_eq!(String::from_utf8_lossy(&got.body), inner, "{text:?}");
    }
    assert!(got(&pool.workers.records(), "/inner").is_none());
}

#[test]
fn connection_takes_away_nothing_that_matters() {
    let pool = Pool::new();
    for (number, named) in [
        "X-Forwarded-For",
        "close, X-Forwarded-For",
        "close, Host",
        "Host",
        "x-forwarded-for, hOST, Content-Length",
        "Content-Length",
        "keep-alive, Content-Length, Transfer-Encoding",
        "X-Forwarded-For\r\nConnection: Host",
        "Forwarded, X-Real-IP, X-Forwarded-Proto",
    ]
    .iter()
    .enumerate()
    {
        let path = format!("/row-{number}-");
        let text = format!(
            "POST $ HTTP/1.1\r\n$HForwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.2\r\n\
             X-Forwarded-Proto: https\r\nConnection: {named}\r\nContent-Length: 5\r\n\r\nhello"
        );
        let got = if named.starts_with("close") {
            let mut proxy = Proxy::dial();
            proxy.send(written(&text, &path));
            assert_eq!(proxy.answers(), [(200, path.clone())], "{named}");
            got(&pool.workers.records(), &path).expect("the request")
        } else {
            pool.pass(&text, &path)
        };
        for (name, value) in [
            ("host", "pool"),
            ("x-forwarded-for", "203.0.113.9"),
            ("forwarded", "for=198.51.100.1"),
            ("x-real-ip", "198.51.100.2"),
            ("x-forwarded-proto", "https"),
        ] {
            assert_eq!(got.all(name), [value], "Connection: {named}");
        }
        assert_eq!(got.body, b"hello", "Connection: {named}");
    }
}

#[test]
fn h2c_is_not_offered_to_workers() {
    let pool = Pool::new();
    let got = pool.pass(
        "GET $ HTTP/1.1\r\n$HConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "/h2c",
    );
    for name in ["upgrade", "http2-settings"] {
        assert!(got.all(name).is_empty(), "{got:?}");
    }
    let connection = got.all("connection").join(",").to_lowercase();
    assert!(!connection.contains("upgrade") && !connection.contains("settings"), "{got:?}");
}

#[test]
fn trailers_say_nothing_about_the_request() {
    let pool = Pool::new();
    for (number, trailers) in [
        "Content-Length: 5",
        "Transfer-Encoding: identity",
        "Host: other",
        "X-Forwarded-For: 198.51.100.66",
        "X-Checksum: 1\r\nX-Real-IP: 198.51.100.66\r\nForwarded: for=198.51.100.66\r\nConnection: close",
    ]
    .iter()
    .enumerate()
    {
        let names: Vec<_> = trailers.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
        let names = names.join(", ");
        let path = format!("/row-{number}-");
        let got = pool.pass(
            &format!(
                "POST $ HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n\r\n"
            ),
            &path,
        );
        assert_eq!(got.body, b"hello", "{trailers}");
        // Some workers merge trailers into the headers.
        let names: Vec<_> = got.trailers.iter().map(|(name, _)| name.to_lowercase()).collect();
        assert!(names.iter().all(|name| name == "x-checksum"), "{got:?}");
        assert!(!got.all("trailer").contains(&""), "{got:?}");
    }
}

#[test]
fn what_a_worker_says_too_much_reaches_nobody() {
    let pool = Pool::new();
    for _ in 0..20 {
        let mut proxy = Proxy::dial();
        proxy.send(written("GET /twice HTTP/1.1\r\n$H\r\n", ""));
        proxy.send(written("GET /other HTTP/1.1\r\n$HConnection: close\r\n\r\n", ""));
        let answers = proxy.answers();
        assert_eq!(answers, [(200, "/twice".to_owned()), (200, "/other".to_owned())]);
        pool.serves("/another");
    }
}
