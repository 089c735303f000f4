//! HAProxy and nginx, both as the proxy in front and as what sticky's redirect is compared with; and who is before and
//! behind them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::load::Load;
use super::process::Process;
use super::sandbox::FILES;
use crate::workspace;

/// Workers behind each proxy.
pub const WORKERS: usize = 4;
/// Clients.
pub const CLIENTS: usize = 200;
/// Requests at a time.
pub const AT_A_TIME: usize = 64;
/// The load as clients of a proxy, each with a connection.
pub const BEHIND: Load = Load::new("keep-alive", AT_A_TIME, CLIENTS);

/// How long a server may take until it is up.
const LIMIT: Duration = Duration::from_secs(20);

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// HAProxy
    Haproxy,
    /// nginx
    Nginx,
}

/// A port that is forwarded.
pub struct Listen {
    /// The port.
    pub port: u16,
    /// Where to.
    pub servers: Vec<u16>,
    /// What it does with the client's address.
    pub role: Role,
}

/// What a proxy does with the client's address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is in front: says the address in `X-Forwarded-For`, and keeps and shares connections to servers.
    Front,
    /// The same, with a connection to the server for each request.
    Closing,
    /// It chooses the server by `X-Forwarded-For`, consistently.
    Choose,
}

/// More connections than there are ever.
const CONNECTIONS: u16 = 8000;
/// More requests than a connection ever carries: nginx would close it.
const REQUESTS: u32 = 1_000_000_000;
/// Connections to servers that nginx keeps: as many as there are requests at a time.
const KEPT: usize = AT_A_TIME;

impl Program {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    /// Starts one that is in front of all `listens`, on `threads` processors.
    pub fn put_in_front(self, threads: usize, listens: &[Listen]) -> Result<Process> {
        let mut command = self.command("front", threads, listens)?;
        serve(&mut command, listens[0].port, listening)
    }

    /// The command that runs it in the foreground, on `threads` processors.
    pub fn command(self, name: &str, threads: usize, listens: &[Listen]) -> Result<Command> {
        let file = format!("{FILES}/{name}.conf");
        let (program, option, text) = match self {
            Self::Haproxy => ("haproxy", "-f", haproxy(threads, listens)?),
            Self::Nginx => ("nginx", "-c", nginx(threads, name, listens)?),
        };
        fs::write(&file, text)?;
        let path = workspace::which(program)
            .with_context(|| format!("there is no `{program}`: `cargo xtask setup` installs it"))?;
        let mut command = Command::new(path);
        command.arg(option).arg(file);
        Ok(command)
    }
}

/// Starts a server, and waits until `port` is `up`.
pub fn serve(command: &mut Command, port: u16, up: impl Fn(u16) -> bool) -> Result<Process> {
    let log = format!("{FILES}/{port}.log");
    let process = Process::start(command.stderr(File::create(&log)?))?;
    let begin = Instant::now();
    while !up(port) {
        if begin.elapsed() > LIMIT {
            let said = fs::read_to_string(log)?;
            bail!("port {port} is not served after {LIMIT:?}: {}", said.trim_end());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Whether somebody listens there.
pub fn listening(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Which connections to servers it shares and keeps is HAProxy's own default. Told to close them, it still keeps those
/// of clients, which `option httpclose` would close as well.
fn haproxy(threads: usize, listens: &[Listen]) -> Result<String> {
    let mut text = format!(
        "global\n nbthread {threads}\n maxconn {CONNECTIONS}\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 75s\n timeout server 75s\n"
    );
    for Listen { port, servers, role } in listens {
        let client = match role {
            Role::Front => " option forwardfor",
            Role::Closing => " option forwardfor\n option http-server-close",
            Role::Choose => " balance hdr(x-forwarded-for)\n hash-type consistent",
        };
        writeln!(text, "listen p{port}\n bind 127.0.0.1:{port}\n{client}")?;
        for server in servers {
            writeln!(text, " server s{server} 127.0.0.1:{server}")?;
        }
    }
    Ok(text)
}

/// Compared with sticky's redirect it keeps connections to servers, without which it would stand no comparison. Told to
/// close them it has its own default before 1.29.7: HTTP/1.0 without keep-alive.
fn nginx(threads: usize, name: &str, listens: &[Listen]) -> Result<String> {
    const FORWARDED: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    const KEEPING: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    // One process that does it all is easily ended and looked at; otherwise, as Debian has it, one a processor.
    let processes =
        if threads == 1 { "master_process off".into() } else { format!("worker_processes {threads}") };
    let mut text = format!(
        "daemon off;\n{processes};\npid {FILES}/{name}.pid;\nerror_log stderr;\n\
         events {{ worker_connections {CONNECTIONS}; }}\nhttp {{\naccess_log off;\nkeepalive_requests {REQUESTS};\n"
    );
    let keep = format!("keepalive {KEPT}; keepalive_requests {REQUESTS};");
    for Listen { port, servers, role } in listens {
        let (choice, keep, version, header) = match role {
            Role::Front => ("", keep.as_str(), KEEPING, FORWARDED),
            Role::Closing => ("", "", "", FORWARDED),
            Role::Choose => ("hash $http_x_forwarded_for consistent;", keep.as_str(), KEEPING, ""),
        };
        let servers: String = servers.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
        writeln!(
            text,
            "upstream p{port} {{ {choice} {servers}{keep} }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{\n\
             proxy_pass http://p{port}; {version} {header}\n}} }}"
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}
