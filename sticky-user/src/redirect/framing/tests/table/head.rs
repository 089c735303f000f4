//! Request lines and headers.

use super::super::super::Malformed::Syntax;
use super::{headers, passes, refused};

/// A request line, passing or not.
#[track_caller]
fn line(good: &[&str], bad: &[(&str, &'static str)]) {
    for line in good {
        passes(format!("{line}\r\nHost: a\r\n\r\n"));
    }
    for (line, why) in bad {
        refused(format!("{line}\r\nHost: a\r\n\r\n"), Syntax(why));
    }
}

#[test]
fn request_lines() {
    line(
        &["GET / HTTP/1.1", "GET / HTTP/1.0", "get / HTTP/1.1", "!#$%&'*+-.^_`|~09 / HTTP/1.1"],
        &[
            ("", "an empty line before the request line"),
            (" GET / HTTP/1.1", "no method"),
            ("GET", "a method that is no token"),
            ("G(T / HTTP/1.1", "a method that is no token"),
            ("G\0T / HTTP/1.1", "a method that is no token"),
            ("GET\t/ HTTP/1.1", "a method that is no token"),
            ("GET: / HTTP/1.1", "a method that is no token"),
            ("GET  / HTTP/1.1", "a space, `#`, control character or non-ASCII byte in the target"),
            ("GET /  HTTP/1.1", "a space, `#`, control character or non-ASCII byte in the target"),
            ("GET / / HTTP/1.1", "a space, `#`, control character or non-ASCII byte in the target"),
            ("GET /\tHTTP/1.1", "no space before the version"),
            ("GET /HTTP/1.1", "no space before the version"),
            ("GET HTTP/1.1", "no space before the version"),
            ("GET /", "a request line of less than three parts"),
            ("GET  HTTP/1.1", "an empty target"),
            ("GET / HTTP/1.1 ", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/1.10", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/1.2", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/0.9", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/2.0", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / http/1.1", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/1,1", "a version other than HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTPS/1.1", "a version other than HTTP/1.0 and HTTP/1.1"),
        ],
    );
}

#[test]
fn targets() {
    let byte = "a space, `#`, control character or non-ASCII byte in the target";
    let form = "a target that is no path and no http URI";
    let host = "an authority in the target that is not a host";
    let connect = "CONNECT to what is not a host and a port";
    let other = "a Host that is not the target's";
    line(
        &[
            "GET /a?b=c&d=%20 HTTP/1.1",
            "GET //a/../b HTTP/1.1",
            "GET /|{}\\^\"<> HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "CONNECT a:443 HTTP/1.1",
            "CONNECT [::1]:443 HTTP/1.1",
            "GET http://a/ HTTP/1.1",
            "GET HTTP://A HTTP/1.1",
            "GET https://a?b HTTP/1.1",
        ],
        &[
            ("GET /a#b HTTP/1.1", byte),
            ("GET /\x01 HTTP/1.1", byte),
            ("GET /\x7f HTTP/1.1", byte),
            ("GET /\u{e4} HTTP/1.1", byte),
            ("GET /\0 HTTP/1.1", byte),
            ("GET a HTTP/1.1", form),
            ("GET * HTTP/1.1", form),
            ("OPTIONS ** HTTP/1.1", form),
            ("GET a:443 HTTP/1.1", form),
            ("GET ?a HTTP/1.1", form),
            ("GET ftp://a/ HTTP/1.1", form),
            ("GET http:/a HTTP/1.1", form),
            ("GET http:a HTTP/1.1", form),
            ("GET http:///a HTTP/1.1", host),
            ("GET http://:80/ HTTP/1.1", host),
            ("GET http://b@a/ HTTP/1.1", host),
            ("GET http://a\\b/ HTTP/1.1", host),
            ("CONNECT / HTTP/1.1", connect),
            ("CONNECT a HTTP/1.1", connect),
            ("CONNECT http://a/ HTTP/1.1", connect),
            ("GET http://b/ HTTP/1.1", other),
            ("GET http://a:80/ HTTP/1.1", other),
            ("GET http://aa/ HTTP/1.1", other),
        ],
    );
    passes("GET http://a:80/ HTTP/1.1\r\nX: y\r\nHost: a:80\r\n\r\n");
    refused("GET http://a/ HTTP/1.1\r\nX: y\r\nHost:\r\n\r\n", Syntax(other));
    passes("GET http://a/ HTTP/1.0\r\n\r\n");
    refused("GET http://a/ HTTP/1.0\r\nHost: b\r\n\r\n", Syntax(other));
}

#[test]
fn hosts() {
    for value in
        ["a", "a.b:80", "a:", "", "A_b-c~!$&'()*+,;=", "%41", "192.0.2.1:8", "[::1]", "[2001:db8::1]:80"]
    {
        passes(format!("GET / HTTP/1.1\r\nhOST:\t {value} \r\n\r\n"));
    }
    for value in [
        "a b",
        "a/b",
        "a?b",
        "a@b",
        "a\\b",
        "a:b",
        "a:80:80",
        "a, b",
        "<a>",
        "\"a\"",
        "\u{e4}",
        "%4",
        "%zz",
        "::1",
        "[::1",
        "[::1]80",
        "[a]",
        "[]",
        "[::1%25eth0]",
        "a[::1]",
    ] {
        refused(format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"), Syntax("a Host that is not a host"));
    }
    passes("GET / HTTP/1.0\r\n\r\n");
    refused("GET / HTTP/1.1\r\n\r\n", Syntax("no Host"));
    refused("GET / HTTP/1.1\r\nX-Host: a\r\n\r\n", Syntax("no Host"));
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Syntax("more than one Host"));
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: b\r\n\r\n", Syntax("more than one Host"));
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Syntax("more than one Host"));
}

#[test]
fn header_lines() {
    headers(
        &[
            "X: y",
            "X:y",
            "X:",
            "X: \t ",
            "!#$%&'*+-.^_`|~09aZ: y",
            "X: a\tb",
            "X: \u{e4}\u{ff}",
            "X: :",
            "X_Y: 1",
        ],
        &[
            ("X", "a header name that is no token"),
            (":", "a header name that is no token"),
            (": y", "a header name that is no token"),
            ("X\0: y", "a header name that is no token"),
            ("X(Y): z", "a header name that is no token"),
            ("X Y: z", "whitespace between a header's name and its colon"),
            ("X : y", "whitespace between a header's name and its colon"),
            ("X\t: y", "whitespace between a header's name and its colon"),
            ("X\u{e4}: y", "a header name that is no token"),
            ("X: y\r\n z", "whitespace before a header"),
            ("X: y\r\n\tz: 1", "whitespace before a header"),
            ("X:\r\n y", "whitespace before a header"),
            ("X: a\0b", "a control character in a header"),
            ("X: \x01", "a control character in a header"),
            ("X: \x0b", "a control character in a header"),
            ("X: \x1f", "a control character in a header"),
            ("X: \x7f", "a control character in a header"),
            ("X: a\rb", "a control character in a header"),
        ],
    );
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Syntax("whitespace before a header"));
    refused(b"GET / HTTP/1.1\r\nHost: a\r\n\xff: a\r\n\r\n", Syntax("a header name that is no token"));
    passes(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\x80\r\n\r\n");
}
