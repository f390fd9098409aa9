//! Measures opening handshakes: the server's CPU time from the accepted socket to the end of the connection, without a
//! token and with tokens of several kinds.

use crate::client::{ACCEPTED, opening_request};
use crate::distance::{Placement, hop_ns};
use crate::peers::{LOAD_CPU, Running, SERVER_CPU, on_the_loads_cpu};
use crate::post::Threads;
use crate::record::{self, Circumstances};
use crate::run::at_least_one;
use crate::scenario::{Limit, Verdict};
use crate::statistics::Summary;
use crate::tools::{Flags, Tools};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use ring::{digest, hmac};
use serde::Serialize;
use socket2::SockRef;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Flags of `handshakes`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each starts a server for every kind of token.
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// Handshakes of each measurement.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(100..))]
    handshakes: u32,
    /// The kinds of tokens to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,word,hs256,es256,eddsa")]
    tokens: Vec<Token>,
    #[command(flatten)]
    tools: Flags,
}

/// A kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Token {
    /// No token; everybody may subscribe.
    None,
    /// A word of `subscribe_tokens`.
    Word,
    /// A JSON Web Token with an HMAC.
    Hs256,
    /// A JSON Web Token with a signature over the curve P-256.
    Es256,
    /// A JSON Web Token with a signature over the curve Ed25519.
    Eddsa,
}

/// The settings of a server, and a token that it accepts.
struct Access {
    settings: String,
    token: Option<String>,
}

#[derive(Serialize)]
struct Point {
    round: usize,
    token: Token,
    server_command: String,
    hops_ns: [f64; 2],
    /// The placement of the CPUs; `None` if it has changed meanwhile.
    placement: Option<Placement>,
    /// The server's CPU time for each handshake.
    cpu_ns: f64,
}

#[derive(Serialize)]
struct Record<'a> {
    points: &'a [Point],
}

impl Token {
    fn name(self) -> &'static str {
        match self {
            Token::None => "none",
            Token::Word => "word",
            Token::Hs256 => "hs256",
            Token::Es256 => "es256",
            Token::Eddsa => "eddsa",
        }
    }

    /// Makes a key, and returns the settings with its public part and a token.
    fn access(self) -> Result<Access, Box<dyn Error>> {
        let random = SystemRandom::new();
        Ok(match self {
            Token::None => Access { settings: String::new(), token: None },
            Token::Word => {
                let word = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, b"a word"));
                Access { settings: format!("subscribe_tokens = [\"{word}\"]\n"), token: Some(word) }
            }
            Token::Hs256 => {
                let secret = "0123456789abcdef0123456789abcdef";
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                let sign = |text: &[u8]| Ok(hmac::sign(&key, text).as_ref().to_vec());
                Access { settings: issuer(&format!("secrets = \"{secret}\"")), token: Some(token("HS256", sign)?) }
            }
            Token::Es256 => {
                let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(no_key)?;
                let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).map_err(no_key)?;
                // An uncompressed point: 4, and then both coordinates.
                let [x, y] = [1..33, 33..65].map(|range| URL_SAFE_NO_PAD.encode(&key.public_key().as_ref()[range]));
                let jwks = format!(r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "x": "{x}", "y": "{y}"}}]}}"#);
                let sign = |text: &[u8]| Ok(key.sign(&random, text)?.as_ref().to_vec());
                Access { settings: issuer(&format!("jwks = '{jwks}'")), token: Some(token("ES256", sign)?) }
            }
            Token::Eddsa => {
                let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(no_key)?;
                let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(no_key)?;
                let x = URL_SAFE_NO_PAD.encode(key.public_key());
                let jwks = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}]}}"#);
                let sign = |text: &[u8]| Ok(key.sign(text).as_ref().to_vec());
                Access { settings: issuer(&format!("jwks = '{jwks}'")), token: Some(token("EdDSA", sign)?) }
            }
        })
    }
}

/// Returns the text of an error, which `ring` does not make an error of the standard library.
fn no_key(error: impl std::fmt::Display) -> String {
    format!("a key cannot be made: {error}")
}

/// Returns settings with an issuer of tokens.
fn issuer(keys: &str) -> String {
    format!("[[issuers]]\nname = \"bench\"\n{keys}\n")
}

/// Returns a token (RFC 7519) that is good for the load's topic for ten years.
fn token(
    algorithm: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, ring::error::Unspecified>,
) -> Result<String, Box<dyn Error>> {
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 315_360_000;
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#));
    let claims = format!(r#"{{"sub":"42","subscribe":["bench","orders/42","news/*"],"publish":[],"exp":{until}}}"#);
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(text.as_bytes()).map_err(|_| "the token cannot be signed")?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Measures, prints and writes a record. Returns whether the bar was met.
pub(crate) fn handshakes(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], None)?;
    let circumstances = Circumstances::now();
    let mut points = Vec::new();
    for round in 0..options.rounds {
        for &token in &options.tokens {
            let point = measure(&tools, options, round, token)?;
            let placement = point.placement.map_or("changing", Placement::name);
            eprintln!("round {} {:6} {:.0} ns, CPUs {placement}", round + 1, token.name(), point.cpu_ns);
            points.push(point);
        }
    }
    println!("{}", circumstances.line());
    println!(
        "{} handshakes in a row, {AT_ONCE} at once, medians of {} rounds; the server's CPU time for each",
        options.handshakes, options.rounds
    );
    let mut verdicts = Vec::new();
    for placement in [Placement::Near, Placement::Apart, Placement::Far] {
        let median = |token: Token| {
            let of_token = points.iter().filter(|point| point.placement == Some(placement) && point.token == token);
            Summary::of(of_token.map(|point| point.cpu_ns))
        };
        let Some(without) = median(Token::None) else { continue };
        println!("\nCPUs {}", placement.name());
        for &token in &options.tokens {
            let Some(summary) = median(token) else { continue };
            let Summary { median, min, max, count } = summary;
            let ratio = median / without.median;
            print!("  {:6} {median:.0} ns ({min:.0} to {max:.0}, {count} runs), {ratio:.3} of none", token.name());
            if token == Token::Hs256 {
                let verdict = Limit::AtMost(HS256_MAX).judge(ratio);
                print!("; bar: ≤ {HS256_MAX}, {verdict}");
                verdicts.push(verdict);
            }
            println!();
        }
    }
    let record = record::write("handshakes", &circumstances, &Record { points: &points })?;
    println!("record: {}", record.display());
    if options.tokens.contains(&Token::Hs256) && verdicts.is_empty() {
        println!("NOT JUDGED: no placement of the CPUs has runs of none and of hs256");
        return Ok(false);
    }
    Ok(!verdicts.contains(&Verdict::Missed))
}

fn measure(tools: &Tools, options: &Options, round: usize, token: Token) -> Result<Point, Box<dyn Error>> {
    let Access { settings, token: shown } = token.access()?;
    let running = Running::start_hub_with(tools, &format!("handshakes-{}", token.name()), &settings)?;
    let before = hop_ns(SERVER_CPU, LOAD_CPU);
    let request = request(running.address, shown.as_deref());
    let cpu_ns = on_the_loads_cpu(|| drive(&running, &request, options.handshakes))?;
    let hops_ns = [before, hop_ns(SERVER_CPU, LOAD_CPU)];
    let [begun, ended] = hops_ns.map(Placement::of);
    let placement = (begun == ended).then_some(begun);
    Ok(Point { round, token, server_command: running.command_line.clone(), hops_ns, placement, cpu_ns })
}

/// Returns an opening request with a token.
fn request(address: SocketAddr, token: Option<&str>) -> Vec<u8> {
    let mut request = opening_request(address, "/t/bench?mode=sub");
    if let Some(token) = token {
        // The empty line at the end comes after the token.
        request.truncate(request.len() - 2);
        request.extend_from_slice(format!("Authorization: Bearer {token}\r\n\r\n").as_bytes());
    }
    request
}

/// Opens and drops connections. Returns the server's CPU time for each.
fn drive(server: &Running, request: &[u8], handshakes: u32) -> Result<f64, String> {
    let rounds = |count: u32| (0..count.div_ceil(AT_ONCE)).try_for_each(|_| open_and_drop(server.address, request));
    let measured = || -> Result<f64, Box<dyn Error>> {
        rounds(handshakes / 10)?;
        let before = Threads::of(server.pid())?.sum();
        rounds(handshakes)?;
        // The server notices the last ends.
        thread::sleep(Duration::from_millis(50));
        let count = f64::from(handshakes.next_multiple_of(AT_ONCE));
        Ok((Threads::of(server.pid())?.sum() - before) as f64 / count)
    };
    measured().map_err(|error| error.to_string())
}

/// Opens some connections at once, and resets them.
fn open_and_drop(address: SocketAddr, request: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..AT_ONCE {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // A reset leaves no socket behind that waits for late segments.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(request)?;
        streams.push(stream);
    }
    for stream in &mut streams {
        let (mut answer, mut chunk) = (Vec::new(), [0; 1_024]);
        while !answer.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Err("the server has closed a connection".into());
            }
            answer.extend_from_slice(&chunk[..count]);
        }
        if !answer.starts_with(ACCEPTED) {
            return Err(format!("not accepted: {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    Ok(())
}

/// Handshakes under way at the same time.
const AT_ONCE: u32 = 16;

/// The bar: the cost of a handshake with a JSON Web Token that has an HMAC, in handshakes without a token.
const HS256_MAX: f64 = 1.3;
