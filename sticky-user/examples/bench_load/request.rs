//! What the clients send, or a proxy for them.

use crate::{Args, Mode};

/// What a browser says besides, in its order; what is left of the size asked for is cookies.
const BROWSER: [&str; 13] = [
    "Sec-CH-UA: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"",
    "Sec-CH-UA-Mobile: ?0",
    "Sec-CH-UA-Platform: \"Linux\"",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-User: ?1",
    "Sec-Fetch-Dest: document",
    "Referer: https://www.example.org/rooms/",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de-DE;q=0.8,de;q=0.7",
];
const COOKIE: &str = "Cookie: ";
const COOKIES: &str = "_ga=GA1.1.1481223942.1757318402; theme=dark; session=Zq3m1vJ8kTyN4xW0cR7b; ";

/// What `client` sends, by a proxy or itself.
pub fn of(args: &Args, client: usize) -> Vec<u8> {
    let forwarded = match args.mode {
        Mode::Forwarded | Mode::Closing => format!("X-Forwarded-For: {}\r\n", args.address(client)),
        Mode::KeepAlive | Mode::Connect | Mode::Drawn => String::new(),
    };
    let close = match args.mode {
        Mode::Connect | Mode::Drawn | Mode::Closing => "Connection: close\r\n",
        Mode::KeepAlive | Mode::Forwarded => "",
    };
    let (begin, end) = ("GET / HTTP/1.1\r\nHost: bench\r\n", format!("{forwarded}{close}\r\n"));
    let room = args.head.unwrap_or(0).saturating_sub(begin.len() + end.len());
    format!("{begin}{}{end}", browser(room)).into_bytes()
}

/// `size` bytes of what a browser says, in whole lines; none where that is too little for a cookie.
fn browser(size: usize) -> String {
    let least = COOKIE.len() + "c\r\n".len();
    let mut lines = String::new();
    for line in BROWSER {
        if lines.len() + line.len() + 2 + least <= size {
            lines += line;
            lines += "\r\n";
        }
    }
    let Some(rest) = (size - lines.len()).checked_sub(least) else { return lines };
    let cookies: String = COOKIES.chars().cycle().take(rest + 1).collect();
    format!("{lines}{COOKIE}{cookies}\r\n")
}
