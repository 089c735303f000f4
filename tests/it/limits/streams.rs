//! Bodies of any length pass, at their receiver's pace, in little memory.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::{Pool, attach, proxy, tell};
use crate::harness::net;
use crate::harness::recorder::listener;

/// Headers of each request.
const FROM: &str = "Host: pool\r\nX-Forwarded-For: 203.0.113.7\r\n";
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// After so many bytes they begin again. Not a power of two: blocks that change places are noticed.
const PERIOD: usize = 65_521;
/// When nothing could be sent for so long the receiver is waited for.
const STUCK: Duration = Duration::from_millis(300);

/// What is sent, twice over, so that a period can begin anywhere.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let once: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    once.repeat(2)
}

/// Sends so many bytes; tells how many were sent when the receiver was waited for.
fn push(to: &mut TcpStream, total: u64, stuck: &Sender<u64>) {
    let pattern = pattern();
    to.set_write_timeout(Some(STUCK)).expect("a socket");
    let (mut sent, mut told) = (0, false);
    while sent < total {
        let left = PERIOD.min((total - sent) as usize);
        match to.write(&pattern[(sent % PERIOD as u64) as usize..][..left]) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !told => {
                told = true;
                to.set_write_timeout(Some(Duration::from_secs(20))).expect("a socket");
                stuck.send(sent).expect("the receiver waits");
            }
            Err(error) => panic!("{error} after {sent} of {total} bytes"),
        }
    }
}

/// Receives so many bytes, once the sender is stuck; how many it had sent then.
fn pull(from: &mut impl Read, total: u64, stuck: &Receiver<u64>) -> u64 {
    let pattern = pattern();
    let ahead = stuck.recv_timeout(Duration::from_secs(20)).expect("the sender waits for its receiver");
    let mut chunk = vec![0; PERIOD];
    let mut received = 0;
    while received < total {
        let most = PERIOD.min((total - received) as usize);
        let length = from.read(&mut chunk[..most]).expect("more");
        assert!(length > 0, "the end after {received} of {total} bytes");
        let expected = &pattern[(received % PERIOD as u64) as usize..][..length];
        assert!(&chunk[..length] == expected, "other bytes after {received} of {total}");
        received += length as u64;
    }
    ahead
}

/// The first line of a head, of which all is read.
fn head(from: &mut impl BufRead) -> String {
    let mut first = String::new();
    from.read_line(&mut first).expect("a head");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(from.read_line(&mut line).expect("a head") > 0, "the end in a head after {first:?}");
    }
    first
}

/// A client sends a GiB to the worker; how much of it was on its way when it had to wait.
fn upload(worker: &TcpListener) -> u64 {
    let (stuck, go) = channel();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let mut stream = proxy(1);
            write!(stream, "PUT / HTTP/1.1\r\n{FROM}Content-Length: {GIB}\r\n\r\n").expect("sent");
            push(&mut stream, GIB, &stuck);
            assert_eq!(head(&mut BufReader::new(stream)), "HTTP/1.1 200 OK\r\n");
        });
        let mut reader = BufReader::with_capacity(PERIOD, worker.accept().expect("a connection").0);
        assert_eq!(head(&mut reader), "PUT / HTTP/1.1\r\n");
        let ahead = pull(&mut reader, GIB, &go);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("sent");
        client.join().expect("the client is content");
        ahead
    })
}

/// The worker sends a GiB to a client; how much of it was on its way when it had to wait.
fn download(worker: &TcpListener) -> u64 {
    let (stuck, go) = channel();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let mut stream = proxy(2);
            write!(stream, "GET / HTTP/1.1\r\n{FROM}\r\n").expect("sent");
            let mut reader = BufReader::with_capacity(PERIOD, stream);
            assert_eq!(head(&mut reader), "HTTP/1.1 200 OK\r\n");
            pull(&mut reader, GIB, &go)
        });
        let mut reader = BufReader::new(worker.accept().expect("a connection").0);
        assert_eq!(head(&mut reader), "GET / HTTP/1.1\r\n");
        let stream = reader.get_mut();
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {GIB}\r\n\r\n")
            .expect("sent");
        push(stream, GIB, &stuck);
        client.join().expect("the client is content")
    })
}

#[test]
fn a_gibibyte_each_way_takes_little_memory() {
    let net = net::isolate();
    let worker = listener(3000);
    let pool = Pool { sticky: attach(1, &[]), _workers: None, _net: net };
    let before = pool.memory("VmRSS");
    let up = upload(&worker);
    let after_upload = pool.memory("VmHWM") - before;
    let down = download(&worker);
    let after_both = pool.memory("VmHWM") - before;
    tell(format_args!(
        "1 GiB up: {} KiB more memory, {} MiB ahead; down: {} KiB, {} MiB ahead",
        after_upload >> 10,
        up >> 20,
        after_both >> 10,
        down >> 20
    ));
    assert!(after_both < 64 * MIB, "{} MiB", after_both / MIB);
    // What is on its way is in the buffers of four sockets.
    assert!(up.max(down) < 64 * MIB, "a sender was {} and {} MiB ahead", up / MIB, down / MIB);
}
