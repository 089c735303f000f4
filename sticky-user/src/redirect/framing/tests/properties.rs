//! What holds for any bytes in any pieces.

use proptest::prelude::*;

use super::super::{Framing, Malformed};
use super::{Connection, LIMITS, whole};

/// Parts of messages, most of which fit together.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "X: y\r\n",
        "X-Forwarded-For: 192.0.2.1, 198.51.100.7\r\n",
        "Content-Length: 7\r\n",
        "Transfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n",
        "a;b=c\r\n0123456789\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\0",
        ":",
    ];
    let part = prop_oneof![
        12 => proptest::sample::select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => Just(vec![b'x'; 300]),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Messages that pass.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let data = || prop::collection::vec(any::<u8>(), 0..40);
    let length = data().prop_map(|data| {
        let head =
            format!("POST /?q HTTP/1.1\r\nX: y\r\nHost: a:1\r\nContent-Length: {}\r\n\r\n", data.len());
        [head.as_bytes(), &data].concat()
    });
    let chunks = (prop::collection::vec(data(), 0..5), any::<bool>()).prop_map(|(chunks, trailer)| {
        let mut message = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            message.extend_from_slice(format!("{:x};e\r\n", chunk.len()).as_bytes());
            message.extend_from_slice(chunk);
            message.extend_from_slice(b"\r\n");
        }
        let end: &[u8] = if trailer { b"0\r\nT: v\r\n\r\n" } else { b"0\r\n\r\n" };
        message.extend_from_slice(end);
        message
    });
    prop_oneof![Just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()), length, chunks]
}

/// Messages that pass, of which perhaps one byte was changed, removed or doubled.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let change = prop::option::of((any::<prop::sample::Index>(), 0..3, any::<u8>()));
    (prop::collection::vec(message(), 1..4), change).prop_map(|(messages, change)| {
        let mut bytes = messages.concat();
        if let Some((at, kind, byte)) = change {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_do_not_matter(
        bytes in prop_oneof![parts(), nearly()],
        sizes in prop::collection::vec(1..90_usize, 1..6),
    ) {
        let expected = whole(&bytes);
        let mut connection = Connection::new();
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*size));
            connection.receive(piece);
            rest = after;
        }
        // Content before what is refused has passed when it came before it.
        let verdict = connection.verdict;
        prop_assert_eq!((&verdict.ends, verdict.refused), (&expected.ends, expected.refused));
        prop_assert!(verdict.passed == expected.passed || verdict.refused.is_some());
    }

    #[test]
    fn byte_by_byte(bytes in prop_oneof![parts(), nearly()]) {
        let expected = whole(&bytes);
        let mut connection = Connection::new();
        for byte in &bytes {
            connection.receive(&[*byte]);
        }
        prop_assert_eq!((connection.verdict.ends, connection.verdict.refused), (expected.ends, expected.refused));
    }

    #[test]
    fn well_formed_messages_pass(messages in prop::collection::vec(message(), 1..5)) {
        let mut end = 0;
        let ends: Vec<usize> = messages.iter().map(|message| { end += message.len(); end }).collect();
        let verdict = whole(&messages.concat());
        prop_assert_eq!((verdict.ends, verdict.refused), (ends, None));
    }

    #[test]
    fn any_calls_at_all(calls in prop::collection::vec(parts(), 0..8)) {
        // Also a caller that forgets the rules gets an answer.
        let mut framing = Framing::new(LIMITS);
        for bytes in calls {
            if let Ok(taken) = framing.take(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }

    #[test]
    fn what_passes_is_well_formed(bytes in prop_oneof![parts(), nearly()]) {
        let verdict = whole(&bytes);
        let mut begin = 0;
        for end in verdict.ends {
            prop_assert!(plainly_well_formed(&bytes[begin..end]), "{:?}", bytes[begin..end].escape_ascii().to_string());
            begin = end;
        }
    }
}

/// The same question answered slowly, by cutting the whole message up.
fn plainly_well_formed(message: &[u8]) -> bool {
    let Some(end) = message.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let (head, body) = (&message[..end], &message[end + 4..]);
    if head.contains(&0) || head.first().is_none_or(u8::is_ascii_whitespace) {
        return false;
    }
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let request: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let headers: Option<Vec<_>> = lines.map(|line| line.split_once(':')).collect();
    let Some(headers) = headers else { return false };
    if request.len() != 3 || text.replace("\r\n", "").contains(['\r', '\n']) {
        return false;
    }
    let tidy = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
    let all = |wanted: &str| -> Vec<&str> {
        headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
            .collect()
    };
    let ends = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => body.is_empty(),
        ([length], []) => length.parse() == Ok(body.len()),
        ([], [coding]) => {
            coding.eq_ignore_ascii_case("chunked") && chunks_end(body) && request[2] == "HTTP/1.1"
        }
        _ => false,
    };
    ends && headers.iter().all(|(name, _)| tidy(name)) && (request[2] == "HTTP/1.0" || all("host").len() == 1)
}

fn chunks_end(mut body: &[u8]) -> bool {
    loop {
        let Some(end) = body.windows(2).position(|two| two == b"\r\n") else { return false };
        let line = String::from_utf8_lossy(&body[..end]).into_owned();
        let digits = line.split([';', ' ', '\t']).next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(digits, 16) else { return false };
        body = &body[end + 2..];
        if size == 0 {
            // The trailer section: whole lines, then the empty one, which is the last thing.
            return body == b"\r\n"
                || body.windows(4).position(|four| four == b"\r\n\r\n") == Some(body.len() - 4);
        }
        if body.get(size..).is_none_or(|rest| !rest.starts_with(b"\r\n")) {
            return false;
        }
        body = &body[size + 2..];
    }
}

#[test]
fn what_has_been_seen_is_not_looked_at_again() {
    let seen = b"GET / HTTP/1.1\r\nHost: a\r\n";
    let again = |line: &[u8]| {
        let mut framing = Framing::new(LIMITS);
        assert_eq!(framing.take(&[seen, &b"X: y"[..]].concat()), Ok(0));
        framing.take(&[&vec![b'\n'; seen.len()], line, b"\r\n\r\n"].concat())
    };
    // Now there is something else in the place of lines that were complete, which nobody notices.
    assert_eq!(again(b"X: y"), Ok(seen.len() + 8));
    // A line that was not is looked at as a whole, but its end is not looked for where there was none.
    assert_eq!(again(b"\n: y"), Err(Malformed::Syntax("a header name that is no token")));
}
