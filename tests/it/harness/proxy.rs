//! Real reverse proxies in front of a pool, on port 8080, each with the configuration its manual would give.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::Process;

/// Where the proxies listen, as clients dial it.
pub const PROXIED: &str = "127.0.0.1:8080";

/// A running proxy. Dropped, it ends, and its files go.
pub struct Proxy {
    // The process goes first.
    _process: Process,
    _files: Files,
}

struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sticky-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// nginx, with these directives for its upstream and for its location.
pub fn nginx(upstream: &str, location: &str) -> Proxy {
    nginx_before("127.0.0.1:3000", upstream, location)
}

/// The same, in front of a pool with another address.
pub fn nginx_before(pool: &str, upstream: &str, location: &str) -> Proxy {
    let files = Files::new();
    let text = format!(
        "worker_processes 2; daemon off; pid {0}/pid; error_log stderr notice; user root;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; keepalive_requests 1000000;
           client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
           uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
           map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
           upstream pool {{ server {pool}; {upstream} }}
           server {{
             listen 8080 backlog=1024;
             location / {{
               proxy_pass http://pool;
               proxy_set_header Host $host;
               proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
               {location}
             }}
           }}
         }}",
        files.0.display()
    );
    let config = files.write("nginx.conf", &text);
    let process = Process::start(Command::new("nginx").arg("-c").arg(config));
    process.wait_for_nth("start worker process ", 1);
    Proxy { _process: process, _files: files }
}

/// HAProxy, with these lines in its backend and these words after its server.
pub fn haproxy(backend: &str, server: &str) -> Proxy {
    haproxy_before("127.0.0.1:3000", backend, server)
}

/// The same, in front of a pool with another address.
pub fn haproxy_before(pool: &str, backend: &str, server: &str) -> Proxy {
    let files = Files::new();
    let text = format!(
        "global
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  option redispatch
frontend all
  bind :8080
  default_backend pool
backend pool
  option forwardfor
  {backend}
  server pool {pool} {server}
"
    );
    let config = files.write("haproxy.cfg", &text);
    // In the foreground it says nothing once it is ready, so its master tells.
    let process = Process::start(Command::new("haproxy").args(["-W", "-db", "-f"]).arg(config));
    process.wait_for("Loading success");
    Proxy { _process: process, _files: files }
}

/// Caddy.
pub fn caddy() -> Proxy {
    let files = Files::new();
    let text = "{
  admin off
  auto_https off
}
http://:8080 {
  reverse_proxy 127.0.0.1:3000
}
";
    let config = files.write("Caddyfile", text);
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
    // It keeps its things at home, wherever that is.
    for home in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env(home, &files.0);
    }
    let process = Process::start(&mut command);
    process.wait_for("serving initial configuration");
    Proxy { _process: process, _files: files }
}
