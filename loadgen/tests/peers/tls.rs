//! `wss:`, with a certificate of a test.

use crate::generator;
use crate::peer::{ACCEPTED, read_head, read_message};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Starts a server that sends each message back over TLS.
fn start() -> SocketAddr {
    start_with(|stream| {
        let payload = read_message(stream)?;
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        stream.write_all(&[&[0x81, 126], &length[..], &payload].concat())
    })
}

type Answer = fn(&mut StreamOwned<ServerConnection, TcpStream>) -> Result<()>;

/// Starts a server that does this again and again after the handshake.
fn start_with(answer: Answer) -> SocketAddr {
    start_with_certificate(answer).0
}

/// Starts such a server, and returns its certificate in PEM too.
fn start_with_certificate(answer: Answer) -> (SocketAddr, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, config) = (stream.unwrap(), Arc::clone(&config));
            thread::spawn(move || drop(converse(stream, config, answer)));
        }
    });
    (address, own.cert.pem())
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, answer: Answer) -> Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    read_head(&mut stream)?;
    stream.write_all(ACCEPTED)?;
    loop {
        answer(&mut stream)?;
    }
}

#[test]
fn messages_go_through_tls() {
    let address = start();
    let words = format!("echo --url wss://localhost:{}/x --connections 3 --depth 2 --warmup 0", address.port());
    let done = generator(&format!("{words} --duration 300ms --size 20000 --insecure"), &[]);
    let report = done.report();
    assert!(done.status == 0 && report.counts.published > 6, "{report} {}", done.stderr);
}

/// The server ends TLS, but not the connection, and goes on to send.
#[test]
fn bytes_behind_the_end_of_tls_do_not_hang_the_generator() {
    let address = start_with(|stream: &mut StreamOwned<ServerConnection, TcpStream>| {
        read_message(stream)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        loop {
            stream.sock.write_all(&[23, 3, 3, 0, 1, 0])?;
            thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let words = format!("echo --url wss://localhost:{}/x --connections 1 --warmup 0", address.port());
    let done = generator(&format!("{words} --duration 300ms --drain 100ms --insecure"), &[]);
    assert_eq!(done.status, 2, "{} {}", done.report(), done.stderr);
    assert!(done.report().disconnections[0].ends_with("TLS close_notify"), "{}", done.report());
}

#[test]
fn a_certificate_that_nobody_trusts_is_refused() {
    let address = start();
    let done = generator(&format!("--url wss://localhost:{}/x --rate 1", address.port()), &[]);
    assert_eq!(done.status, 1);
    // A machine without authorities cannot trust any certificate, which is another complaint.
    let complaints = ["invalid peer certificate", "the system trusts no certificate authority"];
    assert!(complaints.iter().any(|complaint| done.stderr.contains(complaint)), "{}", done.stderr);
    assert!(done.stderr.contains("; --insecure accepts every certificate"), "{}", done.stderr);
}

#[test]
fn an_authority_of_ones_own_is_trusted() {
    let (address, certificate) = start_with_certificate(|stream| {
        let payload = read_message(stream)?;
        stream.write_all(&[&[0x81, u8::try_from(payload.len()).unwrap()], &payload[..]].concat())
    });
    let file = std::env::temp_dir().join(format!("loadgen-authority-{}.pem", std::process::id()));
    std::fs::write(&file, certificate).unwrap();
    let words = format!("echo --url wss://localhost:{}/x --connections 1 --warmup 0", address.port());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
        .args(words.split(' '))
        .args(["--duration", "200ms", "--allow-disturbance"])
        .env("SSL_CERT_FILE", &file)
        .output()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_without_tls_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_or_default();
        }
    });
    let done = generator(&format!("--url wss://{address}/x --insecure --rate 1"), &[]);
    assert_eq!(done.status, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("; does the server speak TLS at this port (ws:// is without TLS)?"),
        "{}",
        done.stderr
    );
}
