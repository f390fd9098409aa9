//! The flags that say what the server is and what it expects.

use crate::error::Error;
use crate::pattern::{Pattern, Text, names_in_braces};
use crate::preset::{Preset, PresetName, Publish, Publishers, Signing};
use crate::protocol::{Endpoint, Post, Protocol, Publishing, PusherKeys, Request, Step};
use crate::tls::{Settings, Trust};
use crate::topics::{Spread, Topics};
use crate::units::Packing;
use crate::url::{Scheme, Url};
use clap::{Args, ValueEnum};

/// Which server, and what it expects.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server", after_long_help = PLACEHOLDERS)]
pub struct TargetFlags {
    /// Where to connect: ws:// or wss://, a host, perhaps a port and a path. {topic} may stand in the path.
    ///
    /// `localhost` is 127.0.0.1. Of a name with several addresses, the first IPv4 address is used.
    #[arg(long, default_value = DEFAULT_URL)]
    pub url: String,
    /// The kind of server; by default `ringhub` for the default URL, and `ws` for other URLs.
    ///
    /// For a ringhub at another address give --preset ringhub.
    #[arg(long, value_enum)]
    pub preset: Option<PresetName>,
    /// A value for {NAME} in the preset's texts and in your own, such as key=1234. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// A header line of the opening requests; not of the requests of --publish-http. May be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// A subprotocol that the opening requests offer. May be repeated.
    #[arg(long)]
    pub subprotocol: Vec<String>,
    /// With wss: and https:, accept every certificate.
    #[arg(long)]
    pub insecure: bool,
    /// Add this query to the URL of the subscribers, instead of the preset's query; empty for none.
    #[arg(long)]
    pub sub_query: Option<String>,
    /// Add this query to the URL of the publishers, instead of the preset's query; empty for none.
    #[arg(long)]
    pub pub_query: Option<String>,
    /// Path and query of the subscribers' requests, instead of those of the URL.
    #[arg(long)]
    pub subscribe_path: Option<String>,
    /// Path and query of the publishers' requests, instead of those of the URL.
    #[arg(long)]
    pub publish_path: Option<String>,
    /// The server sends messages to the publishers too: ignore them there, instead of counting them as foreign.
    #[arg(long)]
    pub publishers_receive: bool,
    /// A step after the opening handshake: send:TEXT or await:PATTERN. May be repeated, in order.
    ///
    /// The steps replace those of the preset. Subscribers and WebSocket publishers take them. Example: --hello
    /// 'send:LOGIN guest' --hello 'await:WELCOME{any}'.
    #[arg(long, value_name = "STEP")]
    pub hello: Vec<String>,
    /// The message by which a subscriber subscribes to a topic, with {topic} in it.
    #[arg(long, value_name = "TEXT")]
    pub subscribe_message: Option<String>,
    /// The server's answer to --subscribe-message.
    ///
    /// Without it a subscriber counts as subscribed when its message is sent, and messages that are published before
    /// the server has subscribed it count as lost.
    #[arg(long, value_name = "PATTERN")]
    pub acknowledgement: Option<String>,
    /// What a delivery looks like, with {payload} in it. Without this the whole message is the payload.
    #[arg(long, value_name = "PATTERN")]
    pub delivery: Option<String>,
    /// How the server packs deliveries and answers into WebSocket messages.
    #[arg(long, value_enum)]
    pub packing: Option<PackingFlag>,
    /// Answer each message that matches PATTERN with TEXT. May be repeated, in addition to the preset's answers.
    ///
    /// '2 => 3' answers the pings of Socket.IO. Pings of the WebSocket protocol are answered in any case.
    #[arg(long, value_name = "PATTERN => TEXT")]
    pub reply: Vec<String>,
    /// Messages that are neither deliveries nor mistakes. May be repeated, in addition to those of the preset.
    ///
    /// A message that fits no pattern counts as foreign.
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,
    /// Messages by which the server refuses. May be repeated, in addition to those of the preset.
    ///
    /// Before the connection is open a refusal ends the run, later the connection counts as disconnected.
    #[arg(long, value_name = "PATTERN")]
    pub refusal: Vec<String>,
    /// The message that publishes, with {payload} in it. Without this and a preset the message is the payload.
    #[arg(long, value_name = "TEXT", conflicts_with = "publish_http")]
    pub publish_message: Option<String>,
    /// Publish by HTTP: the method, and a path or a URL, such as 'POST /publish/{topic}'.
    ///
    /// A path is one of the host of --url. Each publisher has one request in flight.
    #[arg(long, value_name = "METHOD PATH")]
    pub publish_http: Option<String>,
    /// A header line of the requests of --publish-http. May be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    pub publish_header: Vec<String>,
    /// The body of the requests of --publish-http, with {payload} in it.
    #[arg(long, value_name = "TEXT")]
    pub publish_body: Option<String>,
    /// The name of the topic; of several topics, the beginning of their names: bench-0, bench-1 and so on.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// The number of topics. For several, {topic} must stand in the URL or in --subscribe-message.
    #[arg(long, default_value_t = 1)]
    pub topics: usize,
    /// Topics of each subscriber, on one connection. Above 1 the server's clients must subscribe by messages.
    #[arg(long, default_value_t = 1)]
    pub topics_per_connection: usize,
    /// How subscribers are distributed over topics: uniform, zipf or zipf:EXPONENT; zipf is zipf:1.
    #[arg(long, default_value = "uniform")]
    pub spread: Spread,
    /// How messages are distributed over topics: uniform, zipf or zipf:EXPONENT; zipf is zipf:1.
    #[arg(long, default_value = "uniform")]
    pub publish_spread: Spread,
}

/// How a server packs what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PackingFlag {
    /// Each WebSocket message is one delivery or answer.
    Whole,
    /// A WebSocket message has one or more deliveries or answers, separated by line feeds.
    Lines,
    /// The WebSocket messages together are the stream of the NATS protocol.
    Nats,
}

/// What the flags say about the server, checked.
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) subscribe: Request,
    pub(crate) publishing: Publishing,
    pub(crate) protocol: Protocol,
    pub(crate) is_binary: bool,
}

/// The flags with the preset that completes them.
struct Reader<'f> {
    flags: &'f TargetFlags,
    preset: &'static Preset,
    url: Url,
    values: Vec<(String, String)>,
}

impl TargetFlags {
    /// Checks the flags.
    ///
    /// # Errors
    /// The first contradiction is returned.
    pub(crate) fn target(&self) -> Result<Target, Error> {
        let url = Url::parse("--url", &self.url, ["ws", "wss"])?;
        let preset = self.preset_name().preset();
        let values = self.set.iter().map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((format!("{{{name}}}"), value.to_owned())),
            None => Err(Error::Options(format!("--set {pair}: expected NAME=VALUE"))),
        });
        let reader = Reader { flags: self, preset, url, values: values.collect::<Result<_, _>>()? };
        reader.target()
    }

    fn preset_name(&self) -> PresetName {
        self.preset.unwrap_or(if self.url == DEFAULT_URL { PresetName::Ringhub } else { PresetName::Ws })
    }

    /// Returns the names in braces that are no placeholder, each with its flag. Such braces stand for themselves, and
    /// may be a mistake in writing.
    pub(crate) fn unknown_placeholders(&self) -> Vec<(&'static str, String)> {
        let once = |flag, text: &Option<String>| (flag, text.iter().cloned().collect::<Vec<_>>());
        let texts = [
            ("--url", vec![self.url.clone()]),
            once("--sub-query", &self.sub_query),
            once("--pub-query", &self.pub_query),
            once("--subscribe-path", &self.subscribe_path),
            once("--publish-path", &self.publish_path),
            ("--hello", self.hello.clone()),
            once("--subscribe-message", &self.subscribe_message),
            once("--acknowledgement", &self.acknowledgement),
            once("--delivery", &self.delivery),
            ("--reply", self.reply.clone()),
            ("--ignore", self.ignore.clone()),
            ("--refusal", self.refusal.clone()),
            once("--publish-message", &self.publish_message),
            once("--publish-http", &self.publish_http),
            once("--publish-body", &self.publish_body),
        ];
        let is_set = |name: &str| self.set.iter().any(|pair| pair.split_once('=').is_some_and(|(own, _)| own == name));
        let unknown = texts.into_iter().flat_map(|(flag, texts)| {
            let names: Vec<String> = texts.iter().flat_map(|text| names_in_braces(text)).collect();
            names.into_iter().filter(|name| !is_set(name)).map(move |name| (flag, name))
        });
        unknown.collect()
    }

    /// Returns whether the server is one of ringhub's preset.
    pub(crate) fn is_for_ringhub(&self) -> bool {
        self.preset_name() == PresetName::Ringhub
    }

    /// Returns the topics for this number of publishers.
    ///
    /// # Errors
    /// An error is returned if the numbers do not fit each other.
    pub(crate) fn topics(&self, publishers: usize) -> Result<Topics, Error> {
        let wrong = |why: &str| Err(Error::Options(why.to_owned()));
        if !(1..=usize::from(u16::MAX)).contains(&self.topics) {
            return wrong("--topics is 1 to 65535");
        }
        if !(1..=self.topics).contains(&self.topics_per_connection) {
            return wrong("--topics-per-connection is 1 to the number of --topics");
        }
        let numbers = [self.topics, self.topics_per_connection, publishers];
        Ok(Topics::new(&self.topic, numbers, [self.spread, self.publish_spread]))
    }
}

impl Reader<'_> {
    fn target(&self) -> Result<Target, Error> {
        let (flags, preset) = (self.flags, self.preset);
        let trust = if flags.insecure { Trust::Anyone } else { Trust::System };
        let endpoint = endpoint(&self.url, trust)?;
        let query = |flag: &Option<String>, usual: &str| flag.clone().unwrap_or_else(|| usual.to_owned());
        let sub_query = query(&flags.sub_query, preset.sub_query);
        let subscribe = self.request("--subscribe-path", self.path(&flags.subscribe_path, "", &sub_query)?)?;
        let protocol = self.protocol()?;
        let publishing = self.publishing(&endpoint, trust)?;
        self.check_use(&protocol, &publishing)?;
        let has_topic = subscribe.path.has_topic() || protocol.subscribe.as_ref().is_some_and(Text::has_topic);
        if flags.topics > 1 && !has_topic {
            return Err(Error::Options("--topics: {topic} must stand in the URL or in --subscribe-message".to_owned()));
        }
        if flags.topics_per_connection > 1 && protocol.subscribe.is_none() {
            let why =
                "--topics-per-connection above 1 needs --subscribe-message, or a preset that subscribes by messages";
            return Err(Error::Options(why.to_owned()));
        }
        Ok(Target { endpoint, subscribe, publishing, protocol, is_binary: preset.is_binary })
    }

    /// Refuses flags that would change nothing.
    fn check_use(&self, protocol: &Protocol, publishing: &Publishing) -> Result<(), Error> {
        let flags = self.flags;
        let is_posting = matches!(publishing, Publishing::Post(_));
        let wrong = [
            (!is_posting && !flags.publish_header.is_empty(), "--publish-header is for publishing by HTTP"),
            (!is_posting && flags.publish_body.is_some(), "--publish-body is for publishing by HTTP"),
            (is_posting && flags.pub_query.is_some(), "--pub-query is for publishing by messages"),
            (
                flags.publish_http.is_some() && flags.publish_path.is_some(),
                "--publish-path is not used beside --publish-http, which has a path",
            ),
            (
                flags.acknowledgement.is_some() && protocol.subscribe.is_none(),
                "--acknowledgement needs --subscribe-message, which it answers",
            ),
            (flags.insecure && !flags.url.contains("wss:") && !is_posting, "--insecure is for wss: and https:"),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, why)) => Err(Error::Options(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Puts the values of `--set` into a text.
    fn with_values(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Returns the path and query of a role's request: the whole path of a flag, or the URL's path, or the preset's
    /// own one, with the role's query.
    fn path(&self, whole: &Option<String>, publish_path: &str, query: &str) -> Result<String, Error> {
        let (flags, preset) = (self.flags, self.preset);
        let is_own = self.url.path.is_empty() || self.url.path == "/" || flags.url == DEFAULT_URL;
        let path = match whole {
            Some(whole) => return Ok(self.with_values(whole)),
            None if !publish_path.is_empty() => publish_path,
            None if is_own && !preset.path.is_empty() => preset.path,
            None if self.url.path.is_empty() => "/",
            None => &self.url.path,
        };
        let path = self.with_values(path);
        let unknown = ["{key}", "{app}"].into_iter().find(|name| path.contains(name));
        if let Some(unknown) = unknown {
            let name = unknown.trim_matches(['{', '}']);
            return Err(Error::Options(format!("the path has {{{name}}}: give --set {name}=VALUE")));
        }
        let joint = if path.contains('?') { '&' } else { '?' };
        Ok(if query.is_empty() { path } else { format!("{path}{joint}{query}") })
    }

    fn request(&self, flag: &str, path: String) -> Result<Request, Error> {
        let (host, mut lines) = self.headers("--header", &self.flags.header)?;
        let own = &self.flags.subprotocol;
        let has_name = |line: &String, name: &str| line.to_ascii_lowercase().starts_with(name);
        if !own.is_empty() && self.flags.header.iter().any(|line| has_name(line, "sec-websocket-protocol:")) {
            return Err(Error::Options("--header: Sec-WebSocket-Protocol is that of --subprotocol".to_owned()));
        }
        let subprotocols = if own.is_empty() { self.preset.subprotocol.to_owned() } else { own.join(", ") };
        if !subprotocols.is_empty() {
            lines += &header_lines("--subprotocol", &[format!("Sec-WebSocket-Protocol: {subprotocols}")])?;
        }
        let path = Text::parse(&path).for_path(flag, &self.flags.topic)?;
        Ok(Request { host: host.unwrap_or_else(|| self.url.authority.clone()), path, lines })
    }

    /// Returns the value of the line `Host` among these, if there is one, and the other lines as they are sent.
    fn headers(&self, flag: &str, lines: &[String]) -> Result<(Option<String>, String), Error> {
        let name = |line: &String| line.split_once(':').map(|(name, _)| name.trim().to_ascii_lowercase());
        let own = if flag == "--header" { &OPENING_HEADERS[..] } else { &["Content-Length"] };
        if let Some(own) = own.iter().find(|own| lines.iter().any(|line| name(line) == Some(own.to_lowercase()))) {
            return Err(Error::Options(format!("{flag}: the generator sends {own} itself")));
        }
        let is_host = |line: &&String| name(line).as_deref() == Some("host");
        let host = lines.iter().find(is_host).and_then(|line| line.split_once(':'));
        let others: Vec<String> = lines.iter().filter(|line| !is_host(line)).cloned().collect();
        Ok((host.map(|(_, value)| value.trim().to_owned()), header_lines(flag, &others)?))
    }

    fn protocol(&self) -> Result<Protocol, Error> {
        let (flags, preset) = (self.flags, self.preset);
        let own = |flag: &Option<String>, usual: &str| {
            let text = flag.clone().unwrap_or_else(|| usual.to_owned());
            (!text.is_empty()).then(|| self.with_values(&text))
        };
        let listed = |flag: &str, own: &[String], usual: &[&str]| -> Result<Vec<Pattern>, Error> {
            let patterns = own.iter().map(String::as_str).chain(usual.iter().copied());
            patterns.map(|text| Pattern::of_flag(flag, &self.with_values(text))).collect()
        };
        let usual_hello = preset.hello.iter().map(|&step| step.to_owned()).collect();
        let hello: Vec<String> = if flags.hello.is_empty() { usual_hello } else { flags.hello.clone() };
        let subscribe = own(&flags.subscribe_message, preset.subscribe);
        let delivery = own(&flags.delivery, preset.delivery);
        let delivery = delivery.map(|text| Pattern::of_flag("--delivery", &text)).transpose()?;
        if delivery.as_ref().is_some_and(|pattern| !pattern.has_payload()) {
            return Err(Error::Options("--delivery: {payload} must stand in it".to_owned()));
        }
        let acknowledgement = own(&flags.acknowledgement, preset.acknowledgement);
        if let Some(text) = &acknowledgement {
            // Where the pattern is used, `{topic}` is a name.
            let checked = Pattern::parse(text, Some("bench"));
            checked.map_err(|error| Error::Options(format!("--acknowledgement: {error}")))?;
        }
        Ok(Protocol {
            packing: match flags.packing {
                None => preset.packing,
                Some(PackingFlag::Whole) => Packing::Whole,
                Some(PackingFlag::Lines) => Packing::Lines,
                Some(PackingFlag::Nats) => Packing::Nats,
            },
            hello: hello.iter().map(|step| Step::parse(&self.with_values(step))).collect::<Result<_, _>>()?,
            subscribe: subscribe.map(|text| Text::parse(&text).for_sending("--subscribe-message")).transpose()?,
            acknowledgement,
            delivery,
            replies: self.replies()?,
            ignored: listed("--ignore", &flags.ignore, preset.ignored)?,
            refusals: listed("--refusal", &flags.refusal, preset.refusals)?,
            publishers: if flags.publishers_receive { Publishers::ReceiveMessages } else { preset.publishers },
        })
    }

    fn replies(&self) -> Result<Vec<(Pattern, Text)>, Error> {
        let own = self.flags.reply.iter().map(|reply| match reply.split_once(" => ") {
            Some((pattern, text)) => Ok((pattern, text)),
            None => Err(Error::Options(format!("--reply {reply}: expected PATTERN => TEXT"))),
        });
        let usual = self.preset.replies.iter().copied().map(Ok);
        let replies = own.chain(usual).map(|reply| {
            let (pattern, text) = reply?;
            let text = Text::parse(&self.with_values(text)).for_sending("--reply")?;
            Ok((Pattern::of_flag("--reply", &self.with_values(pattern))?, text))
        });
        replies.collect()
    }

    fn publishing(&self, endpoint: &Endpoint, trust: Trust) -> Result<Publishing, Error> {
        let (flags, preset) = (self.flags, self.preset);
        let message = match (&flags.publish_http, &flags.publish_message, preset.publish) {
            (None, Some(text), _) => Some(&**text),
            (None, None, Publish::Message(text)) => Some(text),
            _ => None,
        };
        if let Some(text) = message {
            return self.publishing_by_message(text);
        }
        let (method, place) = match flags.publish_http.as_deref().map(|value| (value, value.split_once(' '))) {
            None => ("POST", None),
            Some((_, Some((method, place)))) => (method, Some(place)),
            Some((value, None)) => {
                return Err(Error::Options(format!("--publish-http {value}: expected METHOD PATH, or METHOD URL")));
            }
        };
        let (endpoint, host, path) = match place {
            Some(place) if place.contains("://") => {
                let url = Url::parse("--publish-http", place, ["http", "https"])?;
                let path = if url.path.is_empty() { "/".to_owned() } else { self.with_values(&url.path) };
                (self::endpoint(&url, trust)?, url.authority, path)
            }
            Some(path) if path.starts_with('/') => {
                (endpoint.clone(), self.url.authority.clone(), self.with_values(path))
            }
            Some(other) => {
                return Err(Error::Options(format!("--publish-http: {other} must begin with /, http:// or https://")));
            }
            None => {
                let path = self.path(&flags.publish_path, preset.publish_path, "")?;
                (endpoint.clone(), self.url.authority.clone(), path)
            }
        };
        let (content_type, body, signing) = match preset.publish {
            Publish::Post { content_type, body, signing } => (content_type, body, signing),
            Publish::Message(_) => ("text/plain", "{payload}", Signing::None),
        };
        let body = self.with_values(flags.publish_body.as_deref().unwrap_or(body));
        let (own_host, mut lines) = self.headers("--publish-header", &flags.publish_header)?;
        let host = own_host.unwrap_or(host);
        if !flags.publish_header.iter().any(|line| line.to_ascii_lowercase().starts_with("content-type:")) {
            lines += &format!("Content-Type: {content_type}\r\n");
        }
        Ok(Publishing::Post(Post {
            endpoint,
            host,
            method: method.to_owned(),
            path: Text::parse(&path).for_path("--publish-http", &flags.topic)?,
            lines,
            body: Text::parse(&body).for_publishing("--publish-body")?,
            signing: match signing {
                Signing::None => None,
                Signing::Pusher => Some(PusherKeys { key: self.value("key")?, secret: self.value("secret")? }),
            },
        }))
    }

    fn publishing_by_message(&self, text: &str) -> Result<Publishing, Error> {
        let query = self.flags.pub_query.clone().unwrap_or_else(|| self.preset.pub_query.to_owned());
        let request = self.request("--publish-path", self.path(&self.flags.publish_path, "", &query)?)?;
        let text = Text::parse(&self.with_values(text)).for_publishing("--publish-message")?;
        Ok(Publishing::Message { request, text })
    }

    fn value(&self, name: &str) -> Result<String, Error> {
        let found = self.values.iter().find(|(own, _)| own.trim_matches(['{', '}']) == name);
        let missing = || Error::Options(format!("this preset needs --set {name}=VALUE"));
        found.map(|(_, value)| value.clone()).ok_or_else(missing)
    }
}

fn endpoint(url: &Url, trust: Trust) -> Result<Endpoint, Error> {
    let tls = match url.scheme {
        Scheme::Plain => None,
        Scheme::Tls => Some(Settings::new(&url.host, trust)?),
    };
    Ok(Endpoint { address: url.address()?, tls })
}

/// The header lines of an opening request that the generator makes itself.
const OPENING_HEADERS: [&str; 4] = ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"];

/// Returns the lines as they are sent.
fn header_lines(flag: &str, lines: &[String]) -> Result<String, Error> {
    let mut text = String::new();
    for line in lines {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        match line.split_once(':') {
            Some((name, value)) if is_name(name) && !value.contains(['\r', '\n']) => {
                text += &format!("{name}: {}\r\n", value.trim());
            }
            // The line may hold a secret.
            _ => return Err(Error::Options(format!("{flag}: expected NAME: VALUE"))),
        }
    }
    Ok(text)
}

/// The end of each scenario's `--help`.
const PLACEHOLDERS: &str = r"Placeholders:
  In TEXT, PATTERN, paths and bodies these names stand for:
    {topic}       the topic's name
    {payload}     the generator's payload, --size bytes
    {size}        its length in bytes
    {id}          a number of ten digits that no other message of the connection has
    {connection}  the connection's index from 0
    {NAME}        the VALUE of --set NAME=VALUE
    {any}         in a PATTERN only: any bytes, or none
  A PATTERN must match the whole message. \r and \n stand for CR and LF.

Manual: docs/loadgen.md in the repository of ringhub";

/// The hub's own address and a topic. The preset of this URL alone is `ringhub`.
const DEFAULT_URL: &str = "ws://127.0.0.1:6455/t/bench";
