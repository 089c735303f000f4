//! Lengths, chunks and trailers.

use super::super::super::Malformed::Syntax;
use super::super::whole;
use super::{headers, passes, refused};

/// A chunked body.
#[track_caller]
fn chunks(good: &[&str], bad: &[(&str, &'static str)]) {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in good {
        passes(format!("{head}{body}"));
    }
    for (body, why) in bad {
        refused(format!("{head}{body}"), Syntax(why));
    }
}

#[test]
fn content_lengths() {
    let digits = "a Content-Length that is not digits";
    let twice = "more than one Content-Length";
    headers(
        &[
            "Content-Length: 0",
            "content-length:0",
            "Content-Length: \t00 ",
            "Content_Length: 5",
            "X-Content-Length: 5",
        ],
        &[
            ("Content-Length:", digits),
            ("Content-Length: ", digits),
            ("Content-Length: +0", digits),
            ("Content-Length: -0", digits),
            ("Content-Length: 0x0", digits),
            ("Content-Length: 0 0", digits),
            ("Content-Length: 0.0", digits),
            ("Content-Length: 0, 0", digits),
            ("Content-Length: 0,", digits),
            ("Content-Length: 1e1", digits),
            ("Content-Length: \u{661}", digits),
            ("Content-Length: 0;", digits),
            ("Content-Length: 0\r\nContent-Length: 0", twice),
            ("Content-Length: 0\r\nX: y\r\ncontent-length: 1", twice),
            ("Content-Length: 9223372036854775808", "a Content-Length out of range"),
            ("Content-Length: 18446744073709551616", "a Content-Length out of range"),
            ("Content-Length: 99999999999999999999999", "a Content-Length out of range"),
        ],
    );
    passes("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\r\n\r\n\0");
    passes("POST / HTTP/1.0\r\nContent-Length: 005\r\n\r\nGET /");
    let most = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n12345";
    assert_eq!((whole(most).passed, whole(most).refused), (most.len(), None));
}

#[test]
fn transfer_encodings() {
    let body = "0\r\n\r\n";
    for line in ["Transfer-Encoding: chunked", "transfer-encoding:\tCHUNKED ", "TRANSFER-ENCODING:chunked"] {
        passes(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n{body}"));
    }
    headers(&["Transfer_Encoding: chunked", "X-Transfer-Encoding: chunked"], &[]);
    for value in [
        "",
        " ",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ", chunked",
        "xchunked",
        "chunkedx",
        "chunke",
        "chunked;q=1",
        "\"chunked\"",
        "chunked chunked",
        "chunked\u{a0}",
        "chun ked",
        "trailers",
        "chun\u{212a}ed",
    ] {
        let why = "a Transfer-Encoding that is not chunked";
        refused(
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r\n\r\n{body}"),
            Syntax(why),
        );
    }
    for (head, why) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "more than one Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "more than one Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length and Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX: y\r\nTransfer-Encoding: chunked",
            "Content-Length and Transfer-Encoding",
        ),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", "Transfer-Encoding in HTTP/1.0"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", "content of a method without any"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5", "content of a method without any"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", "content of a method without any"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1", "content of a method without any"),
    ] {
        refused(format!("{head}\r\n\r\n{body}"), Syntax(why));
    }
    passes("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn chunk_sizes() {
    let size = "a chunk size that is not hexadecimal digits and CRLF";
    let cr = "CR without LF in a chunked body";
    let end = "chunk data without CRLF after it";
    let ten = "0123456789";
    chunks(
        &[
            "0\r\n\r\n",
            "00\r\n\r\n",
            "0000000000000000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
            &format!("a\r\n{ten}\r\nA\r\n{ten}\r\n0\r\n\r\n"),
            &format!("0000000000000014\r\n{ten}{ten}\r\n0\r\n\r\n"),
        ],
        &[
            ("\r\n", size),
            ("\n", size),
            ("0\n\r\n", size),
            ("5\nhello\r\n0\r\n\r\n", size),
            ("0x0\r\n\r\n", size),
            ("+0\r\n\r\n", size),
            ("-0\r\n\r\n", size),
            (" 0\r\n\r\n", size),
            ("g\r\n\r\n", size),
            ("\0\r\n\r\n", size),
            ("1_0\r\n\r\n", size),
            (";a\r\n\r\n", size),
            ("00000000000000000\r\n\r\n", "a chunk size of more than 16 digits"),
            ("10000000000000005\r\nhello\r\n", "a chunk size of more than 16 digits"),
            ("0\rX\r\n", cr),
            ("0\r\r\n\r\n", cr),
            ("0\r\n\rX", cr),
            ("1\r\na\r0\r\n\r\n", cr),
            ("1\r\na\n0\r\n\r\n", end),
            ("1\r\naa\r\n0\r\n\r\n", end),
            ("1\r\na0\r\n\r\n", end),
            ("2\r\na\r\n0\r\n\r\n", end),
        ],
    );
    let most = whole(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n0\r\n\r\n",
    );
    assert_eq!((most.refused, most.ends), (None, vec![]));
}

#[test]
fn chunk_extensions() {
    let control = "a control character in a chunk extension";
    let space = "whitespace after a chunk size";
    chunks(
        &[
            "0;a\r\n\r\n",
            "0;a=b;c=\"d;\te\"\r\n\r\n",
            "0 \t;a\r\n\r\n",
            "1;a=\u{e4}\r\na\r\n0\r\n\r\n",
            &format!("0;{}\r\n\r\n", "a".repeat(1021)),
            &(format!("1;{}\r\na\r\n", "a".repeat(1000)).repeat(16) + "0\r\n\r\n"),
        ],
        &[
            ("0 \r\n\r\n", space),
            ("0\t\r\n\r\n", space),
            ("0 0\r\n\r\n", space),
            ("0 a\r\n\r\n", space),
            ("0;a\n\r\n", control),
            ("0;a\0\r\n\r\n", control),
            ("0;a=\"b\n\"\r\n\r\n", control),
            ("0;\x7f\r\n\r\n", control),
            ("0;a\rb\r\n\r\n", "CR without LF in a chunked body"),
            (&format!("0;{}\r\n\r\n", "a".repeat(1022)), "a chunk extension of more than 1 KiB"),
            (&format!("0{};a\r\n\r\n", " ".repeat(1024)), "a chunk extension of more than 1 KiB"),
            (
                &format!("1;{}\r\na\r\n", "a".repeat(1000)).repeat(17),
                "chunk extensions of more than 16 KiB in all",
            ),
        ],
    );
}

#[test]
fn trailers() {
    let name = "a trailer name that is no token";
    let control = "a control character in a trailer";
    chunks(
        &[
            "0\r\nX: y\r\n\r\n",
            "0\r\nX:\r\nY: \ta\u{e4}\r\n\r\n",
            "0\r\nContent-Length: 5\r\nHost: b\r\n\r\n",
        ],
        &[
            ("0\r\nX\r\n\r\n", name),
            ("0\r\n: y\r\n\r\n", name),
            ("0\r\nX : y\r\n\r\n", name),
            ("0\r\nX\0: y\r\n\r\n", name),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", name),
            ("0\r\n\n", name),
            ("0\r\nX: y\n\r\n", control),
            ("0\r\nX: \0\r\n\r\n", control),
            ("0\r\nX: \x7f\r\n\r\n", control),
            ("0\r\nX: y\rZ: 1\r\n\r\n", "CR without LF in a chunked body"),
            ("0\r\n X: y\r\n\r\n", "whitespace before a trailer"),
            ("0\r\nX: y\r\n\tz\r\n\r\n", "whitespace before a trailer"),
        ],
    );
}
