//! Bodies that turn out malformed: what is good of each, and where it goes wrong.

pub const BODIES: &[(&str, &str)] = &[
    // Chunk sizes (RFC 9112 section 7.1).
    ("5\r\nhello\r\n", "5\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "0\n\r\n"),
    ("5\r\nhello\r\n", "\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "\r\n\r\n"),
    ("5\r\nhello\r\n", "0x5\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "+5\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "-5\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", " 5\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "5 \r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "g\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "\x005\r\nworld\r\n0\r\n\r\n"),
    // What is 5 in 64 bits, and 0.
    ("5\r\nhello\r\n", "10000000000000005\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "10000000000000000\r\n\r\n"),
    ("5\r\nhello\r\n", "00000000000000000\r\n\r\n"),
    ("5\r\nhello\r\n", "0\rX\n\r\n"),
    // Extensions (section 7.1.1).
    ("5\r\nhello\r\n", "5;a\nworld\r\n0\r\n\r\n"),
    (
        "5\r\nhello\r\n",
        "2;\nxx\r\n45\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: pool\r\nContent-Length: 15\r\n\r\n0\r\n\r\n",
    ),
    ("5\r\nhello\r\n", "5;a\rb\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello\r\n", "0;\0\r\n\r\n"),
    // Ends of chunks.
    ("5\r\nhello", "5\r\nworld\r\n0\r\n\r\n"),
    ("5\r\nhello", "\n0\r\n\r\n"),
    ("5\r\nhello\r", "0\r\n\r\n"),
    ("5\r\nhello\r", "X0\r\n\r\n"),
    ("5\r\nhello", "!\r\n0\r\n\r\n"),
    ("6\r\nhello\r", "\n0\r\n\r\n"),
    // Trailers (section 7.1.2).
    ("5\r\nhello\r\n0\r\n", "\n"),
    ("5\r\nhello\r\n0\r\n", "\rX"),
    ("5\r\nhello\r\n0\r\n", "GET /smuggled HTTP/1.1\r\nHost: pool\r\n\r\n"),
    ("5\r\nhello\r\n0\r\n", "X : y\r\n\r\n"),
    ("5\r\nhello\r\n0\r\n", " X: y\r\n\r\n"),
    ("5\r\nhello\r\n0\r\nX: y\r\n", " z\r\n\r\n"),
    ("5\r\nhello\r\n0\r\nX: ", "y\n\r\n"),
    ("5\r\nhello\r\n0\r\nX: ", "\0\r\n\r\n"),
];

/// Too much of what is well-formed.
pub fn too_much() -> Vec<(u16, &'static str, String)> {
    let long = "x".repeat(33 * 1024);
    vec![
        (400, "5\r\nhello\r\n", format!("5;{}\r\nworld\r\n0\r\n\r\n", "a".repeat(1100))),
        (400, "5\r\nhello\r\n", format!("1;{}\r\na\r\n", "a".repeat(1000)).repeat(17) + "0\r\n\r\n"),
        (431, "5\r\nhello\r\n0\r\n", format!("X: {long}\r\n\r\n")),
        (431, "5\r\nhello\r\n0\r\n", format!("{}\r\n", "X: y\r\n".repeat(101))),
    ]
}
