//! The commands that start the servers of others, and the files of settings that these servers read.

use crate::installed::Installed;
use crate::peers::{Peer, SERVER_CPU};
use crate::tools::{OUTPUT, PEERS, Tools, pinned};
use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the command that starts a server of others at this address.
pub(crate) fn command(peer: Peer, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
    let installed = tools.installed(peer).ok_or_else(|| format!("{} was not installed", peer.name()))?;
    let installed = installed.as_ref().map_err(String::clone)?;
    let mut command = pinned(SERVER_CPU, &installed.program);
    match peer {
        Peer::Kore => {
            command.args(["-f", "-n", "-r", "-q", "-c"]).arg(settings("kore.conf", &kore(installed, address)?)?);
        }
        Peer::Nchan => {
            command.arg("-c").arg(settings("nchan.conf", &nchan(installed, address)?)?);
        }
        Peer::Nats => {
            command.arg("--config").arg(settings("nats.conf", &nats(address))?);
        }
        Peer::Bun => {
            command.arg(Path::new(PEERS).join("bun.js")).arg(address.to_string());
        }
        Peer::Ws | Peer::SocketIo => {
            command.env("NODE_PATH", fs::canonicalize(module(installed)?)?);
            command.arg(Path::new(PEERS).join(format!("{}.js", peer.name()))).arg(address.to_string());
        }
        _ => {
            command.arg(address.to_string());
        }
    }
    Ok(command)
}

fn module(installed: &Installed) -> Result<&Path, &'static str> {
    installed.module.as_deref().ok_or("the server has no module")
}

/// Writes a file of settings, and returns its path.
fn settings(name: &str, text: &str) -> io::Result<PathBuf> {
    let file = Path::new(OUTPUT).join(name);
    fs::write(&file, text)?;
    fs::canonicalize(file)
}

/// Kore with one worker, which `taskset` pins, so Kore itself pins nothing. A worker that dies is not replaced.
fn kore(installed: &Installed, address: SocketAddr) -> Result<String, Box<dyn Error>> {
    let (folder, module) = (fs::canonicalize(OUTPUT)?, module(installed)?);
    let (folder, module, ip, port) = (folder.display(), module.display(), address.ip(), address.port());
    Ok(format!(
        "server plain {{
    bind {ip} {port}
    tls no
}}
load {module}
pidfile {folder}/kore.pid
workers 1
worker_set_affinity 0
worker_death_policy terminate
worker_max_connections {CONNECTIONS_MAX}
worker_rlimit_nofiles {DESCRIPTORS_MAX}
socket_backlog 4096
websocket_maxframe {MESSAGE_MAX}
websocket_timeout 86400
domain * {{
    attach plain
    route ^/.*$ connect_client
}}
"
    ))
}

/// nginx as one process, with the locations of nchan's first example. The publishers' location also takes WebSockets.
/// A client joins at the next message.
fn nchan(installed: &Installed, address: SocketAddr) -> Result<String, Box<dyn Error>> {
    let folder = fs::canonicalize(OUTPUT)?.join("nchan");
    fs::create_dir_all(&folder)?;
    let (folder, module) = (folder.display(), module(installed)?.display());
    Ok(format!(
        "load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile {DESCRIPTORS_MAX};
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size {MESSAGE_MAX};
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 512m;
    server {{
        listen {address} backlog=4096;
        location = /pub {{
            nchan_publisher http websocket;
            nchan_channel_id $arg_id;
        }}
        location = /sub {{
            nchan_subscriber websocket;
            nchan_subscriber_first_message newest;
            nchan_channel_id $arg_id;
        }}
    }}
}}
"
    ))
}

/// A NATS server with a WebSocket listener. The listener of its own protocol gets a free port. The limits of a slow
/// subscriber are far above what the loads need.
fn nats(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "host: {ip}
port: -1
max_payload: 8MB
max_pending: 256MB
max_connections: {CONNECTIONS_MAX}
write_deadline: \"60s\"
websocket {{
    host: {ip}
    port: {port}
    no_tls: true
    compression: false
}}
"
    )
}

/// Connections of the servers that need a number, and descriptors for these connections and a few files.
const CONNECTIONS_MAX: u32 = 19_000;
const DESCRIPTORS_MAX: u32 = 19_500;
/// Bytes of a message.
const MESSAGE_MAX: u32 = 64 << 20;
