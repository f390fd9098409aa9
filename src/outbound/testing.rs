//! A scripted server for tests of the server's own requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{Authorities, Outbound, Service};

/// What an application does with a request.
pub(crate) enum Act {
    /// It answers with these bytes, and reads the next request.
    Answer(String),
    /// It answers with these bytes, and closes the connection.
    AnswerAndClose(String),
    /// It says nothing for ten seconds.
    Nothing,
}

/// Returns an answer in JSON.
pub(crate) fn json(body: &str) -> Act {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    Act::Answer(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// A server whose answers a function of the test decides. Its threads end with the test's process.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    /// The certificate in PEM form, for TLS.
    pub(crate) certificate: Option<String>,
    /// The requests that have come, as they were sent.
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Application {
    /// Starts an application without TLS.
    pub(crate) fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Application {
        Application::serve(act, None)
    }

    /// Starts an application with a certificate for `localhost`.
    pub(crate) fn start_secure(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Application {
        Application::serve(act, Some(generate_simple_self_signed(vec!["localhost".into()]).unwrap()))
    }

    fn serve(
        act: impl Fn(&str) -> Act + Send + Sync + 'static,
        certified: Option<CertifiedKey<KeyPair>>,
    ) -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tls = certified.as_ref().map(|CertifiedKey { cert, signing_key }| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
            let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            Arc::new(builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap())
        });
        let application = Application {
            address: listener.local_addr().unwrap(),
            certificate: certified.map(|certified| certified.cert.pem()),
            heard: Arc::default(),
            connections: Arc::default(),
        };
        let (heard, connections) = (Arc::clone(&application.heard), Arc::clone(&application.connections));
        let act = Arc::new(act);
        thread::spawn(move || {
            for socket in listener.incoming() {
                connections.fetch_add(1, Ordering::Relaxed);
                let (heard, act, tls, socket) = (Arc::clone(&heard), Arc::clone(&act), tls.clone(), socket.unwrap());
                thread::spawn(move || match tls {
                    None => converse(socket, &heard, &*act),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        converse(StreamOwned::<_, TcpStream>::new(connection, socket), &heard, &*act);
                    }
                });
            }
        });
        application
    }

    /// Returns the URL of a path, by a name that has to be resolved.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Returns the number of connections that were opened.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Serves a connection until the other side ends it, or it fails.
fn converse(mut stream: impl Read + Write, heard: &Mutex<Vec<String>>, act: &dyn Fn(&str) -> Act) {
    let mut received = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut received) {
        heard.lock().unwrap().push(request.clone());
        match act(&request) {
            Act::Answer(bytes) => {
                if stream.write_all(bytes.as_bytes()).and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
            Act::AnswerAndClose(bytes) => return drop(stream.write_all(bytes.as_bytes())),
            Act::Nothing => thread::sleep(Duration::from_secs(10)),
        }
    }
}

/// Reads a request with a `Content-Length`, or without a body.
fn read_request(stream: &mut impl Read, received: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            if received.len() >= whole {
                let request: Vec<u8> = received.drain(..whole).collect();
                return Some(String::from_utf8(request).unwrap());
            }
        }
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => received.extend(&buffer[..count]),
            _ => return None,
        }
    }
}

/// Runs the service of a handle on a thread of its own, like the control thread, while `test` runs.
pub(crate) fn served<T>(outbound: &Outbound, authorities: &Authorities, test: impl Future<Output = T>) -> T {
    let service = Service::new(&[outbound], authorities).unwrap().expect("there are targets");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let control = thread::spawn(move || {
        runtime().block_on(async {
            tokio::select! {
                () = service.run() => {}
                _ = stopped => {}
            }
        });
    });
    let outcome = runtime().block_on(test);
    drop(stop);
    control.join().unwrap();
    outcome
}
