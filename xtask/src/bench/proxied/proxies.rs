//! HAProxy and nginx, both as the proxy in front and as what sticky's redirect is compared with.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bench::sandbox::FILES;
use crate::workspace;

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// HAProxy.
    Haproxy,
    /// nginx.
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
    /// It is in front: says the address in `X-Forwarded-For`.
    Front,
    /// It chooses the server by `X-Forwarded-For`, consistently.
    Choose,
}

/// More connections than there are ever.
const CONNECTIONS: u16 = 8000;
/// More requests than a connection ever carries: nginx would close it.
const REQUESTS: u32 = 1_000_000_000;
/// Connections to servers that nginx keeps: as many as there are requests at a time.
const KEPT: usize = super::AT_A_TIME;

impl Program {
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

/// How many threads it has, and which connections to servers it shares and keeps, is HAProxy's own default.
fn haproxy(threads: usize, listens: &[Listen]) -> Result<String> {
    let mut text = format!(
        "global\n nbthread {threads}\n maxconn {CONNECTIONS}\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 75s\n timeout server 75s\n"
    );
    for Listen { port, servers, role } in listens {
        let client = match role {
            Role::Front => " option forwardfor",
            Role::Choose => " balance hdr(x-forwarded-for)\n hash-type consistent",
        };
        writeln!(text, "listen p{port}\n bind 127.0.0.1:{port}\n{client}")?;
        for server in servers {
            writeln!(text, " server s{server} 127.0.0.1:{server}")?;
        }
    }
    Ok(text)
}

/// Without connections kept to the servers, which is nginx's default before 1.29.7, it would stand no comparison.
fn nginx(threads: usize, name: &str, listens: &[Listen]) -> Result<String> {
    // One process that does it all is easily ended and looked at; otherwise, as Debian has it, one a processor.
    let processes =
        if threads == 1 { "master_process off".into() } else { format!("worker_processes {threads}") };
    let mut text = format!(
        "daemon off;\n{processes};\npid {FILES}/{name}.pid;\nerror_log stderr;\n\
         events {{ worker_connections {CONNECTIONS}; }}\nhttp {{\naccess_log off;\nkeepalive_requests {REQUESTS};\n"
    );
    for Listen { port, servers, role } in listens {
        let (choice, header) = match role {
            Role::Front => ("", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"),
            Role::Choose => ("hash $http_x_forwarded_for consistent;", ""),
        };
        let servers: String = servers.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
        writeln!(
            text,
            "upstream p{port} {{ {choice} {servers}keepalive {KEPT}; keepalive_requests {REQUESTS}; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{\n\
             proxy_pass http://p{port}; proxy_http_version 1.1; proxy_set_header Connection \"\"; {header}\n}} }}"
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}
