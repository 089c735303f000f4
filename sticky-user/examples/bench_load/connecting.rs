//! Clients that open a connection for each request, or a proxy that does it for them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::tally::{Tally, Worker, body};
use crate::{Args, Mode, request};

/// Client ports; servers to be tested listen elsewhere.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// Each thread has its share of the addresses, and one connection at a time, from these addresses in turn.
pub fn run(args: &Args) -> Result<Tally> {
    let mut tally = Tally::begin(args.clients);
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..args.at_a_time).map(|number| scope.spawn(move || requests(args, number))).collect();
        for thread in threads {
            tally.add(thread.join().expect("clients do not panic")?);
        }
        Ok(tally)
    })
}

fn requests(args: &Args, number: usize) -> Result<Tally> {
    let end = Instant::now() + args.duration();
    let own: Vec<_> = (number..args.clients.max(number + 1)).step_by(args.at_a_time).collect();
    // Who is drawn says the same as all others: a million copies would be in the way.
    let drawn = args.mode == Mode::Drawn;
    let said = if drawn { 1 } else { own.len() };
    let requests: Vec<_> = own.iter().take(said).map(|&client| request::of(args, client)).collect();
    let mut tally = Tally::begin(args.clients.max(number + 1));
    for (count, (port, turn)) in
        PORTS.flat_map(|port| (0..own.len()).map(move |turn| (port, turn))).enumerate()
    {
        let which = if drawn { draw(args.net, count, own.len()) } else { turn };
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        let from = match args.mode {
            Mode::Closing => SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            Mode::Drawn => SocketAddrV4::new(args.address(own[which]), 0),
            Mode::Connect | Mode::KeepAlive | Mode::Forwarded => {
                SocketAddrV4::new(args.address(own[which]), port)
            }
        };
        let mut stream = args.connect(from)?;
        let worker = ask(&mut stream, &requests[which % said])?;
        tally.answer(own[which], worker, begin.elapsed());
    }
    Ok(tally)
}

/// Which of so many is the `count`-th that round `round` draws: spread evenly (Weyl's sequence), far apart, and others in
/// each round.
fn draw(round: u8, count: usize, of: usize) -> usize {
    let place = ((u64::from(round) << 24) | count as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((u128::from(place) * of as u128) >> 64) as usize
}

/// One request, and who answered it.
pub fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<Worker> {
    stream.write_all(request).context("cannot send")?;
    let (mut answer, mut length) = ([0; 512], 0);
    loop {
        let read = stream.read(&mut answer[length..]).context("no answer")?;
        length += read;
        match body(&answer[..length])? {
            Some(worker) => return Ok(worker),
            None if read == 0 => {
                anyhow::bail!("only a part of an answer: {}", answer[..length].escape_ascii())
            }
            None => {}
        }
    }
}
